"""What goes wrong on purpose, as it is written in a simulation and in a rule of a workspace."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer
from agentflow.workflow.faults import FaultKind, misplaced

FAILURES_MAX = 1000  # of one block, in one entry of the script
MS_MAX = 3_600_000
CODE_CHARS, MESSAGE_CHARS = 60, 300
RETRY_AFTER_MAX = 86_400.0


@extend_schema_field(OpenApiTypes.ANY)
class _OutputField(serializers.JSONField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, **kwargs)


class FaultSerializer(StrictSerializer):
    """One thing that goes wrong.  Kept as it was sent, so its fields are spelt as on the wire."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in FaultKind])
    code = serializers.RegexField(
        r"^[a-z][a-z0-9_]*$",
        max_length=CODE_CHARS,
        required=False,
        help_text="As the real failure's, so that rules and retryConditions see it: http_503.",
    )
    message = serializers.CharField(max_length=MESSAGE_CHARS, required=False)
    outcomeUnknown = serializers.BooleanField(
        required=False,
        help_text="Whether the effect may have happened; of timeout and of an agent that dies it may.",
    )
    retryAfterSeconds = serializers.FloatField(min_value=0, max_value=RETRY_AFTER_MAX, required=False)
    ms = serializers.IntegerField(
        min_value=0, max_value=MS_MAX, required=False, help_text="How much longer it takes (slow, timeout)."
    )
    output = _OutputField(required=False, help_text="Of wrongOutput; null without.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if wrong := misplaced(attrs):
            raise serializers.ValidationError(
                {
                    name: [serializers.ErrorDetail(message, code="contradicting_fields")]
                    for name, message in wrong
                }
            )
        return attrs


class ScriptedFailureSerializer(FaultSerializer):
    """What goes wrong in an attempt of a block, or in the next `times` attempts (1)."""

    times = serializers.IntegerField(min_value=1, max_value=FAILURES_MAX, required=False)
    attempt = serializers.IntegerField(
        min_value=1, max_value=FAILURES_MAX, required=False, help_text="In this attempt, and in no other."
    )
