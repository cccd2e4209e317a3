"""Whom a block would get, why an attempt got its agent, and what operators say about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.agents import meaning, selection
from agentflow.agents.matching import Requirements, Rule
from agentflow.agents.models import AgentPolicy, Effect, PolicyKind, ToolType
from agentflow.agents.selection import Purpose
from agentflow.agents.services import policing
from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.api.serializers import StrictSerializer
from agentflow.errors import InvalidInput, NotFound
from agentflow.governance import access
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from templates_app import selectors as templates

from ..engine.choosing import loads_of
from ..routing_rules import RECEIPTS_MAX, replay
from .serializers import AnyJSONField
from .views import ExecutionAPIView

_OPTIONAL: dict[str, Any] = {"required": False, "allow_null": True, "default": None}
_KEY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)


class RequirementsSerializer(StrictSerializer):
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=200), required=False, default=list, max_length=50
    )
    exact = serializers.BooleanField(
        required=False, default=False, help_text="Capabilities by name alone, as blocks ask for them."
    )
    text = serializers.CharField(required=False, default="", allow_blank=True, max_length=2000)
    tool_type = serializers.ChoiceField(choices=ToolType.choices, **_OPTIONAL)
    input_schema = serializers.DictField(**_OPTIONAL)
    output_schema = serializers.DictField(**_OPTIONAL)
    max_cost = serializers.FloatField(min_value=0, **_OPTIONAL)
    max_latency_ms = serializers.FloatField(min_value=0, **_OPTIONAL)
    environment = serializers.CharField(required=False, default="", allow_blank=True, max_length=100)
    effect = serializers.ChoiceField(choices=Effect.choices, help_text="The riskiest allowed.", **_OPTIONAL)


class MatchSerializer(StrictSerializer):
    requirements = RequirementsSerializer()
    template_id = serializers.UUIDField(help_text="For its policies.", **_OPTIONAL)
    block_id = serializers.CharField(required=False, default="", allow_blank=True, max_length=200)
    workspace_id = serializers.UUIDField(help_text="Needed by members of several workspaces.", **_OPTIONAL)


class CandidateSerializer(StrictSerializer):
    agent_id = serializers.CharField()
    score = serializers.FloatField()
    expected_wait_seconds = serializers.FloatField()
    parts = AnyJSONField(help_text="What the score is made of, each from 0 to 1.")
    seen = AnyJSONField(help_text="What the parts were computed from.")


class FilteredOutSerializer(StrictSerializer):
    agent_id = serializers.CharField()
    reason = serializers.CharField()


class RankingSerializer(StrictSerializer):
    candidates = CandidateSerializer(many=True)
    candidates_total = serializers.IntegerField()
    filtered_out = FilteredOutSerializer(many=True)
    filtered_out_by_reason = serializers.DictField(child=serializers.IntegerField())
    rule = AnyJSONField()


class MatchedSerializer(StrictSerializer):
    ranking = RankingSerializer()


class RecommendSerializer(StrictSerializer):
    goal = serializers.CharField(required=False, default="", allow_blank=True, max_length=2000)
    template_id = serializers.UUIDField(**_OPTIONAL)
    version_number = serializers.IntegerField(min_value=1, **_OPTIONAL)
    block_id = serializers.CharField(required=False, default="", allow_blank=True, max_length=200)
    workspace_id = serializers.UUIDField(help_text="Needed by members of several workspaces.", **_OPTIONAL)


class RecommendationSerializer(StrictSerializer):
    block_id = serializers.CharField(allow_null=True)
    agent_id = serializers.CharField(allow_null=True, help_text="As the block names it.")
    requirements = AnyJSONField()
    ranking = RankingSerializer()


class RecommendedSerializer(StrictSerializer):
    recommendations = RecommendationSerializer(many=True)


class RuleSerializer(StrictSerializer):
    """Weights of the score's parts; what is not given stays as it is."""

    capability = serializers.FloatField(min_value=0, max_value=100, required=False)
    success = serializers.FloatField(min_value=0, max_value=100, required=False)
    latency = serializers.FloatField(min_value=0, max_value=100, required=False)
    cost = serializers.FloatField(min_value=0, max_value=100, required=False)
    load = serializers.FloatField(min_value=0, max_value=100, required=False)
    prior_successes = serializers.FloatField(min_value=0.01, max_value=10_000, required=False)
    prior_failures = serializers.FloatField(min_value=0.01, max_value=10_000, required=False)
    half_open = serializers.FloatField(min_value=0, max_value=1, required=False)
    prefer = serializers.FloatField(min_value=0, max_value=100, required=False)


