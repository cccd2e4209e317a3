"""Bodies that come in, and the shapes of what goes out.

What goes out is computed by `executions.snapshot` and `executions.explain`; its serializers here are
read by the OpenAPI document only, for 10,000 blocks pass by at a time.
"""

from __future__ import annotations

import math
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from agentflow.agents.journal import StepKind, StepStatus
from agentflow.api.serializers import StrictSerializer
from agentflow.types import JSONValue
from executions.models import AttemptOutcome, Compensation, Durability, PointKind
from executions.services.admission import LATEST
from executions.states import BlockStatus, ExecutionStatus

from ..faults.fields import ScriptedFailureSerializer

SCALE_MAX = 1_000_000.0
REASON_CHARS = 1000
BUSINESS_KEY_CHARS = 200
VERSION_MAX = 2**31 - 1


class JSONObjectField(serializers.DictField):
    """Any JSON object, as it is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(child=serializers.JSONField(allow_null=True), **kwargs)


@extend_schema_field(OpenApiTypes.ANY)
class AnyJSONField(serializers.JSONField):
    """Any JSON value, null too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, **kwargs)


@extend_schema_field(
    {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string", "enum": [LATEST]}], "nullable": True}
)
class VersionField(serializers.Field[Any, Any, Any, Any]):
    """A version number, or `latest`: the newest that may be started."""

    def to_internal_value(self, data: JSONValue) -> int | None:
        if data == LATEST:
            return None
        if isinstance(data, int) and not isinstance(data, bool) and 1 <= data <= VERSION_MAX:
            return data
        raise serializers.ValidationError(
            f"Must be a version number from 1, or {LATEST!r}.", code="invalid_version"
        )

    def to_representation(self, value: JSONValue) -> JSONValue:
        return value


# -- in ------------------------------------------------------------------------


class ScriptedAnswerSerializer(StrictSerializer):
    """The answer given in place of a person."""

    approved = serializers.BooleanField()
    response = AnyJSONField(required=False)


class SimulationSerializer(StrictSerializer):
    """How a run without agents goes; people are asked for real where `answers` is silent."""

    scale = serializers.FloatField(
        min_value=0,
        max_value=SCALE_MAX,
        required=False,
        help_text="Factor on configuration.simulate.runtimeSeconds; 0 without.",
    )
    outputs = serializers.DictField(child=AnyJSONField(), required=False, help_text="Output by blockId.")
    failures = serializers.DictField(
        child=serializers.ListField(child=ScriptedFailureSerializer(), max_length=100),
        required=False,
        help_text="What goes wrong by blockId, in order of the attempts.",
    )
    answers = serializers.DictField(
        child=ScriptedAnswerSerializer(), required=False, help_text="Answer by blockId."
    )

    def validate_scale(self, value: float) -> float:
        if not math.isfinite(value):
            raise serializers.ValidationError("Must be a finite number.", code="not_finite")
        return value


class StartSerializer(StrictSerializer):
    template_id = serializers.UUIDField()
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Only ever the template's own."
    )
    template_version = VersionField(required=False, allow_null=True, default=None)
    input = JSONObjectField(required=False)
    simulation = SimulationSerializer(required=False, allow_null=True, default=None)
    business_key = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=BUSINESS_KEY_CHARS,
        help_text="What the run is about, such as an order number: unique among the template's active ones.",
    )
    durability = serializers.ChoiceField(
        choices=Durability.choices,
        required=False,
        allow_null=True,
        default=None,
        help_text="What one commit may hold: one outcome, or several; without, as the template says.",
    )


class SteerSerializer(StrictSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)


class CancelSerializer(SteerSerializer):
    compensate = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Undo what completed blocks did; without, a compensation under way is stopped.",
    )


# -- out -----------------------------------------------------------------------


class StartedSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=ExecutionStatus.choices)


class SuccessSerializer(StrictSerializer):
    success = serializers.BooleanField()


class ProgressSerializer(StrictSerializer):
    settled = serializers.IntegerField()
    total = serializers.IntegerField()


class UsageSerializer(StrictSerializer):
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost = serializers.DictField(child=serializers.FloatField(), help_text="By currency.")


class AttemptUsageSerializer(UsageSerializer):
    """What nobody knows is left out."""

    input_tokens = serializers.IntegerField(required=False)
    output_tokens = serializers.IntegerField(required=False)
    cost = serializers.DictField(child=serializers.FloatField(), required=False, help_text="By currency.")
    model = serializers.CharField(required=False)


class ForkedFromSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    epoch = serializers.IntegerField()
    recovery_point_id = serializers.IntegerField(allow_null=True)


class EditedSerializer(StrictSerializer):
    by = serializers.CharField()
    at = serializers.DateTimeField()
    reason = serializers.CharField(allow_null=True)


class ExecutionSummarySerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    template_id = serializers.UUIDField()
    template_name = serializers.CharField()
    template_version = serializers.CharField(help_text="The author's label, else the number.")
    version_number = serializers.IntegerField()
    workspace_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=ExecutionStatus.choices)
    epoch = serializers.IntegerField(help_text="1, and one more with each restart.")
    simulated = serializers.BooleanField()
    durability = serializers.ChoiceField(choices=Durability.choices)
    compensation = serializers.ChoiceField(
        choices=Compensation.choices,
        allow_null=True,
        help_text="How far it has undone what it did, having failed or been cancelled; null: it did not.",
    )
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    created_by = serializers.CharField(allow_null=True)
    business_key = serializers.CharField(allow_null=True)
    parent_execution_id = serializers.UUIDField(allow_null=True)
    forked_from = ForkedFromSerializer(allow_null=True)
    progress = ProgressSerializer()


class ExecutionListSerializer(StrictSerializer):
    executions = ExecutionSummarySerializer(many=True)
    total = serializers.IntegerField()


class HumanInteractionSerializer(StrictSerializer):
    approval_id = serializers.UUIDField()
    type = serializers.CharField()
    level = serializers.CharField()
    status = serializers.CharField()
    requested_at = serializers.DateTimeField()
    respond_by = serializers.DateTimeField(allow_null=True)
    responded_at = serializers.DateTimeField(allow_null=True)
    approved = serializers.BooleanField(allow_null=True)
    response = AnyJSONField()
    comments = serializers.CharField(allow_null=True)
    approver = serializers.CharField(allow_null=True)
    carried_from = serializers.UUIDField(
        allow_null=True, help_text="The approval that was answered, where a restart took its answer again."
    )


@extend_schema_serializer(component_name="ExecutionBlock")  # `Block` is the definition's
class BlockSerializer(StrictSerializer):
    block_execution_id = serializers.IntegerField()
    block_id = serializers.CharField()
    name = serializers.CharField()
    execution_id = serializers.UUIDField()
    agent_id = serializers.CharField(allow_null=True)
    tool_type = serializers.CharField(allow_null=True)
    status = serializers.ChoiceField(choices=BlockStatus.choices)
    reason = serializers.CharField(allow_null=True, help_text="Stable code: why it is skipped, waits, ...")
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    available_at = serializers.DateTimeField(allow_null=True, help_text="Not to be tried again before.")
    attempt = serializers.IntegerField()
    retry_count = serializers.IntegerField()
    effect = serializers.CharField()
    choice = AnyJSONField(help_text="Indexes of the branches taken.")
    dependencies = serializers.ListField(child=serializers.CharField())
    input = AnyJSONField()
    output = AnyJSONField(help_text='A value above 16 KB is {"$ref": address, "bytes": size}.')
    edited = EditedSerializer(allow_null=True, help_text="Who put this output in place of the block's own.")
    error = AnyJSONField()
    usage = UsageSerializer(help_text="Of all its attempts.")
    human_interactions = HumanInteractionSerializer(many=True)


class ItemSerializer(StrictSerializer):
    block_execution_id = serializers.IntegerField()
    index = serializers.IntegerField()
    item = AnyJSONField(help_text='A value above 16 KB is {"bytes": size}.')
    status = serializers.ChoiceField(choices=BlockStatus.choices)
    reason = serializers.CharField(allow_null=True)
    attempt = serializers.IntegerField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    output = AnyJSONField()
    error = AnyJSONField()


class ItemListSerializer(StrictSerializer):
    items = ItemSerializer(many=True)
    total = serializers.IntegerField()


class AgentStepSerializer(StrictSerializer):
    number = serializers.IntegerField(help_text="Within its agent.")
    path = serializers.ListField(
        child=serializers.IntegerField(),
        help_text="Its number, behind those of the calls of agents with tools that it is a part of.",
    )
    kind = serializers.ChoiceField(choices=[each.value for each in StepKind])
    name = serializers.CharField(help_text="The model, or the tool as the model calls it.")
    status = serializers.ChoiceField(choices=[each.value for each in StepStatus])
    attempt = serializers.IntegerField(help_text="That did the step.")
    request = AnyJSONField()
    request_hash = serializers.CharField()
    result = AnyJSONField(help_text='A value above 16 KB is {"bytes": size}.')
    error = AnyJSONField()
    usage = AttemptUsageSerializer(allow_null=True)
    decision = AnyJSONField(help_text="What a person decided about a tool: {approved, response, by}.")
    idempotency_key = serializers.CharField()
    started_at = serializers.DateTimeField()
    completed_at = serializers.DateTimeField(allow_null=True)


class AgentStepListSerializer(StrictSerializer):
    steps = AgentStepSerializer(many=True)
    total = serializers.IntegerField()


class BlockListSerializer(StrictSerializer):
    blocks = BlockSerializer(many=True)
    total = serializers.IntegerField()


