"""What a workspace says about failures: the rules for their kind, and what is tried after them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.api.serializers import StrictSerializer
from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from ..recovery import policing
from ..recovery.rule_models import KINDS, FailureRule, RecoveryPolicy
from ..recovery.rules import MAX_RULES
from .serializers import JSONObjectField, SuccessSerializer
from .views import PAGE, ExecutionAPIView, _query

PLACE_MAX = 1_000_000
WORKSPACE = _query("workspaceId", UUID, "Only this workspace's.")


# -- in ------------------------------------------------------------------------


class ChangeRuleSerializer(StrictSerializer):
    name = serializers.CharField(required=False, max_length=100)
    place = serializers.IntegerField(
        required=False, min_value=0, max_value=PLACE_MAX, help_text="Lower is tried first; without: last."
    )
    condition = serializers.CharField(
        required=False, help_text="CEL over `failure`, `block`, `template` and `agent`."
    )
    kind = serializers.ChoiceField(choices=KINDS, required=False, help_text="Of failures for which it holds.")
    code = serializers.CharField(
        required=False, allow_blank=True, max_length=60, help_text="Of these; empty: as it was."
    )
    enabled = serializers.BooleanField(required=False)


class NewRuleSerializer(ChangeRuleSerializer):
    workspace_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    name = serializers.CharField(max_length=100)
    condition = serializers.CharField(help_text="CEL over `failure`, `block`, `template` and `agent`.")
    kind = serializers.ChoiceField(choices=KINDS, help_text="Of failures for which it holds.")


class OrderSerializer(StrictSerializer):
    workspace_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    rules = serializers.ListField(
        child=serializers.UUIDField(),
        max_length=MAX_RULES,
        help_text="All of the workspace's, the first first.",
    )


class SetPolicySerializer(StrictSerializer):
    policy = JSONObjectField(help_text="As `recovery` of a template.")


# -- out -----------------------------------------------------------------------


class RuleSerializer(StrictSerializer):
    rule_id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    name = serializers.CharField()
    place = serializers.IntegerField()
    condition = serializers.CharField()
    kind = serializers.ChoiceField(choices=KINDS)
    code = serializers.CharField()
    enabled = serializers.BooleanField()
    error = serializers.CharField(help_text="Why it could not be computed and was passed over.")
    error_at = serializers.DateTimeField(allow_null=True)
    shadowed_by = serializers.CharField(
        allow_null=True, help_text="An earlier rule that takes some of its failures and says otherwise."
    )
    created_by = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()


class RuleListSerializer(StrictSerializer):
    rules = RuleSerializer(many=True)
    total = serializers.IntegerField()


class RecoveryPolicySerializer(StrictSerializer):
    workspace_id = serializers.UUIDField()
    policy = JSONObjectField()
    changed_by = serializers.CharField(allow_null=True)
    changed_at = serializers.DateTimeField()


class RecoveryPolicyListSerializer(StrictSerializer):
    policies = RecoveryPolicySerializer(many=True)
    total = serializers.IntegerField()


# -- rules ---------------------------------------------------------------------


class FailureRulesView(ExecutionAPIView):
    @extend_schema(
        operation_id="failure_rules_list",
        parameters=[WORKSPACE, *PAGE],
        responses={200: RuleListSerializer},
    )
    def get(self, request: Request) -> Response:
        """List the rules for failures, in the order in which they are tried."""
        rows = policing.rules(self.user())
        workspace_id = paging.uuid(request, "workspaceId")
        if workspace_id is not None:
            rows = rows.filter(workspace=workspace_id)
        found, total = paging.page(request).of(rows)
        return Response({"rules": _rules(found), "total": total})

    @extend_schema(
        operation_id="failure_rules_add", request=NewRuleSerializer, responses={201: RuleSerializer}
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Add a rule, behind the others unless `place` says where."""
        body = NewRuleSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = dict(body.validated_data)
        workspace_id = access.chosen(self.user(), Permission.ADMINISTER, given.pop("workspace_id"))
        rule = FailureRule(workspace_id=workspace_id, **given)
        policing.save_rule(by=self.user(), rule=rule, last="place" not in given)
        return Response(_rules([rule])[0], status=201)


