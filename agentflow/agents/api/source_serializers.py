from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ...api.serializers import StrictSerializer
from .. import configuration as configurations
from ..models import AgentSource, SourceKind


class _SourceBody(StrictSerializer):
    kind = serializers.ChoiceField(choices=SourceKind.choices)
    name = serializers.CharField(max_length=100, help_text="Its agents' names begin with it.")
    url = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="")
    server = serializers.CharField(
        max_length=200,
        required=False,
        allow_blank=True,
        default="",
        help_text="MCP over stdio: a name of AGENTFLOW_MCP_STDIO.",
    )
    configuration = serializers.DictField(
        required=False, default=dict, help_text="`headers`, `prefix`; OpenAPI also `operations`, `baseUrl`."
    )
    interval_seconds = serializers.IntegerField(
        source="interval_s", required=False, default=3600, min_value=0, help_text="0: only by hand."
    )
    enabled = serializers.BooleanField(required=False, default=True)


class NewSource(_SourceBody):
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed by members of several workspaces."
    )


class ChangedSource(_SourceBody):
    """A PATCH changes the fields it names.  `********` keeps a secret that was hidden from the reader."""


class Discovery(_SourceBody):
    """Either `sourceId`, or the fields of a source."""

    source_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    preview = serializers.BooleanField(required=False, default=False, help_text="Tell, and change nothing.")
    workspace_id = serializers.UUIDField(required=False, allow_null=True, default=None)


class SkippedShown(StrictSerializer):
    key = serializers.CharField(help_text="What the source calls it.")
    code = serializers.CharField()
    message = serializers.CharField()


class ReportShown(StrictSerializer):
    new = serializers.ListField(child=serializers.CharField())
    changed = serializers.ListField(child=serializers.CharField())
    gone = serializers.ListField(child=serializers.CharField())
    back = serializers.ListField(child=serializers.CharField())
    skipped = SkippedShown(many=True)
    unchanged = serializers.IntegerField()
    counts = serializers.DictField(child=serializers.IntegerField())


class SourceError(StrictSerializer):
    code = serializers.CharField()
    message = serializers.CharField()


class SourceShown(StrictSerializer):
    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=SourceKind.choices)
    name = serializers.CharField()
    url = serializers.CharField()
    server = serializers.CharField()
    configuration = serializers.SerializerMethodField(help_text="Secrets read as ********.")
    interval_seconds = serializers.IntegerField(source="interval_s")
    enabled = serializers.BooleanField()
    synchronised_at = serializers.DateTimeField(allow_null=True)
    succeeded_at = serializers.DateTimeField(allow_null=True)
    failures = serializers.IntegerField(help_text="Looks in a row that went wrong.")
    result = ReportShown(allow_null=True, help_text="Of the last look that went well.")
    error = SourceError(allow_null=True, help_text="Of the last look, if it went wrong.")
    created_at = serializers.DateTimeField()

    def get_configuration(self, source: AgentSource) -> dict[str, Any]:
        return configurations.hidden(source.configuration)


class SourceList(StrictSerializer):
    sources = SourceShown(many=True)
    total = serializers.IntegerField()


class Discovered(StrictSerializer):
    source = SourceShown(allow_null=True)  # type: ignore[assignment]  # a field named as DRF's own attribute
    report = ReportShown()
    preview = serializers.BooleanField()


class SourceRemoved(StrictSerializer):
    success = serializers.BooleanField()
