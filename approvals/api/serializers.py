from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer

from ..models import Approval, ApprovalKind, DecisionKind, SampleState
from ..services.batch import MOST
from ..services.votes import COMMENTS_CHARS
from ..states import ApprovalStatus

REASON_CHARS = 1000
JSON_OBJECT = {"type": "object", "additionalProperties": True}
ANY_JSON: dict[str, Any] = {}


@extend_schema_field(JSON_OBJECT)
class ObjectField(serializers.JSONField):
    """An open object."""


@extend_schema_field(ANY_JSON)
class AnyField(serializers.JSONField):
    """Any JSON value."""


class Answer(StrictSerializer):
    """Body of respond."""

    approved = serializers.BooleanField()
    response = AnyField(
        required=False,
        allow_null=True,
        default=None,
        help_text="As `inputSchema` says. To approve with changes, where `request.editable` shows a value: "
        "`{edited: <the whole value>}` or `{edits: <JSON Patch, RFC 6902>}`.",
    )
    comments = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=COMMENTS_CHARS, trim_whitespace=False
    )
    content_hash = serializers.CharField(required=False, allow_null=True, default=None, max_length=64)


class SendBack(StrictSerializer):
    """Body of rework."""

    comments = serializers.CharField(
        max_length=COMMENTS_CHARS, help_text="What should be done otherwise; `context.rework.comment` there."
    )
    blocks = serializers.ListField(
        child=serializers.CharField(max_length=200),
        required=False,
        default=list,
        max_length=100,
        help_text="Blocks before the one that asks. Default: those directly before it; a review's own.",
    )
    content_hash = serializers.CharField(required=False, allow_null=True, default=None, max_length=64)


class Withdrawal(StrictSerializer):
    """Body of withdraw-many."""

    approval_ids = serializers.ListField(child=serializers.UUIDField(), allow_empty=False, max_length=MOST)
    reason = serializers.CharField(max_length=REASON_CHARS)


class ItemAnswer(Answer):
    approval_id = serializers.UUIDField()
    content_hash = serializers.CharField(max_length=64)


class Answers(StrictSerializer):
    """Body of respond-many: about one block of one version; each names what was read by its hash."""

    answers = serializers.ListField(child=ItemAnswer(), allow_empty=False, max_length=MOST)


class ItemResult(StrictSerializer):
    approval_id = serializers.UUIDField()
    ok = serializers.BooleanField()
    code = serializers.CharField()
    message = serializers.CharField()


class ItemResults(StrictSerializer):
    results = ItemResult(many=True)


class Done(StrictSerializer):
    success = serializers.BooleanField()


class ItemSampleSerializer(StrictSerializer):
    """Some items of the step are inspected for all of them."""

    inspect = serializers.IntegerField()
    of = serializers.IntegerField()
    state = serializers.ChoiceField(
        choices=SampleState.choices,
        help_text="passed: the rest is released; failed: each waits for a person.",
    )


class PendingApproval(StrictSerializer):
    """A question as those who may answer it see it."""

    approval_id = serializers.UUIDField(source="pk")
    workspace_id = serializers.UUIDField()
    execution_id = serializers.UUIDField()
    template_id = serializers.UUIDField(source="execution.template_version.template_id")
    template_name = serializers.CharField(source="execution.template_version.template.name")
    version_number = serializers.IntegerField(source="execution.template_version.number")
    simulated = serializers.BooleanField()
    block_id = serializers.CharField()
    block_name = serializers.CharField()
    attempt = serializers.IntegerField()
    type = serializers.ChoiceField(source="kind", choices=ApprovalKind.choices)
    level = serializers.CharField()
    status = serializers.ChoiceField(choices=ApprovalStatus.choices)
    request = ObjectField()
    input_schema = ObjectField()
    content_hash = serializers.CharField()
    requested_at = serializers.DateTimeField()
    respond_by = serializers.DateTimeField()
    sla_state = serializers.ChoiceField(choices=["ok", "due_soon", "overdue"])
    quorum = serializers.CharField(help_text="How many of the level have to agree: any, all or a number.")
    level_index = serializers.IntegerField(help_text="Its place among the levels of the question, from 0.")
    level_count = serializers.IntegerField()
    assignment_note = serializers.CharField(
        help_text="Why people whom the template names are not asked, where that is so."
    )
    claimed_by = serializers.CharField(source="claimer", allow_null=True, default=None)
    supersedes = serializers.UUIDField(
        allow_null=True,
        help_text="The question that this one takes the place of: `changes` tells them apart.",
    )
    changes = serializers.ListField(child=ObjectField(), help_text="`{pointer, before, after}` each.")
    sample = ItemSampleSerializer(allow_null=True, help_text="The sample that it belongs to.")
    inspected = serializers.BooleanField(help_text="It was drawn: its answer counts for the others.")