class FailureRuleView(ExecutionAPIView):
    @extend_schema(operation_id="failure_rules_get", responses={200: RuleSerializer})
    def get(self, request: Request, rule_id: UUID) -> Response:
        """Get a rule, and whether it works."""
        return Response(_rules([policing.find_rule(self.user(), rule_id)])[0])

    @extend_schema(
        operation_id="failure_rules_change", request=ChangeRuleSerializer, responses={200: RuleSerializer}
    )
    def patch(self, request: Request, rule_id: UUID) -> Response:
        """Change a rule; what is not named stays."""
        rule = policing.find_rule(self.user(), rule_id)
        body = ChangeRuleSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        for name, value in body.validated_data.items():
            setattr(rule, name, value)
        policing.save_rule(by=self.user(), rule=rule)
        return Response(_rules([rule])[0])

    @extend_schema(operation_id="failure_rules_remove", responses={200: SuccessSerializer})
    def delete(self, request: Request, rule_id: UUID) -> Response:
        """Remove a rule."""
        policing.remove_rule(by=self.user(), rule=policing.find_rule(self.user(), rule_id))
        return Response({"success": True})


class FailureRuleOrderView(ExecutionAPIView):
    @extend_schema(
        operation_id="failure_rules_order", request=OrderSerializer, responses={200: SuccessSerializer}
    )
    def put(self, request: Request) -> Response:
        """Let the rules of a workspace be tried in this order."""
        body = OrderSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        workspace_id = access.chosen(self.user(), Permission.ADMINISTER, given["workspace_id"])
        policing.order_rules(by=self.user(), workspace_id=workspace_id, order=given["rules"])
        return Response({"success": True})


# -- policies ------------------------------------------------------------------


class RecoveryPoliciesView(ExecutionAPIView):
    @extend_schema(
        operation_id="recovery_policies_list", parameters=PAGE, responses={200: RecoveryPolicyListSerializer}
    )
    def get(self, request: Request) -> Response:
        """List what workspaces say about what is tried after failures."""
        found, total = paging.page(request).of(policing.policies(self.user()))
        return Response({"policies": [_policy(each) for each in found], "total": total})


class RecoveryPolicyView(ExecutionAPIView):
    @extend_schema(operation_id="recovery_policies_get", responses={200: RecoveryPolicySerializer})
    def get(self, request: Request, workspace_id: UUID) -> Response:
        """Get a workspace's policy; `not_found` where it has none."""
        access.require(self.user(), Permission.VIEW, workspace_id)
        found = policing.policies(self.user()).filter(workspace=workspace_id).first()
        if found is None:
            raise NotFound("The workspace has no policy.", workspace_id=str(workspace_id))
        return Response(_policy(found))

    @extend_schema(
        operation_id="recovery_policies_set",
        request=SetPolicySerializer,
        responses={200: RecoveryPolicySerializer},
    )
    def put(self, request: Request, workspace_id: UUID) -> Response:
        """Say what is tried after failures where neither block nor template say anything."""
        access.require(self.user(), Permission.ADMINISTER, workspace_id)
        body = SetPolicySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        policy = body.validated_data["policy"]
        found = policing.set_policy(by=self.user(), workspace_id=workspace_id, policy=policy)
        return Response(_policy(found))

    @extend_schema(operation_id="recovery_policies_remove", responses={200: SuccessSerializer})
    def delete(self, request: Request, workspace_id: UUID) -> Response:
        """Take a workspace's policy away."""
        policing.remove_policy(by=self.user(), workspace_id=workspace_id)
        return Response({"success": True})


def _rules(rows: list[FailureRule]) -> list[JSONObject]:
    shadows = policing.shadowed(rows)
    return [
        {
            "ruleId": rule.pk,
            "workspaceId": rule.workspace_id,
            "name": rule.name,
            "place": rule.place,
            "condition": rule.condition,
            "kind": rule.kind,
            "code": rule.code,
            "enabled": rule.enabled,
            "error": rule.error,
            "errorAt": rule.error_at,
            "shadowedBy": shadows.get(rule.pk),
            "createdBy": rule.created_by.get_username() if rule.created_by else None,
            "createdAt": rule.created_at,
        }
        for rule in rows
    ]


def _policy(policy: RecoveryPolicy) -> JSONObject:
    return {
        "workspaceId": policy.workspace_id,
        "policy": policy.policy,
        "changedBy": policy.changed_by.get_username() if policy.changed_by else None,
        "changedAt": policy.changed_at,
    }
