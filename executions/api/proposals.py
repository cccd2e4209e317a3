"""Proposals: changes that would mend what fails again and again, for a person to accept."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.api.paging import BadParameter
from agentflow.api.serializers import StrictSerializer
from agentflow.governance import access
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from templates_app import selectors as templates
from templates_app.models import Template

from ..learning import adapting, looking, reads
from ..learning.facts import ATTEMPTS, RUNS, Kind
from ..learning.states import ProposalState
from .serializers import JSONObjectField, SuccessSerializer
from .views import PAGE, ExecutionAPIView, _query

MOST_AT_ONCE = 50
KINDS = [kind.value for kind in Kind]
FILTERS = [
    _query(
        "state", str, "Any of these; repeated or with commas.", many=True, enum=list(ProposalState.values)
    ),
    _query("kind", str, "Any of these; repeated or with commas.", many=True, enum=KINDS),
]


class EvidenceSerializer(StrictSerializer):
    measure = serializers.ChoiceField([ATTEMPTS, RUNS], help_text="Of what `share` is a share.")
    codes = serializers.ListField(child=serializers.CharField(), help_text="Of the failures; none: any.")
    failures = serializers.IntegerField()
    of = serializers.IntegerField()
    share = serializers.FloatField()
    executions = serializers.ListField(child=serializers.UUIDField(), help_text="The latest of them.")
    executionCount = serializers.IntegerField()
    incidents = serializers.ListField(child=serializers.UUIDField())
    days = serializers.IntegerField(help_text="It was looked at executions of so many days,")
    runsAtMost = serializers.IntegerField(help_text="and at so many at most, the latest.")


class PredictedSerializer(StrictSerializer):
    share = serializers.FloatField(help_text="What the evidence's share would be.")
    because = serializers.CharField()


class ProposalSerializer(StrictSerializer):
    proposalId = serializers.UUIDField()
    workspaceId = serializers.UUIDField()
    templateId = serializers.UUIDField()
    templateName = serializers.CharField()
    baseVersion = serializers.IntegerField(help_text="The version that it changes.")
    blockId = serializers.CharField()
    kind = serializers.ChoiceField(KINDS)
    state = serializers.ChoiceField(ProposalState.choices)
    patch = JSONObjectField(help_text="A merge patch (RFC 7396) of the block.")
    evidence = EvidenceSerializer()
    predicted = PredictedSerializer()
    madeVersion = serializers.IntegerField(allow_null=True, help_text="The draft that has it.")
    decidedBy = serializers.CharField(allow_null=True)
    decidedAt = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    createdAt = serializers.DateTimeField()
    seenAt = serializers.DateTimeField(help_text="When its evidence was last looked at.")


class MeasuredSerializer(StrictSerializer):
    share = serializers.FloatField()
    failures = serializers.IntegerField()
    of = serializers.IntegerField()


class ProposalDetailSerializer(ProposalSerializer):
    before = JSONObjectField(help_text="The block as the base version has it.")
    after = JSONObjectField()
    measured = MeasuredSerializer(
        allow_null=True, help_text="The same share since the accepted version runs; null: nothing has run."
    )


class ProposalListSerializer(StrictSerializer):
    proposals = ProposalSerializer(many=True)
    total = serializers.IntegerField()


class AcceptProposalSerializer(StrictSerializer):
    reason = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=adapting.REASON_CHARS
    )


class DismissProposalSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=adapting.REASON_CHARS)


class AdaptSerializer(AcceptProposalSerializer):
    proposalIds = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        allow_empty=False,
        max_length=MOST_AT_ONCE,
        help_text="All that are open where none is named.",
    )


class AdaptedSerializer(StrictSerializer):
    success = serializers.BooleanField()
    templateId = serializers.UUIDField()
    versionNumber = serializers.IntegerField(help_text="Of the draft.")


class ProposalsView(ExecutionAPIView):
    @extend_schema(
        operation_id="proposals_list",
        parameters=[
            _query("workspaceId", UUID, "Only this workspace's."),
            _query("templateId", UUID, "Only this template's."),
            *FILTERS,
            *PAGE,
        ],
        responses={200: ProposalListSerializer},
    )
    def get(self, request: Request) -> Response:
        """List what is proposed to mend failures that come again, the newest first."""
        return _list(self, request, paging.uuid(request, "templateId"))


class TemplateProposalsView(ExecutionAPIView):
    @extend_schema(
        operation_id="template_proposals_list",
        parameters=[*FILTERS, *PAGE],
        responses={200: ProposalListSerializer},
    )
    def get(self, request: Request, template_id: UUID) -> Response:
        """List what is proposed for a template, the newest first."""
        templates.template(self.user(), template_id)
        return _list(self, request, template_id)

    @extend_schema(
        operation_id="template_proposals_look", request=StrictSerializer, responses={200: SuccessSerializer}
    )
    @idempotent
    def post(self, request: Request, template_id: UUID) -> Response:
        """Look through a template's failures now; the clock does so each hour in which something fails."""
        template = _authored(self, template_id)
        StrictSerializer(data=request.data).is_valid(raise_exception=True)
        looking.look(template.pk)
        return Response({"success": True})