class ApprovalRecord(PendingApproval):
    """A question with what came of it; `closedAt` is when it was no longer open, whatever the way."""

    approved = serializers.SerializerMethodField()
    approver = serializers.SerializerMethodField()
    responded_at = serializers.DateTimeField(allow_null=True)
    closed_at = serializers.DateTimeField(allow_null=True)
    decision = serializers.ChoiceField(choices=DecisionKind.choices, allow_blank=True)
    response = AnyField(allow_null=True)
    comments = serializers.CharField()
    released_by_sample = serializers.BooleanField(
        source="released", help_text="Those inspected were approved, and this was not looked at itself."
    )
    reason = serializers.CharField()
    carried_from = serializers.UUIDField(
        allow_null=True,
        help_text="The approval that was answered, where a restart took its answer again instead of asking.",
    )

    def get_approved(self, approval: Approval) -> bool | None:
        return {"approved": True, "rejected": False}.get(approval.status)

    def get_approver(self, approval: Approval) -> str | None:
        return approval.responder.get_username() if approval.responder else None


class StepSerializer(StrictSerializer):
    block_id = serializers.CharField()
    name = serializers.CharField()
    maybe = serializers.BooleanField()


class FollowsSerializer(StrictSerializer):
    """The steps that directly follow an answer, as far as the definition tells."""

    approve = StepSerializer(many=True)
    reject = StepSerializer(many=True)
    on_reject = serializers.ChoiceField(choices=["fail", "skip", "continue"])


class WayBackSerializer(StrictSerializer):
    """A block that `rework` may name."""

    block_id = serializers.CharField()
    name = serializers.CharField()
    usual = serializers.BooleanField(help_text="Where it goes back to when no block is named.")
    runs_again = serializers.ListField(
        source="again", child=serializers.CharField(), help_text="Blocks that have ended and would run again."
    )


class OfferSerializer(StrictSerializer):
    left = serializers.IntegerField(help_text="How often it may still be sent back; 0: `rework_used_up`.")
    most = serializers.IntegerField()
    blocks = WayBackSerializer(source="ways", many=True)


class VoteSerializer(StrictSerializer):
    """What one person decided; `edits` is a JSON Patch from what was shown to what was approved."""

    user = serializers.CharField(source="user.username")
    on_behalf_of = serializers.CharField(source="on_behalf_of.username", allow_null=True, default=None)
    level = serializers.CharField()
    decision = serializers.ChoiceField(choices=DecisionKind.choices)
    response = AnyField(allow_null=True)
    edits = serializers.ListField(child=ObjectField(), allow_null=True)
    comments = serializers.CharField()
    channel = serializers.CharField()
    counts = serializers.BooleanField(
        help_text="False: what was shown was changed afterwards, so this was said to something else."
    )
    at = serializers.DateTimeField()
    evidence = ObjectField()


class CommentSerializer(StrictSerializer):
    id = serializers.IntegerField()
    user = serializers.CharField(source="user.username")
    text = serializers.CharField()
    at = serializers.DateTimeField()


class LevelSerializer(StrictSerializer):
    """`escalation`: it is asked only if those before let their time pass."""

    level = serializers.CharField()
    quorum = serializers.CharField()
    timeout = serializers.IntegerField(help_text="Milliseconds.")
    escalation = serializers.BooleanField()


class AssigneeSerializer(StrictSerializer):
    """Asked beside the level's group, or instead of it; one of `user` and `group`."""

    user = serializers.CharField(source="user.username", allow_null=True, default=None)
    group = serializers.CharField(source="group.name", allow_null=True, default=None)
    delegated_by = serializers.CharField(source="delegated_by.username", allow_null=True, default=None)
    reason = serializers.CharField()


class StandInSerializer(StrictSerializer):
    """An agent that the step was called with, or could be; `successes` and `failures` of the last day."""

    agent_id = serializers.CharField()
    name = serializers.CharField()
    called = serializers.BooleanField()
    successes = serializers.IntegerField()
    failures = serializers.IntegerField()
    mean_ms = serializers.FloatField(allow_null=True)
    circuit = serializers.CharField(help_text="closed, open or half_open.")


class AlikeSerializer(StrictSerializer):
    """The incident that counts this failure."""

    incident_id = serializers.UUIDField(source="pk")
    count = serializers.IntegerField()
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()


class StuckStepSerializer(StrictSerializer):
    """Of a step that cannot go on."""

    may_change = serializers.BooleanField(
        help_text="Oneself, with `agentId`, `configuration` and `input` of the response, and `abort`."
    )
    step = ObjectField(
        allow_null=True, help_text="`{agentId?, configuration, input?}` as it is called; null: as it is."
    )
    values = ObjectField(allow_null=True, help_text="The input that the last try was given.")
    tries = serializers.ListField(
        child=ObjectField(), help_text="The failed ones, as in `GET /executions/{id}/recovery`."
    )
    agents = StandInSerializer(many=True)
    incident = AlikeSerializer(allow_null=True)


class ApprovalDetail(ApprovalRecord):
    votes = VoteSerializer(many=True)
    levels = LevelSerializer(many=True)
    assignees = AssigneeSerializer(many=True)
    remarks = CommentSerializer(many=True)
    may_decide = serializers.BooleanField()
    follows = FollowsSerializer()
    rework = OfferSerializer(
        allow_null=True, help_text="Where it may be sent back to, the nearest first; null: it may not."
    )
    fix = StuckStepSerializer(allow_null=True, help_text="Of the type `fix`.")


class PendingApprovals(StrictSerializer):
    approvals = PendingApproval(many=True)
    total = serializers.IntegerField()


class ApprovalRecords(StrictSerializer):
    approvals = ApprovalRecord(many=True)
    total = serializers.IntegerField()
