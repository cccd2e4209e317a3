from __future__ import annotations

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ...api.serializers import StrictSerializer
from ..models import Language


class ScriptLimitsShown(StrictSerializer):
    """What one run may use."""

    cpu_seconds = serializers.FloatField(required=False, help_text="By default as long as the time-out.")
    memory_mb = serializers.IntegerField(required=False, default=512)
    file_mb = serializers.IntegerField(required=False, default=16, help_text="One file.")
    open_files = serializers.IntegerField(required=False, default=64)
    processes = serializers.IntegerField(required=False, default=16, help_text="And threads.")
    output_kb = serializers.IntegerField(required=False, default=8192)
    network = serializers.BooleanField(
        required=False, default=False, help_text="Counts only where the workspace allows it."
    )


# Its shape is in the description alone: `profile` holds what is written against one set of rules.
@extend_schema_field(ScriptLimitsShown)
class _Limits(serializers.DictField):
    pass


class NewVersion(StrictSerializer):
    source = serializers.CharField(  # type: ignore[assignment]  # a field named as DRF's own attribute
        trim_whitespace=False, help_text="JSON comes by stdin, goes by stdout."
    )
    language = serializers.ChoiceField(choices=Language.choices, required=False, default=Language.PYTHON)
    timeout_seconds = serializers.FloatField(
        source="timeout_s",
        min_value=0.1,
        max_value=3600,
        required=False,
        default=30.0,
        help_text="Seconds by the clock on the wall.",
    )
    limits = _Limits(required=False, default=dict)
    input_schema = serializers.DictField(required=False, allow_null=True, default=None)
    output_schema = serializers.DictField(required=False, allow_null=True, default=None)


class NewScript(NewVersion):
    name = serializers.CharField(max_length=200)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed by members of several workspaces."
    )


class _OfVersion(StrictSerializer):
    """What every version says of itself."""

    language = serializers.ChoiceField(choices=Language.choices)
    sha256 = serializers.CharField(help_text="Of the source.")
    timeout_seconds = serializers.FloatField(source="timeout_s")
    limits = _Limits()
    input_schema = serializers.DictField(allow_null=True)
    output_schema = serializers.DictField(allow_null=True)
    created_at = serializers.DateTimeField()


class ScriptShown(_OfVersion):
    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    name = serializers.CharField()
    description = serializers.CharField()
    version = serializers.IntegerField(help_text="The newest; what else is here is of it.")


class ScriptWithSource(ScriptShown):
    source = serializers.CharField()  # type: ignore[assignment]  # a field named as DRF's own attribute


class ScriptList(StrictSerializer):
    scripts = ScriptShown(many=True)
    total = serializers.IntegerField()


class ScriptVersionShown(_OfVersion):
    version = serializers.IntegerField(source="number")


class ScriptVersionWithSource(ScriptVersionShown):
    source = serializers.CharField()  # type: ignore[assignment]  # a field named as DRF's own attribute


class ScriptVersionList(StrictSerializer):
    versions = ScriptVersionShown(many=True)
    total = serializers.IntegerField()


class NewTrial(StrictSerializer):
    input = serializers.JSONField(required=False, allow_null=True, default=None)
    version = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, help_text="By default the newest."
    )


class TrialFailure(StrictSerializer):
    kind = serializers.CharField()
    code = serializers.CharField()
    message = serializers.CharField()
    evidence = serializers.DictField()


class TrialShown(StrictSerializer):
    """What a block would have had of it."""

    status = serializers.ChoiceField(choices=["completed", "failed"])
    output = serializers.JSONField(allow_null=True)
    failure = TrialFailure(allow_null=True)
    log = serializers.ListField(child=serializers.CharField(), help_text="What it wrote to stderr.")
    ms = serializers.FloatField()
