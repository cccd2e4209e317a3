"""Bodies of the commands on executions and their blocks, and the shapes of the answers."""

from __future__ import annotations

from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer
from agentflow.conf import LIMITS

from .serializers import REASON_CHARS, AnyJSONField

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
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)


class RestartSerializer(RestartPlanRequestSerializer):
    plan_id = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=PLAN_ID_CHARS,
        help_text="Of a restart-plan: refused when the execution has moved since.",
    )


class RestartedSerializer(StrictSerializer):
    success = serializers.BooleanField()
    epoch = serializers.IntegerField()


class RestartApprovalsSerializer(StrictSerializer):
    survive = serializers.ListField(child=serializers.CharField(), help_text="Decided, and carried over.")
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


class RepairSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=REASON_CHARS, help_text="For the audit trail.")


class CompleteSerializer(RepairSerializer):
    output = AnyJSONField(help_text="What the block gives; its conditions choose on it.")
