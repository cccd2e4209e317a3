"""What was learned from failures: what strategies came to."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.serializers import StrictSerializer

from ..learning import reads
from ..learning.counting import KEPT_WEEKS
from ..recovery.decision import Cause, Strategy
from ..recovery.experience import WEEKS
from .views import PAGE, ExecutionAPIView, _query


class StrategyResultSerializer(StrictSerializer):
    workspaceId = serializers.UUIDField()
    templateId = serializers.UUIDField(allow_null=True, help_text="null: all of the workspace together.")
    cause = serializers.ChoiceField([str(cause) for cause in Cause], help_text="Which ladder was taken.")
    code = serializers.CharField(help_text="`other`: codes beyond those that are told apart.")
    strategy = serializers.ChoiceField([str(strategy) for strategy in Strategy])
    taken = serializers.IntegerField(help_text="How often it was decided.")
    tries = serializers.IntegerField(help_text="Of these, those whose next attempt has ended.")
    recovered = serializers.IntegerField(help_text="Of these, those that ended well.")
    successRate = serializers.FloatField(allow_null=True)
    meanSeconds = serializers.FloatField(
        allow_null=True, help_text="From the failure to the end of the next attempt."
    )


class StrategyResultListSerializer(StrictSerializer):
    strategies = StrategyResultSerializer(many=True)
    total = serializers.IntegerField()


class StrategiesView(ExecutionAPIView):
    @extend_schema(
        operation_id="recovery_strategies",
        parameters=[
            _query("workspaceId", UUID, "Only this workspace's."),
            _query("templateId", UUID, "Of this template; without it, of all templates together."),
            _query("cause", str, "Only these failures.", enum=[str(cause) for cause in Cause]),
            _query("code", str, "Only failures with this code."),
            _query("weeks", int, f"1 to {KEPT_WEEKS}, this one among them; {WEEKS} where none is given."),
            *PAGE,
        ],
        responses={200: StrategyResultListSerializer},
    )
    def get(self, request: Request) -> Response:
        """Say how often each strategy of recovery was taken, and how often it helped."""
        rows = reads.strategies(
            self.user(),
            weeks=paging.number(request, "weeks", default=WEEKS, low=1, high=KEPT_WEEKS),
            workspace_id=paging.uuid(request, "workspaceId"),
            template_id=paging.uuid(request, "templateId"),
            cause=paging.choice(request, "cause", [str(cause) for cause in Cause]),
            code=paging.text(request, "code"),
        )
        found, total = paging.page(request).of(rows)
        return Response({"strategies": [reads.strategy_as_json(row) for row in found], "total": total})
