"""Questions to people, and the ladder of groups that may answer them."""

from __future__ import annotations

import uuid
from datetime import time, timedelta

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Extract, Now
from django.utils import timezone

from agentflow.governance.access import WorkspaceScopedQuerySet
from templates_app.fields import OrderedJSONField

from .states import ApprovalStatus

CLAIM = timedelta(minutes=30)  # after which a claim counts no more
ANY_APPROVER = "user"  # the level of a question that any approver of the workspace may answer


class ApprovalKind(models.TextChoices):
    APPROVAL = "approval"  # before a block: may it run?
    INPUT = "input"  # instead of an agent: the answer is the block's output
    REVIEW = "review"  # after a block: may its output flow on, as it is or changed?
    EDIT = "edit"  # before a block: change what the blocks before it gave
    FIX = "fix"  # a block cannot go on: run it again, complete it by hand, skip it, fail it
    TOOL = "tool"  # an LLM agent wants to use a tool: may it, with these arguments?
    BUDGET = "budget"  # the money is spent: extend it, go on with a cheaper agent, stop


class DecisionKind(models.TextChoices):
    """What a person decided; `approved` of an answer is whether it is among the first three."""

    APPROVE = "approve"
    EDIT = "edit"  # approved, with changes
    ANSWER = "answer"  # what was asked for was filled in
    REJECT = "reject"
    REWORK = "rework"  # back to the blocks before


class OnTimeout(models.TextChoices):
    """What becomes of a question that nobody answered, at the last level it can reach."""

    FAIL = "fail"
    APPROVE = "approve"
    REJECT = "reject"
    WAIT = "wait"


class SampleState(models.TextChoices):
    OPEN = "open"
    PASSED = "passed"  # all inspected were approved as they stood: the rest is released
    FAILED = "failed"  # one was not: the rest waits for a person each