class ReplaySerializer(StrictSerializer):
    rule = RuleSerializer()
    execution_id = serializers.UUIDField(help_text="Only its receipts.", **_OPTIONAL)
    limit = serializers.IntegerField(
        min_value=1, max_value=RECEIPTS_MAX, required=False, default=RECEIPTS_MAX
    )
    workspace_id = serializers.UUIDField(help_text="Needed by members of several workspaces.", **_OPTIONAL)


class ReplayChangeSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    block_id = serializers.CharField()
    attempt = serializers.IntegerField()
    chosen = serializers.CharField()
    would_choose = serializers.CharField(allow_null=True)


class ReplayedSerializer(StrictSerializer):
    receipts = serializers.IntegerField(help_text="How many were looked at.")
    changed = serializers.IntegerField()
    changes = ReplayChangeSerializer(many=True)
    rule = AnyJSONField()


class NewPolicySerializer(StrictSerializer):
    kind = serializers.ChoiceField(choices=PolicyKind.choices)
    agent_id = serializers.CharField(max_length=200)
    template_id = serializers.UUIDField(help_text="Only for it.", **_OPTIONAL)
    block_id = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=200, help_text="Only for this block of it."
    )
    reason = serializers.CharField(required=False, default="", allow_blank=True, max_length=500)
    workspace_id = serializers.UUIDField(help_text="Needed by members of several workspaces.", **_OPTIONAL)


class PolicySerializer(StrictSerializer):
    policy_id = serializers.UUIDField(source="pk")
    kind = serializers.ChoiceField(choices=PolicyKind.choices)
    agent_id = serializers.CharField(source="agent.agent_id")
    template_id = serializers.UUIDField(allow_null=True)
    block_id = serializers.CharField()
    reason = serializers.CharField()
    workspace_id = serializers.UUIDField()
    created_at = serializers.DateTimeField()


class PolicyListSerializer(StrictSerializer):
    policies = PolicySerializer(many=True)
    total = serializers.IntegerField()


class RemovedSerializer(StrictSerializer):
    success = serializers.BooleanField()


class _View(ExecutionAPIView):
    def validated(self, kind: type[StrictSerializer]) -> dict[str, Any]:
        body = kind(data=self.request.data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)


def _ranking(workspace_id: UUID, asked: Requirements, purpose: Purpose | None = None) -> JSONObject:
    lexical = selection.lexical_fit(workspace_id, asked.text) if asked.text else None
    choice = selection.choose(
        workspace_id,
        asked,
        purpose=purpose or Purpose(),
        load=loads_of(workspace_id),
        lexical=lexical,
        meaning=meaning.fit(workspace_id, asked.text) if asked.text else None,
    )
    return choice.ranking.as_json()


class MatchView(_View):
    @extend_schema(operation_id="agents_match", request=MatchSerializer, responses={200: MatchedSerializer})
    def post(self, request: Request) -> Response:
        """Rank the agents of a workspace for what is asked, and say who is left out and why."""
        body = self.validated(MatchSerializer)
        workspace_id = access.chosen(self.user(), Permission.VIEW, body["workspace_id"])
        given: dict[str, Any] = dict(body["requirements"])
        asked = Requirements(**{**given, "capabilities": tuple(given["capabilities"])})
        purpose = Purpose(body["template_id"], body["block_id"])
        return Response({"ranking": _ranking(workspace_id, asked, purpose)})


