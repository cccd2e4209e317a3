"""Bodies and answers about repairs of incidents."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer
from agentflow.conf import LIMITS

from ..incidents.fixes import ACTIONS, COMPLETE, MOVE, RETRY
from ..incidents.states import ItemState, RepairState
from ..states import BlockStatus, ExecutionStatus
from .serializers import REASON_CHARS, AnyJSONField, JSONObjectField

WIRE = {"agent_id": "agentId", "configuration": "configuration", "input": "input"}  # what changes a retry


class FixSerializer(StrictSerializer):
    """What is done to each block.  `agentId`, `configuration` and `input` change how a retry calls it."""

    action = serializers.ChoiceField(choices=ACTIONS)
    agent_id = serializers.CharField(
        required=False, max_length=LIMITS.block_id_chars, help_text="Another agent in its place."
    )
    configuration = JSONObjectField(
        required=False, help_text="Laid over the block's, name by name; null takes a name away."
    )
    input = AnyJSONField(required=False, help_text="In place of the block's `input`, expressions and all.")
    output = AnyJSONField(required=False, help_text="Of `complete`: what the block is said to have given.")
    template_version = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=2**31 - 1,
        help_text="Of `move`: the published version with which the executions go on.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        changes = [wire for name, wire in WIRE.items() if name in attrs]
        if changes and attrs["action"] != RETRY:
            raise serializers.ValidationError(
                {changes[0]: ["Only a retry is changed."]}, code="not_with_action"
            )
        if ("output" in attrs) != (attrs["action"] == COMPLETE):
            raise serializers.ValidationError(
                {"output": ["Needed by complete, and by nothing else."]}, code="not_with_action"
            )
        if ("template_version" in attrs) != (attrs["action"] == MOVE):
            raise serializers.ValidationError(
                {"templateVersion": ["Needed by move, and by nothing else."]}, code="not_with_action"
            )
        return attrs


class RepairPlanRequestSerializer(StrictSerializer):
    fix = FixSerializer()


class RepairRequestSerializer(RepairPlanRequestSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)
    canary = serializers.BooleanField(
        required=False, default=True, help_text="One block first; the rest once that one is mended."
    )


class MoveSerializer(StrictSerializer):
    kept = serializers.ListField(child=serializers.CharField(), help_text="Settled, and reused.")
    reruns = serializers.ListField(child=serializers.CharField(), help_text="Run, or run again.")


class DifferenceSerializer(StrictSerializer):
    changed = serializers.ListField(child=serializers.CharField(), help_text="In both, but not alike.")
    gone = serializers.ListField(child=serializers.CharField())
    added = serializers.ListField(child=serializers.CharField())


class ForeseenSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    block_execution_id = serializers.CharField()
    status = serializers.ChoiceField(choices=BlockStatus.choices)
    does = serializers.CharField(help_text="tried_again, restarted, skipped, completed, moved or nothing")
    code = serializers.CharField(help_text="What stands against it; empty: nothing.")
    message = serializers.CharField()
    once_effect_repeated = serializers.BooleanField(
        help_text="What must happen once may have happened, and would be asked for again."
    )
    move = MoveSerializer(allow_null=True, help_text="Of an execution that would be moved.")


class RepairPlanSerializer(StrictSerializer):
    total = serializers.IntegerField()
    does = serializers.DictField(child=serializers.IntegerField())
    refused = serializers.DictField(child=serializers.IntegerField(), help_text="By code.")
    once_effects_repeated = serializers.IntegerField()
    difference = DifferenceSerializer(allow_null=True, help_text="Of a move: blockIds of the two versions.")
    blocks = ForeseenSerializer(many=True)


class RepairProgressSerializer(StrictSerializer):
    pending = serializers.IntegerField()
    refused = serializers.IntegerField()
    applied = serializers.IntegerField()
    mended = serializers.IntegerField()
    failed_again = serializers.IntegerField()
    under_way = serializers.IntegerField()


class RepairRunSerializer(StrictSerializer):
    repair_id = serializers.UUIDField()
    incident_id = serializers.UUIDField()
    fix = JSONObjectField()
    state = serializers.ChoiceField(choices=RepairState.choices)
    said = serializers.CharField(help_text="Why it failed or was stopped.")
    reason = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    progress = RepairProgressSerializer()


class RepairListSerializer(StrictSerializer):
    repairs = RepairRunSerializer(many=True)
    total = serializers.IntegerField()


class RepairItemSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    execution_status = serializers.ChoiceField(choices=ExecutionStatus.choices)
    block_execution_id = serializers.CharField()
    state = serializers.ChoiceField(choices=ItemState.choices)
    first = serializers.BooleanField(help_text="The one that is tried first.")
    code = serializers.CharField()
    message = serializers.CharField()
    moved_to = serializers.UUIDField(allow_null=True, help_text="The execution that goes on in its place.")
    at = serializers.DateTimeField(allow_null=True)


class RepairItemListSerializer(StrictSerializer):
    items = RepairItemSerializer(many=True)
    total = serializers.IntegerField()