class Sample(models.Model):
    """Some questions, drawn by chance, that are inspected for all of them.

    Either the items of a `forEach`: `block` is the row of the whole in its epoch, `chosen` the iterations of
    those drawn.  Or `of` successive questions that `step`, a blockId, asks in whatever executions of
    `version`: then `asked` have come by now, and `chosen` are places among them, from 1.
    """

    block = models.OneToOneField(
        "executions.BlockExecution", on_delete=models.CASCADE, null=True, related_name="+"
    )
    version = models.ForeignKey(
        "templates_app.TemplateVersion",
        on_delete=models.CASCADE,
        null=True,
        related_name="+",
        db_index=False,
    )
    step = models.TextField(blank=True, default="", db_default="")
    asked = models.PositiveIntegerField(default=0, db_default=0)
    of = models.PositiveIntegerField()
    chosen = models.JSONField()
    state = models.CharField(max_length=6, choices=SampleState.choices, default=SampleState.OPEN)
    released_by = models.ForeignKey(  # who approved the last of those inspected
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(block__isnull=False, version__isnull=True)
                | Q(block__isnull=True, version__isnull=False),
                name="sample_of_items_or_of_questions",
            ),
            models.UniqueConstraint(  # serves the look for the one that fills, too
                fields=["version", "step"],
                condition=Q(asked__lt=F("of"), version__isnull=False),
                name="one_sample_fills_at_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{len(self.chosen)} of {self.of} ({self.state})"

    @property
    def inspect(self) -> int:
        return len(self.chosen)


class Approval(models.Model):
    """One question that holds one block until somebody answers, its time is over, or it is withdrawn.

    `content_hash` stands for all that a person sees; an answer that names another hash was given to
    another question.  Rows are locked after their execution's row, never before.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.PROTECT, related_name="approvals")
    execution = models.ForeignKey("executions.Execution", on_delete=models.CASCADE, related_name="approvals")
    block_execution = models.ForeignKey(
        "executions.BlockExecution", on_delete=models.CASCADE, related_name="approvals"
    )
    block_id = models.TextField()  # the template's blockId
    block_name = models.TextField()
    attempt = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, choices=ApprovalKind.choices)
    level = models.TextField(default=ANY_APPROVER)
    status = models.CharField(max_length=9, choices=ApprovalStatus.choices, default=ApprovalStatus.PENDING)
    # In the order they were written in: people read the facts, and fill in the form, in that order.
    request = OrderedJSONField(default=dict)
    input_schema = OrderedJSONField(default=dict)
    content_hash = models.CharField(max_length=64)
    requested_at = models.DateTimeField(db_default=Now())
    respond_by = models.DateTimeField()
    responded_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)  # when it left `pending`, whatever the way
    responder = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    response = models.JSONField(null=True)
    comments = models.TextField(blank=True, default="")
    # What was decided in the end: by the last person needed, or by the rule for when nobody answers.
    decision = models.CharField(max_length=7, choices=DecisionKind.choices, blank=True, default="")
    reason = models.TextField(blank=True, default="")  # why it was withdrawn
    # The levels it goes through, see `services.levels`; `level` and `quorum` are those of the present one.
    levels = models.JSONField(default=list)
    level_index = models.PositiveSmallIntegerField(default=0)
    level_since = models.DateTimeField(db_default=Now())
    quorum = models.CharField(max_length=5, default="any")  # any | all | a number of people
    due_soon_at = models.DateTimeField(null=True)
    on_timeout = models.CharField(max_length=7, choices=OnTimeout.choices, default=OnTimeout.FAIL)
    # Whether only the people and groups of `assignees` are asked, and not the level's group.
    assigned = models.BooleanField(default=False)
    assignment_note = models.TextField(
        blank=True, default=""
    )  # why those whom the template names are not asked
    barred = models.JSONField(
        default=dict
    )  # who may not decide: {"<user id>": "own_request" | "own_template"}
    claimed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    claimed_at = models.DateTimeField(null=True)
    # The question that this one takes the place of, and what is shown otherwise than there:
    # [{"pointer": "/facts/amount", "before": 640, "after": 700}]
    supersedes = models.UUIDField(null=True)
    changes = OrderedJSONField(default=list)
    # The approval that was answered, where this was not asked because the same had been decided in the
    # epoch before.  A bare id: it may belong to the execution that was forked.
    carried_from = models.UUIDField(null=True)
    sample = models.ForeignKey(
        Sample, on_delete=models.SET_NULL, null=True, related_name="approvals", db_index=False
    )
    sample_place = models.PositiveIntegerField(null=True)  # among successive questions; null: among items
    # Whom the block would call, as `request.calls` says it: in words that change with the agent.
    calls = models.TextField(blank=True, default="", db_default="")
    inspected = models.BooleanField(default=False, db_default=False)  # one of those drawn
    released = models.BooleanField(default=False, db_default=False)  # by the sample, unseen
    version = models.PositiveIntegerField(default=1)
    holds = models.PositiveIntegerField(default=0, db_default=0)  # steps that wait for the answer
    spent = models.JSONField(default=dict, db_default=Value({}, models.JSONField()))  # {"USD": 0.42}: by then
    pulled_s = models.PositiveIntegerField(default=0, db_default=0)  # `services.weighing` says how much
    # Where it stands in the inbox, in seconds since 1970: its deadline, pulled forward by what it holds.
    rank = models.GeneratedField(
        expression=Extract("respond_by", "epoch") - F("pulled_s"),
        output_field=models.FloatField(),
        db_persist=True,
    )

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        constraints = [
            # A block waits for one answer at a time, or two answers could move it twice.
            models.UniqueConstraint(
                fields=["block_execution"],
                condition=Q(status=ApprovalStatus.PENDING),
                name="one_open_question_per_block",
            ),
            models.CheckConstraint(
                condition=Q(status=ApprovalStatus.PENDING, closed_at__isnull=True)
                | (~Q(status=ApprovalStatus.PENDING) & Q(closed_at__isnull=False)),
                name="closed_exactly_when_not_pending",
            ),
            models.CheckConstraint(
                condition=Q(
                    status__in=[ApprovalStatus.APPROVED, ApprovalStatus.REJECTED],
                    responded_at__isnull=False,
                    responder__isnull=False,
                )
                | (
                    ~Q(status__in=[ApprovalStatus.APPROVED, ApprovalStatus.REJECTED])
                    & Q(responded_at__isnull=True, responder__isnull=True)
                ),
                name="answered_by_somebody_or_not_at_all",
            ),
        ]
        indexes = [
            # GET approvals/pending, by its two orders
            models.Index(
                fields=["workspace", "respond_by", "id"],
                condition=Q(status=ApprovalStatus.PENDING),
                name="approval_open_by_deadline",
            ),
            models.Index(
                fields=["workspace", "requested_at", "id"],
                condition=Q(status=ApprovalStatus.PENDING),
                name="approval_open_by_age",
            ),
            models.Index(  # the inbox
                fields=["workspace", "rank", "id"],
                condition=Q(status=ApprovalStatus.PENDING),
                name="approval_open_by_rank",
            ),
            # the questions that a sample answers for
            models.Index(fields=["sample"], condition=Q(sample__isnull=False), name="approval_by_sample"),
            # GET approvals: the history, of one workspace and of many
            models.Index(fields=["workspace", "-requested_at", "-id"], name="approval_history"),
            models.Index(fields=["-requested_at", "-id"], name="approval_history_of_many"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} for {self.block_name} ({self.status})"

    @property
    def level_count(self) -> int:
        return max(len(self.levels), 1)

    @property
    def claimer(self) -> str | None:
        """Who is at it, while the claim counts."""
        if self.claimed_by is None or self.claimed_at is None or self.claimed_at + CLAIM <= timezone.now():
            return None
        return self.claimed_by.get_username()

    @property
    def sla_state(self) -> str:
        """Whether the answer comes, or came, in time: `ok`, `due_soon` or `overdue`."""
        at = self.closed_at or timezone.now()
        if at >= self.respond_by:
            return "overdue"
        soon = self.closed_at is None and self.due_soon_at is not None and at >= self.due_soon_at
        return "due_soon" if soon else "ok"


class ApprovalVote(models.Model):
    """What one person decided about one question, and the evidence for it.

    `evidence` is what was shown, by what right it was decided, and how long it took: `{"contentHash",
    "request", "inputSchema", "versionNumber", "attempt", "permission": {"name", "level", "via",
    "onBehalfOf"?}, "seconds", "requestId"}`.
    """

    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="votes")
    level = models.TextField()
    level_index = models.PositiveSmallIntegerField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    # The person whose place was taken: as a deputy.
    on_behalf_of = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    decision = models.CharField(max_length=7, choices=DecisionKind.choices)
    response = models.JSONField(null=True)
    edits = models.JSONField(null=True)  # RFC 6902, from what was shown to what was approved
    comments = models.TextField(blank=True, default="")
    evidence = models.JSONField(default=dict)
    channel = models.CharField(max_length=20)
    # False: somebody changed what was shown afterwards, so it was another thing that this person agreed to.
    counts = models.BooleanField(default=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("at", "id")
        constraints = [
            # Distinct people, over all levels.
            models.UniqueConstraint(
                fields=["approval", "user"], condition=Q(counts=True), name="one_vote_per_person"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.decision}"


class ApprovalAssignee(models.Model):
    """Somebody asked at one level of a question: named by the template, an operator or a delegation."""

    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="assignees")
    level_index = models.PositiveSmallIntegerField(default=0)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+")
    group = models.ForeignKey("auth.Group", on_delete=models.CASCADE, null=True, related_name="+")
    # Who gave it away to `user`, and is asked no more.
    delegated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+"
    )
    reason = models.TextField(blank=True, default="")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("id",)
        constraints = [
            models.CheckConstraint(
                condition=Q(user__isnull=False, group__isnull=True)
                | Q(user__isnull=True, group__isnull=False),
                name="assigned_to_a_person_or_a_group",
            ),
        ]

    def __str__(self) -> str:
        return str(self.user or self.group)


class ApprovalComment(models.Model):
    """Said about a question, without deciding it."""

    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="remarks")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    text = models.TextField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("at", "id")

    def __str__(self) -> str:
        return f"{self.user}: {self.text[:40]}"


class ApprovalLevel(models.Model):
    """One rung of a workspace's ladder: the group whose members answer questions of this level.

    Members need the workspace's permission to decide as well.  The level `user` has no row: it is
    every approver of the workspace.
    """

    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="approval_levels"
    )
    name = models.CharField(
        max_length=200,
        validators=[RegexValidator(r"^[\w.-]+\Z", "Use letters, digits, dots, hyphens and underscores.")],
    )
    position = models.PositiveIntegerField(help_text="Its place on the ladder; 1 is asked first.")
    group = models.ForeignKey("auth.Group", on_delete=models.PROTECT, related_name="+")

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        ordering = ("workspace", "position")
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="one_level_per_name"),
            models.UniqueConstraint(fields=["workspace", "position"], name="one_level_per_position"),
            models.CheckConstraint(condition=~Q(name=ANY_APPROVER), name="level_user_is_built_in"),
        ]

    def __str__(self) -> str:
        return self.name


class SavedView(models.Model):
    """A filter of the inbox that a person gave a name."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="inbox_views")
    name = models.CharField(max_length=60)
    query = models.JSONField(default=dict)  # {"kind": "fix", "late": "1"}: as in the page's address
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("name",)
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="one_inbox_view_per_name")]

    def __str__(self) -> str:
        return self.name


