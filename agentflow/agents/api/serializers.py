from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ...api.serializers import DayBudgetField, StrictSerializer
from .. import configuration as configurations
from ..circuit import state_of
from ..models import Agent, Effect, Health, ToolType
from ..performance import WINDOWS


class CapabilityShown(StrictSerializer):
    """Something an agent can do.  A bare text is taken as its name."""

    name = serializers.CharField(max_length=200)
    description = serializers.CharField(required=False, default="", max_length=4000)
    tags = serializers.ListField(child=serializers.CharField(max_length=100), required=False)
    input_schema = serializers.DictField(required=False, allow_null=True)
    output_schema = serializers.DictField(required=False, allow_null=True)


class CostShown(StrictSerializer):
    """What using the agent costs, as far as it is known."""

    per_call = serializers.FloatField(required=False, min_value=0)
    per_input_token = serializers.FloatField(required=False, min_value=0)
    per_output_token = serializers.FloatField(required=False, min_value=0)
    currency = serializers.CharField(required=False, default="USD")


class LimitsShown(StrictSerializer):
    """How much the agent bears, of all workers together."""

    concurrency = serializers.IntegerField(required=False, min_value=1)
    rate_per_minute = serializers.IntegerField(required=False, min_value=1)


class HealthCheckShown(StrictSerializer):
    """How its health is looked at: after so many failures in a row it counts as unhealthy."""

    url = serializers.CharField(
        required=False, help_text="API agents: asked by GET instead of their address."
    )
    interval_seconds = serializers.IntegerField(required=False, min_value=5)
    failures = serializers.IntegerField(required=False, min_value=1, default=3)


class CircuitRulesShown(StrictSerializer):
    """When the agent's circuit opens, and for how long."""

    enabled = serializers.BooleanField(required=False, default=True)
    window_seconds = serializers.IntegerField(required=False, default=60)
    minimum_calls = serializers.IntegerField(
        required=False, default=10, help_text="In the window, before a rate counts."
    )
    failure_rate = serializers.FloatField(required=False, default=0.5)
    slow_ms = serializers.FloatField(required=False, help_text="A call that takes as long is slow.")
    slow_rate = serializers.FloatField(required=False, default=0.8)
    unreachable_calls = serializers.IntegerField(
        required=False, default=2, help_text="In a row that reached nobody: they open it at once."
    )
    cooldown_seconds = serializers.FloatField(required=False, default=5.0)
    cooldown_growth = serializers.FloatField(required=False, default=2.0)
    cooldown_max_seconds = serializers.FloatField(required=False, default=120.0)
    probe_seconds = serializers.FloatField(
        required=False,
        default=30.0,
        help_text="How long the one call of a half-open circuit may keep others out.",
    )
    patience_seconds = serializers.FloatField(
        required=False,
        default=1800.0,
        help_text="How long blocks wait for it to close before a person is asked.",
    )


class MeasuresShown(StrictSerializer):
    """How the agent is measured."""

    circuit = CircuitRulesShown(required=False)
    outside_weight = serializers.FloatField(
        required=False, help_text="What a measurement from outside counts beside one of our own."
    )


# Their shape is in the description alone: `profile` holds what is written against one set of rules, for the
# admin's form, too.
@extend_schema_field(CapabilityShown)
class _Capability(serializers.JSONField):
    pass


@extend_schema_field(CostShown)
class _Cost(serializers.DictField):
    pass


@extend_schema_field(LimitsShown)
class _Limits(serializers.DictField):
    pass


@extend_schema_field(HealthCheckShown)
class _HealthCheck(serializers.DictField):
    pass


@extend_schema_field(MeasuresShown)
class _Measures(serializers.DictField):
    pass


class _AgentBody(StrictSerializer):
    agent_id = serializers.CharField(max_length=200, help_text="What a template's block calls it by.")
    name = serializers.CharField(max_length=200)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    tool_type = serializers.ChoiceField(choices=ToolType.choices)
    configuration = serializers.DictField(required=False, default=dict)
    capabilities = serializers.ListField(child=_Capability(), required=False, default=list, max_length=200)
    cost = _Cost(required=False, default=dict)
    limits = _Limits(required=False, default=dict)
    health_check = _HealthCheck(required=False, default=dict)
    measures = _Measures(required=False, default=dict)
    budget = DayBudgetField(required=False, default=dict)
    environment = serializers.CharField(
        max_length=100,
        required=False,
        allow_blank=True,
        default="",
        help_text="Where it may be chosen; empty: anywhere.",
    )
    effect = serializers.ChoiceField(choices=Effect.choices, required=False, allow_null=True, default=None)
    input_schema = serializers.DictField(required=False, allow_null=True, default=None)
    output_schema = serializers.DictField(required=False, allow_null=True, default=None)
    enabled = serializers.BooleanField(required=False, default=True)


class NewAgent(_AgentBody):
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed by members of several workspaces."
    )


class ChangedAgent(_AgentBody):
    """A PUT replaces all fields.  `********` keeps a secret that was hidden from the reader."""