class AdaptView(ExecutionAPIView):
    @extend_schema(
        operation_id="templates_adapt", request=AdaptSerializer, responses={200: AdaptedSerializer}
    )
    @idempotent
    def post(self, request: Request, template_id: UUID) -> Response:
        """Accept several proposals at once: one draft version has them all."""
        template = _authored(self, template_id)
        body = AdaptSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        version = adapting.adapt(
            template_id=template.pk,
            by=self.user(),
            proposal_ids=body.validated_data.get("proposalIds"),
            reason=body.validated_data["reason"],
        )
        return _adapted(template.pk, version.number)


class ProposalView(ExecutionAPIView):
    @extend_schema(operation_id="proposals_get", responses={200: ProposalDetailSerializer})
    def get(self, request: Request, proposal_id: UUID) -> Response:
        """Get a proposal: evidence, predicted effect, the change, and what came of it."""
        row = reads.find(self.user(), proposal_id)
        before, after = reads.change(row)
        told: JSONObject = {"before": before, "after": after, "measured": reads.measured(row)}
        return Response({**reads.proposal_as_json(row), **told})


class AcceptView(ExecutionAPIView):
    @extend_schema(
        operation_id="proposals_accept", request=AcceptProposalSerializer, responses={200: AdaptedSerializer}
    )
    @idempotent
    def post(self, request: Request, proposal_id: UUID) -> Response:
        """Make a draft version with this change.  It is published by a person."""
        row = reads.find(self.user(), proposal_id)
        access.require(self.user(), Permission.AUTHOR, row.workspace_id)
        body = AcceptProposalSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        version = adapting.accept(proposal_id=proposal_id, by=self.user(), **body.validated_data)
        return _adapted(row.template_id, version.number)


class DismissView(ExecutionAPIView):
    @extend_schema(
        operation_id="proposals_dismiss",
        request=DismissProposalSerializer,
        responses={200: SuccessSerializer},
    )
    @idempotent
    def post(self, request: Request, proposal_id: UUID) -> Response:
        """Leave the template as it is; the same is not proposed again for 30 days."""
        row = reads.find(self.user(), proposal_id)
        access.require(self.user(), Permission.AUTHOR, row.workspace_id)
        body = DismissProposalSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        adapting.dismiss(proposal_id=proposal_id, by=self.user(), **body.validated_data)
        return Response({"success": True})


def _authored(view: ExecutionAPIView, template_id: UUID) -> Template:
    template = templates.template(view.user(), template_id)
    access.require(view.user(), Permission.AUTHOR, template.workspace_id)
    return template


def _adapted(template_id: UUID, number: int) -> Response:
    return Response({"success": True, "templateId": template_id, "versionNumber": number})


def _list(view: ExecutionAPIView, request: Request, template_id: UUID | None) -> Response:
    chosen = reads.Filter(
        states=_some(request, "state", ProposalState.values),
        kinds=_some(request, "kind", KINDS),
        workspace_id=paging.uuid(request, "workspaceId"),
        template_id=template_id,
    )
    found, total = paging.page(request).of(reads.proposals(view.user(), chosen))
    return Response({"proposals": [reads.proposal_as_json(each) for each in found], "total": total})


def _some(request: Request, name: str, allowed: list[str]) -> list[str]:
    given = paging.texts(request, name)
    if any(each not in allowed for each in given):
        raise BadParameter(name, f"must be one of {', '.join(allowed)}.")
    return given
