"""Bodies and answers about incidents."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer

from ..incidents.handling import COMMENT_CHARS, LINK_CHARS
from ..incidents.models import NoteKind
from ..incidents.states import IncidentState
from ..incidents.together import Command
from ..services.batch import BATCH_MAX
from ..states import BlockStatus, ExecutionStatus
from .serializers import JSONObjectField

USERNAME_CHARS = 150


# -- in ------------------------------------------------------------------------


class AssignIncidentSerializer(StrictSerializer):
    to = serializers.CharField(
        max_length=USERNAME_CHARS, allow_null=True, help_text="A username; null takes it back."
    )


class CommentIncidentSerializer(StrictSerializer):
    text = serializers.CharField(max_length=COMMENT_CHARS, trim_whitespace=False)


class SnoozeIncidentSerializer(StrictSerializer):
    until = serializers.DateTimeField(help_text="Then it is open again.")


class ResolveIncidentSerializer(StrictSerializer):
    comment = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=COMMENT_CHARS, trim_whitespace=False
    )


class LinkIncidentSerializer(StrictSerializer):
    url = serializers.URLField(
        allow_blank=True, max_length=LINK_CHARS, help_text="Of a ticket, say; empty takes it away."
    )


class IncidentsFilterSerializer(StrictSerializer):
    """All that is given must hold; without `ids` only what the command does something to matches."""

    state = serializers.ListField(
        child=serializers.ChoiceField(choices=IncidentState.choices), required=False, default=list
    )
    workspace_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    template_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    execution_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    block_id = serializers.CharField(required=False, allow_null=True, default=None)
    code = serializers.CharField(required=False, allow_null=True, default=None)
    assignee = serializers.CharField(
        required=False, allow_null=True, default=None, max_length=USERNAME_CHARS, help_text="`-`: of nobody."
    )
    simulated = serializers.BooleanField(required=False, allow_null=True, default=None)
    search = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)
    ids = serializers.ListField(
        child=serializers.UUIDField(), required=False, allow_null=True, default=None, max_length=BATCH_MAX
    )


class IncidentsBatchSerializer(StrictSerializer):
    """Besides: `to` of an assign, `text` of a comment, `until` of a snooze, `comment` of a resolve."""

    command = serializers.ChoiceField(choices=[command.value for command in Command])
    filter = IncidentsFilterSerializer()
    all = serializers.BooleanField(
        required=False, default=False, help_text="Needed where the filter is empty."
    )
    preview = serializers.BooleanField(
        required=False, default=False, help_text="Only say to which incidents it would be done."
    )
    limit = serializers.IntegerField(required=False, default=BATCH_MAX, min_value=1, max_value=BATCH_MAX)
    after = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="`next` of the call before."
    )
    to = serializers.CharField(required=False, allow_null=True, max_length=USERNAME_CHARS)
    text = serializers.CharField(required=False, max_length=COMMENT_CHARS, trim_whitespace=False)
    until = serializers.DateTimeField(required=False)
    comment = serializers.CharField(
        required=False, allow_blank=True, max_length=COMMENT_CHARS, trim_whitespace=False
    )

    NEEDED = {Command.ASSIGN: "to", Command.COMMENT: "text", Command.SNOOZE: "until"}
    TAKEN = {**NEEDED, Command.RESOLVE: "comment"}

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        command = Command(given["command"])
        needed, taken = self.NEEDED.get(command), self.TAKEN.get(command)
        if needed is not None and needed not in given:
            raise serializers.ValidationError({needed: [f"Needed by {command}."]}, code="required")
        for name in set(self.TAKEN.values()) - {taken}:
            if name in given:
                raise serializers.ValidationError(
                    {name: [f"{command} does not take it."]}, code="not_with_command"
                )
        return given


class IncidentResultSerializer(StrictSerializer):
    incident_id = serializers.UUIDField()
    state = serializers.CharField(allow_null=True, help_text="Before the command.")
    ok = serializers.BooleanField()
    code = serializers.CharField(required=False)
    message = serializers.CharField(required=False)


class IncidentsReportSerializer(StrictSerializer):
    command = serializers.CharField()
    preview = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="From `after` on.")
    left = serializers.IntegerField(help_text="Of these this call did not reach so many.")
    next = serializers.UUIDField(allow_null=True, help_text="Send as `after` to go on.")
    results = IncidentResultSerializer(many=True)


# -- out -----------------------------------------------------------------------


class IncidentSerializer(StrictSerializer):
    incident_id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    template_id = serializers.UUIDField()
    template_name = serializers.CharField()
    block_id = serializers.CharField()
    code = serializers.CharField()
    kind = serializers.CharField()
    message = serializers.CharField(help_text="Of its first failure.")
    fingerprint = serializers.CharField(help_text="What its failures share.")
    simulated = serializers.BooleanField()
    state = serializers.ChoiceField(choices=IncidentState.choices)
    snoozed_until = serializers.DateTimeField(allow_null=True)
    assignee = serializers.CharField(allow_null=True)
    link = serializers.CharField()
    count = serializers.IntegerField(help_text="Failures.")
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)


class IncidentListSerializer(StrictSerializer):
    incidents = IncidentSerializer(many=True)
    total = serializers.IntegerField()


class BlastRadiusSerializer(StrictSerializer):
    workflows = serializers.IntegerField(
        help_text="Templates' versions that were started, and reach the block."
    )
    executions = serializers.IntegerField()
    open_executions = serializers.IntegerField()
    failed_executions = serializers.IntegerField()
    blocks = serializers.IntegerField()
    blocks_waiting = serializers.IntegerField(help_text="For a person.")
    blocks_going_on = serializers.IntegerField(help_text="By themselves: they are tried again.")
    blocks_failed = serializers.IntegerField(help_text="Of executions that go on.")
    blocks_healed = serializers.IntegerField(help_text="Completed after all.")
    people_asked = serializers.IntegerField(help_text="Just now.")


class SampleSerializer(StrictSerializer):
    execution_id = serializers.UUIDField(allow_null=True)
    failure = JSONObjectField()


class IncidentNoteSerializer(StrictSerializer):
    kind = serializers.ChoiceField(choices=NoteKind.choices)
    text = serializers.CharField()
    by = serializers.CharField(allow_null=True)
    at = serializers.DateTimeField()


class IncidentDetailSerializer(IncidentSerializer):
    sample = SampleSerializer()
    blast_radius = BlastRadiusSerializer()
    timeline = IncidentNoteSerializer(many=True, help_text="The latest 200, the oldest first.")


class IncidentBlockSerializer(StrictSerializer):
    execution_id = serializers.UUIDField()
    execution_status = serializers.ChoiceField(choices=ExecutionStatus.choices)
    block_execution_id = serializers.CharField()
    epoch = serializers.IntegerField()
    item = serializers.IntegerField(allow_null=True, help_text="Of a block with `forEach`: which, from 1.")
    status = serializers.ChoiceField(choices=BlockStatus.choices)
    reason = serializers.CharField()
    failures = serializers.IntegerField()
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()


class IncidentBlockListSerializer(StrictSerializer):
    blocks = IncidentBlockSerializer(many=True)
    total = serializers.IntegerField()