class AgentShown(StrictSerializer):
    id = serializers.UUIDField()
    agent_id = serializers.CharField()
    workspace_id = serializers.UUIDField()
    name = serializers.CharField()
    description = serializers.CharField()
    tool_type = serializers.ChoiceField(choices=ToolType.choices)
    version = serializers.IntegerField(help_text="Grows when it is called in another way.")
    configuration = serializers.SerializerMethodField(help_text="Secrets read as ********.")
    capabilities = serializers.ListField(child=_Capability())
    cost = _Cost()
    limits = _Limits()
    health_check = _HealthCheck()
    measures = _Measures()
    budget = DayBudgetField()
    environment = serializers.CharField()
    effect = serializers.ChoiceField(choices=Effect.choices, allow_null=True)
    input_schema = serializers.DictField(allow_null=True)
    output_schema = serializers.DictField(allow_null=True)
    enabled = serializers.BooleanField()
    health = serializers.ChoiceField(choices=Health.choices)
    health_reason = serializers.CharField()
    health_checked_at = serializers.DateTimeField(allow_null=True)
    source_id = serializers.UUIDField(allow_null=True, help_text="Where it was found; null: entered by hand.")
    gone_at = serializers.DateTimeField(allow_null=True, help_text="When its source listed it no more.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    def get_configuration(self, agent: Agent) -> dict[str, Any]:
        return configurations.hidden(agent.configuration)


class CircuitShown(StrictSerializer):
    """Whether the agent is called at all: an open circuit keeps calls out until its cool-down is over."""

    state = serializers.ChoiceField(choices=["closed", "open", "half_open"])
    why = serializers.CharField(help_text="unreachable, failures, slow or probe; empty: closed.")
    retry_seconds = serializers.FloatField(source="retry_s", help_text="Until a call is let through.")
    open_seconds = serializers.FloatField(source="down_s", help_text="Since it opened.")
    opens = serializers.IntegerField(help_text="In a row.")
    calls = serializers.IntegerField(help_text="In its window; this and the next two.")
    failures = serializers.IntegerField()
    slow = serializers.IntegerField()


class AgentWithCircuit(AgentShown):
    circuit = serializers.SerializerMethodField()

    @extend_schema_field(CircuitShown)
    def get_circuit(self, agent: Agent) -> Any:
        return CircuitShown(state_of(agent)).data


class FiguresShown(StrictSerializer):
    """Calls that ended.  Only failures of the agent's own count (transient ones among them)."""

    calls = serializers.IntegerField()
    successes = serializers.IntegerField()
    failures = serializers.IntegerField()
    success_rate = serializers.FloatField(allow_null=True)
    mean_ms = serializers.FloatField(allow_null=True)
    p50_ms = serializers.FloatField(allow_null=True, help_text="This and p95Ms within 10 %.")
    p95_ms = serializers.FloatField(allow_null=True)
    cost = serializers.FloatField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class TotalShown(FiguresShown):
    failure_codes = serializers.DictField(child=serializers.IntegerField())


class PointShown(FiguresShown):
    at = serializers.DateTimeField()


class PerformanceShown(StrictSerializer):
    window = serializers.ChoiceField(choices=list(WINDOWS))
    bucket_seconds = serializers.IntegerField()
    since = serializers.DateTimeField()
    capability = serializers.CharField()
    capabilities = serializers.ListField(child=serializers.CharField(), help_text="That it was called for.")
    total = TotalShown()
    outside = TotalShown(help_text="As others measured it.")
    outside_weight = serializers.FloatField()
    series = PointShown(many=True, help_text="Without what others measured; empty times are left out.")
    circuit = CircuitShown()


class NewMeasurement(StrictSerializer):
    id = serializers.CharField(max_length=200, help_text="The same id is counted once.")
    success = serializers.BooleanField()
    at = serializers.DateTimeField(required=False, help_text="When the call ended; by default now.")
    latency_ms = serializers.FloatField(required=False, min_value=0, max_value=1e9)
    cost = serializers.FloatField(required=False, min_value=0, max_value=1e9, default=0.0)
    input_tokens = serializers.IntegerField(required=False, min_value=0, max_value=2**40, default=0)
    output_tokens = serializers.IntegerField(required=False, min_value=0, max_value=2**40, default=0)
    capability = serializers.CharField(required=False, max_length=200, allow_blank=True, default="")
    failure_code = serializers.CharField(required=False, max_length=100, allow_blank=True, default="")

    def validate_at(self, at: datetime) -> datetime:
        now = timezone.now()
        if not now - timedelta(days=29) <= at <= now + timedelta(minutes=5):
            raise serializers.ValidationError("This must lie within the last 29 days.")
        return at

    def validate_latency_ms(self, value: float) -> float:
        return self._finite(value)

    def validate_cost(self, value: float) -> float:
        return self._finite(value)

    @staticmethod
    def _finite(value: float) -> float:
        if not math.isfinite(value):
            raise serializers.ValidationError("This must be a number.")
        return value


class NewMeasurements(StrictSerializer):
    metrics = serializers.ListField(child=NewMeasurement(), min_length=1, max_length=500)


class MeasurementsTaken(StrictSerializer):
    counted = serializers.IntegerField(help_text="Of those sent, the ones whose ids were new.")


class AgentList(StrictSerializer):
    agents = AgentShown(many=True)
    total = serializers.IntegerField()


class AgentVersionShown(StrictSerializer):
    version = serializers.IntegerField(source="number")
    sha256 = serializers.CharField(help_text="Of what is shown here: secrets are no part of it.")
    tool_type = serializers.ChoiceField(choices=ToolType.choices)
    configuration = serializers.DictField()
    effect = serializers.ChoiceField(choices=Effect.choices, allow_null=True)
    input_schema = serializers.DictField(allow_null=True)
    output_schema = serializers.DictField(allow_null=True)
    created_at = serializers.DateTimeField()


class AgentCheckShown(StrictSerializer):
    at = serializers.DateTimeField()
    ok = serializers.BooleanField()
    ms = serializers.FloatField()
    reason = serializers.CharField(help_text="Why not; empty where it is well.")


class AgentHealth(StrictSerializer):
    health = serializers.ChoiceField(choices=Health.choices)
    checks = AgentCheckShown(many=True, help_text="The newest first.")


class AgentVersionList(StrictSerializer):
    versions = AgentVersionShown(many=True)
    total = serializers.IntegerField()


class Deleted(StrictSerializer):
    success = serializers.BooleanField()