class RecommendView(_View):
    @extend_schema(
        operation_id="agents_recommend", request=RecommendSerializer, responses={200: RecommendedSerializer}
    )
    def post(self, request: Request) -> Response:
        """Rank agents for a goal in words, or for a block of a template, or for all its blocks."""
        body = self.validated(RecommendSerializer)
        if body["template_id"] is not None:
            return Response({"recommendations": self._for_template(body)})
        if not body["goal"].strip():
            raise InvalidInput(
                "Give a goal, or a templateId.", pointer="/goal", remedy="Say in words what is to be done."
            )
        workspace_id = access.chosen(self.user(), Permission.VIEW, body["workspace_id"])
        asked = Requirements(text=body["goal"])
        found = {
            "blockId": None,
            "agentId": None,
            "requirements": asked.as_json(),
            "ranking": _ranking(workspace_id, asked),
        }
        return Response({"recommendations": [found]})

    def _for_template(self, body: dict[str, Any]) -> list[JSONObject]:
        template = templates.template(self.user(), body["template_id"])
        version = templates.version(template, body["version_number"])
        found = []
        for block in parse(version.definition).blocks:
            if body["block_id"] not in ("", block.block_id) or not (block.agent_id or block.capabilities):
                continue
            capabilities = block.capabilities
            if not capabilities and block.agent_id:
                named = selection.candidate(template.workspace_id, block.agent_id)
                capabilities = tuple(named.skills) if named is not None else ()
            asked = Requirements(capabilities=capabilities, tool_type=block.tool_type, effect=block.effect)
            if not capabilities:
                asked = replace(asked, text=" ".join(filter(None, (block.name, block.description))))
            if not capabilities and not asked.text:
                continue
            purpose = Purpose(template.pk, block.block_id)
            found.append(
                {
                    "blockId": block.block_id,
                    "agentId": block.agent_id,
                    "requirements": asked.as_json(),
                    "ranking": _ranking(template.workspace_id, asked, purpose),
                }
            )
            if len(found) >= 50:
                break
        if body["block_id"] and not found:
            raise NotFound("The version has no such block that calls an agent.", block_id=body["block_id"])
        return found


class ReplayView(_View):
    @extend_schema(
        operation_id="agents_receipts_replay", request=ReplaySerializer, responses={200: ReplayedSerializer}
    )
    def post(self, request: Request) -> Response:
        """See what other weights would have chosen, from stored receipts; nothing is changed."""
        body = self.validated(ReplaySerializer)
        workspace_id = access.chosen(self.user(), Permission.VIEW, body["workspace_id"])
        rule = replace(Rule(), version="replay", **body["rule"])
        found = replay(
            self.user(),
            workspace_id=workspace_id,
            rule=rule,
            execution_id=body["execution_id"],
            limit=body["limit"],
        )
        return Response(found)


class PoliciesView(_View):
    @extend_schema(
        operation_id="agents_policies_list",
        parameters=[
            OpenApiParameter("workspaceId", UUID),
            OpenApiParameter("limit", int),
            OpenApiParameter("offset", int),
        ],
        responses={200: PolicyListSerializer},
    )
    def get(self, request: Request) -> Response:
        """List what was said about choosing agents."""
        rows = AgentPolicy.objects.visible_to(self.user()).select_related("agent")
        workspace_id = paging.uuid(request, "workspaceId")
        if workspace_id:
            rows = rows.filter(workspace_id=workspace_id)
        found, total = paging.page(request).of(rows.order_by("-created_at", "pk"))
        return Response({"policies": PolicySerializer(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="agents_policies_set",
        parameters=[_KEY],
        request=NewPolicySerializer,
        responses={201: PolicySerializer},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Pin, ban or prefer an agent; for the same purpose it replaces what was said before."""
        body = self.validated(NewPolicySerializer)
        workspace_id = access.chosen(self.user(), Permission.MANAGE_AGENTS, body.pop("workspace_id"))
        if body["block_id"] and body["template_id"] is None:
            raise InvalidInput(
                "blockId goes with templateId.", pointer="/templateId", remedy="Name the block's template."
            )
        if body["template_id"] is not None:
            template = templates.template(self.user(), body["template_id"])
            if template.workspace_id != workspace_id:
                raise NotFound("There is no such template.", template_id=str(template.pk))
        policy = policing.set_policy(by=self.user(), workspace_id=workspace_id, **body)
        return Response(PolicySerializer(policy).data, status=201)


class PolicyView(_View):
    @extend_schema(operation_id="agents_policies_remove", responses={200: RemovedSerializer})
    def delete(self, request: Request, policy_id: UUID) -> Response:
        """Take back what was said."""
        policing.remove_policy(by=self.user(), pk=policy_id)
        return Response({"success": True})
