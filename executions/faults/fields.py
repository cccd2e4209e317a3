"""What goes wrong on purpose, as it is written in a simulation and in a rule of a workspace.

Used by the REST interface and by the admin's form.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from agentflow.agents import registry
from agentflow.agents.models import ToolType
from agentflow.api.problems import issues_from
from agentflow.api.serializers import StrictSerializer
from agentflow.types import JSONObject
from agentflow.workflow.faults import FaultKind, misplaced

from .rules import MAX_RULES
from .service import MINUTES_MAX

FAILURES_MAX = 1000  # of one block, in one entry of the script
MS_MAX = 3_600_000
CODE_CHARS, MESSAGE_CHARS = 60, 300
RETRY_AFTER_MAX = 86_400.0
NAMES_MAX = 100
SEED_CHARS = 64


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
                {name: [ErrorDetail(message, code="contradicting_fields")] for name, message in wrong}
            )
        return attrs


class ScriptedFailureSerializer(FaultSerializer):
    """What goes wrong in an attempt of a block, or in the next `times` attempts (1)."""

    times = serializers.IntegerField(min_value=1, max_value=FAILURES_MAX, required=False)
    attempt = serializers.IntegerField(
        min_value=1, max_value=FAILURES_MAX, required=False, help_text="In this attempt, and in no other."
    )


def _names(**kwargs: Any) -> serializers.ListField:
    child = serializers.CharField(max_length=200)
    return serializers.ListField(child=child, max_length=NAMES_MAX, min_length=1, required=False, **kwargs)


class FaultRuleSerializer(FaultSerializer):
    """A fault and which calls meet it.  Of several rules the first that hits a call counts."""

    share = serializers.FloatField(min_value=0, max_value=1, help_text="Of the calls that it is about.")
    templates = serializers.ListField(
        child=serializers.UUIDField(), max_length=NAMES_MAX, min_length=1, required=False
    )
    blocks = _names(help_text="By blockId.")
    agents = _names(help_text="By agentId.")
    toolTypes = serializers.ListField(
        child=serializers.ChoiceField(choices=[*ToolType.values, registry.BUILTIN]),
        max_length=NAMES_MAX,
        min_length=1,
        required=False,
    )
    attempts = serializers.IntegerField(
        min_value=1, max_value=FAILURES_MAX, required=False, help_text="Only the first so many of a block."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        if "templates" in attrs:
            attrs["templates"] = [str(each) for each in attrs["templates"]]
        return attrs


class FaultRulesSerializer(StrictSerializer):
    rules = serializers.ListField(child=FaultRuleSerializer(), min_length=1, max_length=MAX_RULES)


class BeginFaultsSerializer(FaultRulesSerializer):
    minutes = serializers.IntegerField(min_value=1, max_value=MINUTES_MAX)
    seed = serializers.CharField(
        max_length=SEED_CHARS,
        required=False,
        default="",
        help_text="The same gives the same; else a new one.",
    )
    counts = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Against the agents (performance, circuits), and for what recovery learns.",
    )
    reason = serializers.CharField(max_length=1000, required=False, allow_blank=True, default="")


def rule_issues(rules: Any) -> list[JSONObject]:
    """What is wrong with rules that somebody wrote, with pointers into `{"rules": [...]}`."""
    body = FaultRulesSerializer(data={"rules": rules})
    return [] if body.is_valid() else issues_from(body.errors)
