"""Faults that a workspace has its executions meet for a time."""

from __future__ import annotations

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
from agentflow.types import JSONObject

from ..faults import service
from ..faults.fields import BeginFaultsSerializer, FaultRuleSerializer
from ..faults.models import EndedBecause, FaultInjection
from .views import PAGE, ExecutionAPIView


class FaultInjectionSerializer(StrictSerializer):
    faults_id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    active = serializers.BooleanField()
    rules = FaultRuleSerializer(many=True)
    seed = serializers.CharField()
    counts = serializers.BooleanField()
    reason = serializers.CharField()
    started_at = serializers.DateTimeField()
    started_by = serializers.CharField(allow_null=True)
    ends_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    ended_by = serializers.CharField(allow_null=True)
    ended_because = serializers.ChoiceField(EndedBecause.choices, allow_null=True)


class FaultInjectionListSerializer(StrictSerializer):
    faults = FaultInjectionSerializer(many=True)
    total = serializers.IntegerField()


class WorkspaceFaultsView(ExecutionAPIView):
    @extend_schema(
        operation_id="workspaces_faults", parameters=PAGE, responses={200: FaultInjectionListSerializer}
    )
    def get(self, request: Request, workspace_id: UUID) -> Response:
        """List the faults that were injected in a workspace, the latest first."""
        self.workspace(workspace_id)
        rows = service.injections(self.user()).filter(workspace=workspace_id)
        found, total = paging.page(request).of(rows)
        on = set(service.active(rows).values_list("pk", flat=True))
        return Response({"faults": [_shown(each, on) for each in found], "total": total})

    @extend_schema(
        operation_id="workspaces_faults_begin",
        request=BeginFaultsSerializer,
        responses={201: FaultInjectionSerializer},
    )
    @idempotent
    def post(self, request: Request, workspace_id: UUID) -> Response:
        """Have the executions that are started from now on meet faults, for so many minutes.

        Not in a workspace that is marked as production.
        """
        self.workspace(workspace_id)
        body = BeginFaultsSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        made = service.begin(
            by=self.user(), workspace_id=workspace_id, wanted=service.Wanted(**body.validated_data)
        )
        return Response(_shown(made, {made.pk}), status=201)

    def workspace(self, workspace_id: UUID) -> None:
        if not access.workspaces(self.user()).filter(pk=workspace_id).exists():
            raise NotFound("There is no such workspace.", workspace_id=str(workspace_id))


class StopFaultsView(WorkspaceFaultsView):
    http_method_names = ("post", "options")

    @extend_schema(
        operation_id="workspaces_faults_stop", request=None, responses={200: FaultInjectionSerializer}
    )
    @idempotent
    def post(self, request: Request, workspace_id: UUID) -> Response:
        """End a workspace's faults before their time."""
        self.workspace(workspace_id)
        return Response(_shown(service.stop(by=self.user(), workspace_id=workspace_id), set()))


def _shown(each: FaultInjection, on: set[UUID]) -> JSONObject:
    return {
        "faultsId": each.pk,
        "workspaceId": each.workspace_id,
        "active": each.pk in on,
        "rules": each.rules,
        "seed": each.seed,
        "counts": each.counts,
        "reason": each.reason,
        "startedAt": each.started_at,
        "startedBy": each.started_by.get_username() if each.started_by else None,
        "endsAt": each.ends_at,
        "endedAt": each.ended_at,
        "endedBy": each.ended_by.get_username() if each.ended_by else None,
        "endedBecause": each.ended_because or None,
    }
