"""The self-healing flow of an execution."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.serializers import StrictSerializer

from ..recovery import timeline
from .views import PAGE, ExecutionAPIView, _query


class FlowErrorSerializer(StrictSerializer):
    code = serializers.CharField()
    message = serializers.CharField()
    agentId = serializers.CharField(allow_null=True)


class FlowClassificationSerializer(StrictSerializer):
    kind = serializers.CharField()
    cause = serializers.CharField(help_text="Which ladder was taken.")
    outcomeUnknown = serializers.BooleanField()
    rule = serializers.CharField(allow_null=True, help_text="The workspace's rule that said so.")


class FlowAlternativeSerializer(StrictSerializer):
    agentId = serializers.CharField()
    chosen = serializers.BooleanField()
    why = serializers.CharField(allow_null=True, help_text="Why it could not be.")


class FlowRestoredSerializer(StrictSerializer):
    of = serializers.ChoiceField(["block", "execution"])
    recoveryPointId = serializers.IntegerField(allow_null=True)


class FlowPassedSerializer(StrictSerializer):
    strategy = serializers.CharField()
    why = serializers.CharField()


class FlowTriedSerializer(StrictSerializer):
    tries = serializers.IntegerField()
    recovered = serializers.IntegerField()
    meanSeconds = serializers.FloatField()


class FlowLearnedSerializer(StrictSerializer):
    scope = serializers.ChoiceField(["template", "workspace"], help_text="Whose failures it is from.")
    cause = serializers.CharField()
    code = serializers.CharField(required=False, help_text="Absent: all failures of the cause.")
    written = serializers.ListField(child=serializers.CharField())
    order = serializers.ListField(child=serializers.CharField())
    results = serializers.DictField(child=FlowTriedSerializer())


class FlowStrategySerializer(StrictSerializer):
    name = serializers.CharField()
    agentId = serializers.CharField(allow_null=True)
    afterSeconds = serializers.FloatField(allow_null=True)
    passed = FlowPassedSerializer(many=True)
    learned = FlowLearnedSerializer(
        allow_null=True, help_text="Why the rungs were not tried in the order that is written."
    )


class FlowResultSerializer(StrictSerializer):
    status = serializers.ChoiceField(
        ["recovered", "failed_again", "waiting", "by_hand", "ended", "restarted"]
    )
    attempt = serializers.IntegerField(allow_null=True)
    blockStatus = serializers.CharField()


class FlowEntrySerializer(StrictSerializer):
    at = serializers.DateTimeField()
    blockId = serializers.CharField()
    item = serializers.IntegerField(allow_null=True)
    epoch = serializers.IntegerField()
    attempt = serializers.IntegerField()
    injected = serializers.CharField(allow_null=True, help_text="The fault that it met on purpose.")
    error = FlowErrorSerializer()
    classification = FlowClassificationSerializer()
    alternatives = FlowAlternativeSerializer(many=True)
    restoredState = FlowRestoredSerializer(allow_null=True)
    strategy = FlowStrategySerializer()
    result = FlowResultSerializer()
    incidentId = serializers.UUIDField(allow_null=True)


class FlowSerializer(StrictSerializer):
    recovery = FlowEntrySerializer(many=True)
    total = serializers.IntegerField()


class RecoveryView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_recovery",
        parameters=[_query("blockId", str, "Only this block's failures."), *PAGE],
        responses={200: FlowSerializer},
    )
    def get(self, request: Request, execution_id: UUID) -> Response:
        """List what failed in an execution and what was done about it, the oldest first."""
        execution = self.execution(execution_id)
        rows = timeline.decided(execution, request.query_params.get("blockId"))
        found, total = paging.page(request).of(rows)
        return Response({"recovery": timeline.entries(found), "total": total})
