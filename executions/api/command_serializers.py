"""Bodies of the commands on executions and their blocks, and the shapes of the answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer
from agentflow.conf import LIMITS

from ..engine.points import NAME_CHARS
from ..services.batch import BATCH_MAX, Command
from ..states import ExecutionStatus
from .serializers import (
    BUSINESS_KEY_CHARS,
    REASON_CHARS,
    AnyJSONField,
    JSONObjectField,
    RecoveryPointSerializer,
    SimulationSerializer,
)

PLAN_ID_CHARS = 64


class RestartPlanRequestSerializer(StrictSerializer):
    from_block = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        trim_whitespace=False,
        max_length=LIMITS.block_id_chars,
        help_text="This block and all behind it run again; without, what failed or was cancelled.",
    )
    reset_state = serializers.BooleanField(
        required=False, default=False, help_text="Everything runs again, and every effect gets a new key."
    )
    recovery_point_id = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        help_text="Everything but what had settled at this recovery point runs again.",
    )
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)


class RestartSerializer(RestartPlanRequestSerializer):
    plan_id = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=PLAN_ID_CHARS,
        help_text="Of a restart-plan: refused when the execution has moved since.",
    )


class RestoreSerializer(StrictSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)
    plan_id = serializers.CharField(
        required=False, allow_null=True, default=None, max_length=PLAN_ID_CHARS, help_text="As of a restart."
    )


class MarkSerializer(StrictSerializer):
    name = serializers.CharField(required=False, allow_blank=True, default="", max_length=NAME_CHARS)


class RecoveryPointListSerializer(StrictSerializer):
    recovery_points = RecoveryPointSerializer(many=True)
    total = serializers.IntegerField()


class ForkSerializer(StrictSerializer):
    recovery_point_id = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, help_text="Without, the moment is now."
    )
    from_block = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        trim_whitespace=False,
        max_length=LIMITS.block_id_chars,
        help_text="This block and all behind it run again, too.",
    )
    input = JSONObjectField(required=False, help_text="In place of the input; without, it stays.")
    outputs = serializers.DictField(
        child=AnyJSONField(), required=False, help_text="In place of what carried blocks gave, by blockId."
    )
    simulation = SimulationSerializer(
        required=False, allow_null=True, default=None, help_text="A fork of a simulated execution always is."
    )
    business_key = serializers.CharField(
        required=False, allow_null=True, default=None, max_length=BUSINESS_KEY_CHARS
    )
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)


class EditContextSerializer(StrictSerializer):
    outputs = serializers.DictField(
        child=AnyJSONField(), allow_empty=False, help_text="What later blocks see instead, by blockId."
    )
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)


class RestartedSerializer(StrictSerializer):
    success = serializers.BooleanField()
    epoch = serializers.IntegerField()


class RestartApprovalsSerializer(StrictSerializer):
    survive = serializers.ListField(child=serializers.CharField(), help_text="Decided; not asked again.")
    asked_again = serializers.ListField(child=serializers.CharField())


class RepeatedEffectSerializer(StrictSerializer):
    block_id = serializers.CharField()
    outcome = serializers.ChoiceField(choices=["happened", "unknown"])


class RestartPlanSerializer(StrictSerializer):
    plan_id = serializers.CharField()
    epoch = serializers.IntegerField(help_text="The one that the restart would begin.")
    reruns = serializers.ListField(child=serializers.CharField())
    carried = serializers.ListField(child=serializers.CharField())
    approvals = RestartApprovalsSerializer()
    once_effects_repeated = RepeatedEffectSerializer(many=True)
    estimated_ms = serializers.IntegerField(
        allow_null=True, help_text="From earlier runs, without people's time; null where there were none."
    )
    estimated_cost = serializers.DictField(
        child=serializers.FloatField(),
        help_text="By currency, from earlier runs, without sub-workflows; empty where nothing was paid.",
    )


class RepairSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=REASON_CHARS, help_text="For the audit trail.")


class CompleteSerializer(RepairSerializer):
    output = AnyJSONField(help_text="What the block gives; its conditions choose on it.")


class BatchFilterSerializer(StrictSerializer):
    """All that is given must hold; without `ids` only what the command does something to matches."""

    status = serializers.ListField(
        child=serializers.ChoiceField(choices=ExecutionStatus.choices), required=False, default=list
    )
    template_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    workspace_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    created_after = serializers.DateTimeField(required=False, allow_null=True, default=None)
    created_before = serializers.DateTimeField(required=False, allow_null=True, default=None)
    business_key = serializers.CharField(
        required=False, allow_null=True, default=None, max_length=BUSINESS_KEY_CHARS
    )
    ids = serializers.ListField(
        child=serializers.UUIDField(), required=False, allow_null=True, default=None, max_length=BATCH_MAX
    )


class BatchSerializer(StrictSerializer):
    command = serializers.ChoiceField(choices=[command.value for command in Command])
    filter = BatchFilterSerializer()
    all = serializers.BooleanField(
        required=False, default=False, help_text="Needed where the filter is empty."
    )
    preview = serializers.BooleanField(
        required=False, default=False, help_text="Only say to which executions it would be done."
    )
    limit = serializers.IntegerField(
        required=False, default=BATCH_MAX, min_value=1, max_value=BATCH_MAX, help_text="Of this call."
    )
    after = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="`next` of the call before."
    )
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)
    compensate = serializers.BooleanField(
        required=False, default=False, help_text="Of a cancel: undo what completed blocks did."
    )

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["compensate"] and given["command"] != Command.CANCEL:
            raise serializers.ValidationError(
                {"compensate": "Only a cancel compensates."}, code="contradicting_fields"
            )
        return given


class BatchResultSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    status = serializers.CharField(allow_null=True, help_text="Before the command.")
    ok = serializers.BooleanField()
    code = serializers.CharField(required=False)
    message = serializers.CharField(required=False)


class BatchReportSerializer(StrictSerializer):
    command = serializers.CharField()
    preview = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="From `after` on.")
    left = serializers.IntegerField(help_text="Of these this call did not reach so many.")
    next = serializers.UUIDField(allow_null=True, help_text="Send as `after` to go on.")
    results = BatchResultSerializer(many=True)