class Seen(models.Model):
    """That a person has opened a question."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="seen_by")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["approval", "user"], name="seen_once"),  # serves the inbox's rows
        ]

    def __str__(self) -> str:
        return f"{self.user_id} has seen {self.approval_id}"


def _weekdays() -> list[int]:
    return [1, 2, 3, 4, 5]


class ApprovalPolicy(models.Model):
    """A workspace's rules for its questions; without a row, those of the defaults here.

    The calendar says when the workspace works, for questions whose times count in business hours.
    """

    workspace = models.OneToOneField(
        "governance.Workspace", on_delete=models.CASCADE, related_name="approval_policy"
    )
    own_requests = models.BooleanField(
        default=False, help_text="Who started an execution may approve what it asks."
    )
    own_templates = models.BooleanField(
        default=False, help_text="Who wrote a template may pass the only gate that it has."
    )
    zone = models.CharField(max_length=60, default="UTC")
    working_days = models.JSONField(default=_weekdays, help_text="1 is Monday, 7 is Sunday.")
    day_begins = models.TimeField(default=time(9))
    day_ends = models.TimeField(default=time(17))
    country = models.CharField(
        max_length=6, blank=True, default="", help_text="Its public holidays are free, such as DE or US-CA."
    )
    holidays = models.JSONField(default=list, blank=True, help_text="More free days, such as 2026-12-24.")

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "approval policies"

    def __str__(self) -> str:
        return f"approval policy of {self.workspace}"


class Absence(models.Model):
    """A time in which somebody does not answer, and who answers in their place."""

    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="absences")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="absences")
    deputy = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, blank=True, related_name="+"
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    reason = models.TextField(blank=True, default="")

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        ordering = ("starts_at", "id")
        constraints = [
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="absence_ends_after_start"),
            models.CheckConstraint(
                condition=Q(deputy__isnull=True) | ~Q(deputy=F("user")), name="nobody_is_their_own_deputy"
            ),
        ]
        indexes = [
            # whose places somebody takes now
            models.Index(fields=["deputy", "ends_at"], name="absence_by_deputy"),
        ]

    def __str__(self) -> str:
        return f"{self.user} until {self.ends_at:%Y-%m-%d}"