class AttemptSerializer(StrictSerializer):
    attempt = serializers.IntegerField()
    outcome = serializers.ChoiceField(choices=AttemptOutcome.choices)
    agent_id = serializers.CharField(allow_null=True)
    error = AnyJSONField()
    usage = AttemptUsageSerializer(allow_null=True)
    injected = serializers.CharField(allow_null=True, help_text="The fault that it met on purpose.")
    started_at = serializers.DateTimeField()
    completed_at = serializers.DateTimeField()
    receipt = AnyJSONField()


class LateResultSerializer(StrictSerializer):
    attempt = serializers.IntegerField()
    at = serializers.DateTimeField()
    error = AnyJSONField()
    output = AnyJSONField()


@extend_schema_serializer(component_name="ExecutionBlockDetail")  # else it inherits the name above
class BlockDetailSerializer(BlockSerializer):
    original_output = AnyJSONField(help_text="What an edited block gave itself; null for others.")
    input_source = serializers.ChoiceField(choices=["mapping", "dependencies"])
    crashes = serializers.IntegerField()
    attempts = AttemptSerializer(many=True)
    incident_id = serializers.UUIDField(allow_null=True, help_text="That counts its latest failure.")
    late_results = LateResultSerializer(many=True)


class RecoveryPointSerializer(StrictSerializer):
    recovery_point_id = serializers.IntegerField()
    epoch = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=PointKind.choices)
    name = serializers.CharField(allow_null=True)
    settled = serializers.IntegerField(help_text="Blocks that had settled.")
    cursor = serializers.CharField(help_text="Of the log: what follows it came after the point.")
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField(allow_null=True)


class ExecutionSerializer(ExecutionSummarySerializer):
    """The whole execution; with `?fields=` only the fields named there are present."""

    usage = UsageSerializer(help_text="Of all its epochs, and of the executions it started.")
    deadline_at = serializers.DateTimeField(allow_null=True)
    input = AnyJSONField()
    error = AnyJSONField()
    current_blocks = serializers.ListField(child=serializers.CharField(), help_text="Ready or running.")
    completed_blocks = serializers.ListField(child=serializers.CharField())
    failed_blocks = serializers.ListField(child=serializers.CharField())
    blocked_blocks = serializers.ListField(
        child=serializers.CharField(), help_text="Waiting for a person, a child or something outside."
    )
    block_executions = BlockSerializer(many=True)
    global_context = JSONObjectField(help_text="Outputs of completed blocks by blockId.")
    recovery_points = RecoveryPointSerializer(many=True, help_text="The newest 20.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        for field in fields.values():
            field.required = False
        return fields


class LogEntrySerializer(StrictSerializer):
    timestamp = serializers.DateTimeField()
    level = serializers.ChoiceField(choices=["debug", "info", "warning", "error"])
    block_id = serializers.CharField(allow_null=True)
    type = serializers.CharField()
    message = serializers.CharField()
    payload = AnyJSONField()
    cursor = serializers.CharField()


class LogListSerializer(StrictSerializer):
    logs = LogEntrySerializer(many=True)
    total = serializers.IntegerField()


class ReasonSerializer(StrictSerializer):
    code = serializers.CharField()
    message = serializers.CharField()
    until = serializers.DateTimeField(required=False)
    since = serializers.DateTimeField(required=False)
    waits_for = serializers.ListField(child=serializers.CharField(), required=False)
    waits_for_total = serializers.IntegerField(required=False)
    key = serializers.CharField(required=False, help_text="Of waiting_concurrency: the key waited for.")
    limit = serializers.IntegerField(required=False)


class BlockReasonSerializer(StrictSerializer):
    block_id = serializers.CharField()
    status = serializers.ChoiceField(choices=BlockStatus.choices)
    reason = ReasonSerializer()


class ExplanationSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=ExecutionStatus.choices)
    reason = ReasonSerializer()
    blocks = BlockReasonSerializer(many=True)


class WeightedProgressSerializer(ProgressSerializer):
    weighted = serializers.FloatField(help_text="0 to 1: blocks counted by the time they usually take.")
    remaining_ms = serializers.IntegerField(
        allow_null=True, help_text="Without people's time; null where no earlier run tells."
    )


class ExecutionPlanSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=ExecutionStatus.choices)
    epoch = serializers.IntegerField()
    ready = serializers.ListField(child=serializers.CharField())
    running = serializers.ListField(child=serializers.CharField())
    waiting = serializers.ListField(
        child=serializers.CharField(), help_text="For a person, a child, a moment or an answer from outside."
    )
    next = serializers.ListField(
        child=serializers.CharField(), help_text="Decided as soon as what runs now has completed."
    )
    parallel_groups = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField()),
        help_text="What is not settled, by level: a group follows the groups before it.",
    )
    progress = WeightedProgressSerializer()
