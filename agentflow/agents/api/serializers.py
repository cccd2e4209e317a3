from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ...api.serializers import StrictSerializer
from .. import configuration as configurations
from ..models import Agent, Effect, ToolType


class _AgentBody(StrictSerializer):
    agent_id = serializers.CharField(max_length=200, help_text="What a template's block calls it by.")
    name = serializers.CharField(max_length=200)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    tool_type = serializers.ChoiceField(choices=ToolType.choices)
    configuration = serializers.DictField(required=False, default=dict)
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=100), required=False, default=list, max_length=100
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
    configuration = serializers.SerializerMethodField(help_text="Secrets read as ********.")
    capabilities = serializers.ListField(child=serializers.CharField())
    effect = serializers.ChoiceField(choices=Effect.choices, allow_null=True)
    input_schema = serializers.DictField(allow_null=True)
    output_schema = serializers.DictField(allow_null=True)
    enabled = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    def get_configuration(self, agent: Agent) -> dict[str, Any]:
        return configurations.hidden(agent.configuration)


class AgentList(StrictSerializer):
    agents = AgentShown(many=True)
    total = serializers.IntegerField()


class NewScript(StrictSerializer):
    name = serializers.CharField(max_length=200)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    source = serializers.CharField(  # type: ignore[assignment]  # a field named as DRF's own attribute
        trim_whitespace=False, help_text="Python; JSON comes by stdin, goes by stdout."
    )
    timeout_seconds = serializers.FloatField(
        source="timeout_s",
        min_value=0.1,
        max_value=3600,
        required=False,
        default=30.0,
        help_text="Seconds by the clock on the wall.",
    )
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed by members of several workspaces."
    )


class ScriptShown(StrictSerializer):
    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    name = serializers.CharField()
    description = serializers.CharField()
    sha256 = serializers.CharField()
    timeout_seconds = serializers.FloatField(source="timeout_s")
    created_at = serializers.DateTimeField()


class ScriptWithSource(ScriptShown):
    source = serializers.CharField()  # type: ignore[assignment]  # a field named as DRF's own attribute


class ScriptList(StrictSerializer):
    scripts = ScriptShown(many=True)
    total = serializers.IntegerField()


class Deleted(StrictSerializer):
    success = serializers.BooleanField()
