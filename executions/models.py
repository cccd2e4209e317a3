"""Executions as rows.  The rows are the truth; every message is a hint to look at them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.functions import Now

from agentflow.agents.journal import StepKind, StepStatus
from agentflow.governance.access import WorkspaceScopedQuerySet
from agentflow.types import JSONValue

# models of this app, too
from .faults import models as fault_models  # noqa: F401
from .incidents import models as incident_models  # noqa: F401
from .incidents import repair_models  # noqa: F401
from .learning import models as learning_models  # noqa: F401
from .recovery import rule_models  # noqa: F401
from .states import BlockStatus, ExecutionStatus


class Durability(models.TextChoices):
    """What one commit of the engine may hold; either way nothing that was committed is lost."""

    STRICT = "strict"  # one call's outcome
    GROUP = "group"  # outcomes of several calls that are fast and may be repeated


class Compensation(models.TextChoices):
    """How far a run that failed or was cancelled has undone what it did; empty: it does not."""

    DUE = "due"  # once its calls have stopped and its children have ended
    RUNNING = "running"
    STOPPED = "stopped"  # by a cancel: what was open of it is cancelled
    DONE = "done"  # every compensation is settled, one or the other by hand


class Execution(models.Model):
    """One run of one template version.

    Its row is the lock of the run: every transaction that moves the run or a block of it takes
    `FOR NO KEY UPDATE` on it first, then blocks by id.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.PROTECT, related_name="executions", db_index=False
    )
    template_version = models.ForeignKey(
        "templates_app.TemplateVersion", on_delete=models.PROTECT, related_name="executions", db_index=False
    )
    status = models.CharField(max_length=10, choices=ExecutionStatus.choices, default=ExecutionStatus.PENDING)
    epoch = models.PositiveIntegerField(default=1)  # a restart begins the next
    input = models.JSONField(default=dict)
    # Large members of a child's input, {"<blob>": ["<member>", ...]}; `input` has a note in their place.
    input_blobs = models.JSONField(null=True)
    # {"scale": 0.001, "outputs": {...}, "failures": {...}, "answers": {...}}; null = for real
    simulation = models.JSONField(null=True)
    max_parallel = models.PositiveIntegerField()
    durability = models.CharField(
        max_length=6, choices=Durability.choices, default=Durability.GROUP, db_default=Durability.GROUP
    )
    open_sinks = (
        models.PositiveIntegerField()
    )  # blocks without successors that are not settled; 0 ends the run
    failed_blocks = models.PositiveIntegerField(default=0)
    # From this position of the plan on blocks were left ready; null: none was.  See `engine.frontier`.
    ready_idx = models.PositiveIntegerField(null=True)
    ready_iteration = models.PositiveIntegerField(null=True)
    # The epoch whose decisions are taken again where the same is asked; null: none.  A restart sets it.
    decisions_of = models.PositiveIntegerField(null=True)
    # Why a person last sent it back, as expressions see it in `context.rework`, with the epoch that this
    # began: {"round", "comment", "by", "askedBy", "blocks": ["<blockId>"], "epoch"}; null: never.
    rework = models.JSONField(null=True)
    ends_as = models.CharField(max_length=10, blank=True)  # while cancelling: the status that follows
    compensation = models.CharField(
        max_length=7, choices=Compensation.choices, blank=True, default="", db_default=""
    )
    parent_block = models.ForeignKey(
        "BlockExecution",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="children",
        db_index=False,
    )
    parent_attempt = models.PositiveIntegerField(null=True, blank=True)
    depth = models.PositiveSmallIntegerField(default=0)  # 0 = started by a client, 1 = child of such a run
    root = models.UUIDField(null=True)  # of a child: the run at depth 0 above it, which has the pins
    error = models.JSONField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    deadline_at = models.DateTimeField(null=True)
    # The client's name for what the run is about.  Its template stands beside it, for a constraint sees
    # one table only; a template belongs to one workspace.
    business_key = models.TextField(null=True)
    business_template = models.UUIDField(null=True)
    # Other ways for some of its blocks than its version says, as `recovery.patching` has them; null: none.
    patches = models.JSONField(null=True)
    edits = models.PositiveIntegerField(db_default=0)  # how often outputs were edited: what was read is stale
    # Where a fork began: blocks that are carried point to rows of that execution, or of those before it.
    forked_from = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="forks", db_index=False
    )
    forked_epoch = models.PositiveIntegerField(null=True)
    forked_point = models.BigIntegerField(null=True)  # the recovery point, which may have given way since
    # What goes wrong on purpose, as it was when it was accepted; null: nothing.
    faults = models.ForeignKey(
        "FaultInjection",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="executions",
        db_index=False,
    )

    objects = WorkspaceScopedQuerySet.as_manager()

    past = False  # read with the blocks of an epoch that a restart has ended

    class Meta:
        indexes = [
            models.Index(fields=["workspace", "-created_at"], name="execution_recent"),  # GET executions
            # The latest runs of a version, and whether there are any.
            models.Index(fields=["template_version", "-created_at"], name="execution_of_version"),
            models.Index(  # GET executions?businessKey=
                fields=["business_key"],
                condition=models.Q(business_key__isnull=False),
                name="execution_by_business_key",
            ),
            models.Index(
                fields=["forked_from"],
                condition=models.Q(forked_from__isnull=False),
                name="forks_of_execution",
            ),
            models.Index(
                fields=["faults"],
                condition=models.Q(faults__isnull=False),
                name="executions_that_meet_faults",
            ),
            GinIndex(  # values that no execution was given are removed
                fields=["input_blobs"],
                condition=models.Q(input_blobs__isnull=False),
                name="execution_by_input_blob",
            ),
        ]
        constraints = [
            # A retried or repeated settle cannot start a second child for the same attempt.
            models.UniqueConstraint(fields=["parent_block", "parent_attempt"], name="one_child_per_attempt"),
            models.UniqueConstraint(
                fields=["business_template", "business_key"],
                condition=models.Q(business_key__isnull=False, completed_at__isnull=True),
                name="one_active_run_per_business_key",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def simulated(self) -> bool:
        return self.simulation is not None


class Pin(models.Model):
    """A version that sub-workflows of a run use, at whatever depth; fixed when the run is accepted."""

    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="pins", db_index=False)
    version = models.ForeignKey(
        "templates_app.TemplateVersion", on_delete=models.PROTECT, related_name="pins"
    )
    newest = models.BooleanField()  # also for blocks that name no version

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["execution", "version"], name="one_pin_per_version"),
        ]

    def __str__(self) -> str:
        return f"{self.version} for {self.execution_id}"


class BlockExecution(models.Model):
    """One block of one run.

    `todo`, `dead` and `failed` count its incoming edges: still open, closed because another branch
    was chosen or a predecessor was skipped, closed because of a failure.  `blocked` with `todo` 0 is
    a block whose opening is still to be decided, which stays so only while the run is paused.

    A block with `forEach` waits (reason `items`) while a row for each item is worked on; `todo` then
    counts the items that are not settled.
    """

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="blocks", db_index=False)
    epoch = models.PositiveIntegerField(default=1)
    idx = models.PositiveIntegerField()  # position in the version's plan
    iteration = models.PositiveIntegerField(default=0)  # 0 = the block; from 1 on, an item of its `forEach`
    item = models.JSONField(null=True)  # of a row from 1 on
    round = models.PositiveIntegerField(default=0)  # how often `repeat` has begun again
    block_id = models.TextField()
    status = models.CharField(max_length=16, choices=BlockStatus.choices)
    todo = models.PositiveIntegerField()
    dead = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    attempt = models.PositiveIntegerField(default=0)
    # Attempts whose worker vanished, since `tries_from`.
    crashes = models.PositiveSmallIntegerField(default=0)
    tries_from = models.PositiveIntegerField(default=0)  # attempts before its retries were last counted anew
    effect = models.CharField(max_length=5)  # pure | keyed | once, fixed at start
    effect_seq = models.PositiveIntegerField(default=0)
    available_at = models.DateTimeField(null=True)  # backoff: not to be claimed before
    agent_until = models.DateTimeField(null=True)  # so long the next attempt waits for an agent: its patience
    lease_owner = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)  # of the latest attempt
    completed_at = models.DateTimeField(null=True)
    input = models.JSONField(
        null=True
    )  # resolved `input` mapping; null where it is just the dependencies' outputs
    output = models.JSONField(null=True)
    # What a person put in place of `output`, which stays: {"output": ..., "by": "ann", "at": "..."}
    edit = models.JSONField(null=True)
    input_blob = models.UUIDField(null=True)  # the `Blob` that has the value in place of the column
    output_blob = models.UUIDField(null=True)
    error = models.JSONField(null=True)
    reason = models.TextField(blank=True, default="")  # why skipped, cancelled or waiting: a stable code
    choice = models.JSONField(null=True)  # indexes of the branches taken
    # The row of an earlier epoch, or of the execution that was forked, in which the block settled: attempts,
    # late results and questions stay with it.  A bare number: a foreign key would need an index of its own.
    carried_from = models.BigIntegerField(null=True)

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        constraints = [
            # The claim's and the settle's way to a block, and the only one by execution: with a second a
            # plan made while tables are small reads a whole run for each block.  There is no index on
            # status, which would make every state change a non-HOT update.
            models.UniqueConstraint(
                fields=["execution", "epoch", "idx", "iteration"], name="one_row_per_block_and_iteration"
            ),
        ]
        # Whether a value is still referred to.  Partial, and null stays null in nearly every update,
        # which so stays HOT.
        indexes = [
            models.Index(
                fields=["input_blob"],
                condition=models.Q(input_blob__isnull=False),
                name="block_by_input_blob",
            ),
            models.Index(
                fields=["output_blob"],
                condition=models.Q(output_blob__isnull=False),
                name="block_by_output_blob",
            ),
        ]

    workspace_path = "execution__workspace"

    def __str__(self) -> str:
        return f"{self.block_id} of {self.execution_id}"

    @property
    def shown_output(self) -> JSONValue:
        """What later blocks see."""
        return self.output if self.edit is None else self.edit["output"]


class AttemptOutcome(models.TextChoices):
    OK = "ok"
    ERROR = "error"
    RESCUED = "rescued"  # its worker vanished; the lease ran out
    CANCELLED = "cancelled"
    WAITED = "waited"  # its agent stopped between two steps: for a person, another agent, or a paused run


class BlockAttempt(models.Model):
    """One ended attempt; the one in flight is the block's own row."""

    block = models.ForeignKey(
        BlockExecution, on_delete=models.CASCADE, related_name="attempts", db_index=False
    )
    attempt = models.PositiveIntegerField()
    outcome = models.CharField(max_length=9, choices=AttemptOutcome.choices)
    agent_id = models.TextField(blank=True, default="")
    failure = models.JSONField(null=True)
    usage = models.JSONField(null=True)  # tokens, cost and model, as `agentflow.agents.usage`; null: nothing
    # The fault that it met on purpose: {"fault": "slow", "ms": 500, "rule": 1, "counted": false}
    injected = models.JSONField(null=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["block", "attempt"], name="one_row_per_attempt")]
        indexes = [
            # What a run used up: most attempts cost nothing and are not in it.
            models.Index(
                fields=["block"], condition=models.Q(usage__isnull=False), name="attempts_that_used"
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.attempt}: {self.outcome}"


class AgentStep(models.Model):
    """One step of an agent that works in several: an answer of its model, or a call of one of its tools.

    Written before the step is done, and again with what came of it.  Steps belong to the operation that the
    block's idempotency key stands for: the next attempt goes on behind the last.  `block` and `attempt` say
    who did the step.
    """

    block = models.ForeignKey(BlockExecution, on_delete=models.CASCADE, related_name="steps")
    attempt = models.PositiveIntegerField()
    operation = models.TextField()
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=5, choices=[(each.value, each.value) for each in StepKind])
    name = models.TextField()  # of the model, or of the tool as the model calls it
    status = models.CharField(max_length=7, choices=[(each.value, each.value) for each in StepStatus])
    request = models.JSONField(default=dict)
    request_hash = models.CharField(max_length=64)
    result = models.JSONField(null=True)
    usage = models.JSONField(null=True)
    failure = models.JSONField(null=True)
    decision = models.JSONField(null=True)  # a person's: {"approved": true, "response": {...}, "by": "ann"}
    seconds = models.FloatField(default=0)
    uncounted = models.BooleanField(default=False, db_default=False)  # a call, which the clock is to measure
    began_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            # Calls that no measure of their agent has yet: few at any time.
            models.Index(fields=["id"], condition=models.Q(uncounted=True), name="steps_to_count"),
        ]
        constraints = [
            # Two attempts cannot both do the next step.
            models.UniqueConstraint(fields=["operation", "number"], name="one_step_per_number"),
        ]

    def __str__(self) -> str:
        return f"step {self.number}: {self.name}"


class LateResult(models.Model):
    """What a worker brought after its block had been given to another.  Kept for people, without effect."""

    block = models.ForeignKey(BlockExecution, on_delete=models.CASCADE, related_name="late_results")
    attempt = models.PositiveIntegerField()
    output = models.JSONField(null=True)
    output_blob = models.UUIDField(null=True)
    failure = models.JSONField(null=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index(
                fields=["output_blob"],
                condition=models.Q(output_blob__isnull=False),
                name="late_by_output_blob",
            )
        ]

    def __str__(self) -> str:
        return f"late result of attempt {self.attempt}"


class BlobPlace(models.TextChoices):
    DATABASE = "database"
    S3 = "s3"


class Blob(models.Model):
    """A value too large for a block's row: its JSON text, once per workspace.

    No foreign key leads here: rows name it by its id, and `blobs.tidy` removes what none names.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace_id = models.UUIDField()
    sha256 = models.CharField(max_length=64)
    bytes = models.PositiveIntegerField()
    place = models.CharField(max_length=8, choices=BlobPlace.choices, default=BlobPlace.DATABASE)
    data = models.BinaryField(null=True)  # where `place` is the database
    stored = models.BooleanField(default=False)  # the bytes are where `place` says
    removed = models.BooleanField(default=False)  # no new row may refer to it; it goes once its object has
    touched_at = models.DateTimeField(db_default=Now())  # when a row was last about to refer to it

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace_id", "sha256"],
                condition=models.Q(removed=False),
                name="one_blob_per_content",
            )
        ]
        indexes = [models.Index(fields=["touched_at"], name="blob_by_age")]  # what may be tidied

    def __str__(self) -> str:
        return str(self.id)


class TimerKind(models.TextChoices):
    NEWS = "news"  # look at one execution now: another one, its child or its parent, has changed
    CHECK = "check"  # look at one execution: expired leases, lost hints, backoff, deadline, a child's end
    APPROVAL_TIMEOUT = "approval_timeout"
    RECOVERY = "recovery"  # restart an execution that ended: `tries` is its epoch, `progress` the point


class Timer(models.Model):
    """A moment at which the clock has something to do.  A row is deleted by the transaction that did it."""

    kind = models.CharField(max_length=20, choices=TimerKind.choices)
    key = models.TextField()  # "check:<execution>", "approval_timeout:<approval>"
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="timers")
    subject = models.UUIDField(null=True)  # the approval
    due_at = models.DateTimeField(db_index=True)
    tries = models.PositiveIntegerField(default=0)  # checks in a row that saw no progress: they grow rarer
    progress = models.BigIntegerField(default=0)  # what the last check saw: settled blocks plus attempts
    moved_at = models.DateTimeField(null=True)  # when a check last saw another progress than the one before
    stuck_at = models.DateTimeField(null=True)  # of a run that is stuck: when a check found that out

    class Meta:
        constraints = [
            # No `unique=True`, which would bring a second index for LIKE.
            models.UniqueConstraint(fields=["key"], name="one_timer_per_key"),
        ]
        indexes = [
            # what is stuck: few at any time
            models.Index(
                fields=["execution"], condition=models.Q(stuck_at__isnull=False), name="stuck_executions"
            ),
        ]

    def __str__(self) -> str:
        return self.key


class PointKind(models.TextChoices):
    INTERVAL = "interval"  # a minute of progress
    CHECKPOINT = "checkpoint"  # a block with `checkpoint` completed
    DECISION = "decision"  # a person decided
    RESTART = "restart"  # how an epoch ended that a restart left
    MANUAL = "manual"


class RecoveryPoint(models.Model):
    """A moment of a run to which it, or a fork of it, can go back.

    Outputs never change, so a moment is the blocks that had settled: bit n of `settled`, little-endian,
    is the block at position n of the plan.
    """

    execution = models.ForeignKey(
        Execution, on_delete=models.CASCADE, related_name="recovery_points", db_index=False
    )
    epoch = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, choices=PointKind.choices)
    name = models.TextField(blank=True, default="")
    xid = models.BigIntegerField()  # the transaction in which it was taken: later ones came after it
    settled = models.BinaryField()
    settled_count = models.PositiveIntegerField()
    created_at = models.DateTimeField(db_default=Now())
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["execution", "-id"], name="points_of_execution")]

    workspace_path = "execution__workspace"

    def __str__(self) -> str:
        return self.name or self.get_kind_display()

    @property
    def idxs(self) -> frozenset[int]:
        """Positions of the blocks that had settled."""
        bits = int.from_bytes(self.settled, "little")
        return frozenset(n for n in range(bits.bit_length()) if bits >> n & 1)


class EventWait(models.Model):
    """A block that waits, or has waited, for an event from outside.

    Written in the transaction in which the block begins to wait.  `event` is what it got, as
    expressions see it: `{"eventId", "type", "correlation", "payload", "at"}`.
    """

    block = models.OneToOneField(BlockExecution, on_delete=models.CASCADE, related_name="event_wait")
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="+")
    epoch = models.PositiveIntegerField()
    workspace_id = models.UUIDField()
    type = models.TextField()
    correlation = models.TextField(blank=True, default="")
    received = models.UUIDField(null=True)  # the event's row, which is removed earlier than this one
    event = models.JSONField(null=True)

    class Meta:
        constraints = [
            # Within an epoch an event moves one block: two waits in a row take two events.
            models.UniqueConstraint(fields=["execution", "epoch", "received"], name="one_wait_per_event"),
        ]
        indexes = [
            # an event looks for who waits
            models.Index(
                fields=["workspace_id", "type", "correlation"],
                name="waits_by_key",
                condition=models.Q(received=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.correlation}".strip()


class PlaceKind(models.TextChoices):
    EXECUTION = "execution"
    BLOCK = "block"
    AGENT = "agent"  # `key` is the agentId; empty: a block that waits for any agent that is fit


class Place(models.Model):
    """A place of a concurrency key or of an agent, held or waited for, by an execution or one of its blocks.

    One whose holder is settled counts for nothing any more; the holder's next transaction removes it.
    An agent's is held for one attempt.  A block may wait for several agents; the first that has a place
    for it gets it.
    """

    workspace_id = models.UUIDField()
    kind = models.CharField(max_length=9, choices=PlaceKind.choices)
    key = models.TextField()
    places = models.PositiveIntegerField()  # how many there are at a time, as its own version says
    priority = models.SmallIntegerField(default=0)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="+")
    block = models.ForeignKey(BlockExecution, on_delete=models.CASCADE, null=True, related_name="places")
    held = models.BooleanField(default=False)
    attempt = models.PositiveIntegerField(null=True)  # of an agent's that is held: for which it is
    rate = models.PositiveIntegerField(null=True)  # of an agent's: how many calls it takes in a minute
    # Of a block that waits for any agent that is fit: what those have in common for whom the same are fit.
    seeks = models.TextField(db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["execution"], condition=models.Q(block=None), name="one_place_per_run"
            ),
            models.UniqueConstraint(fields=["block", "kind", "key"], name="one_place_per_block_and_key"),
        ]
        indexes = [
            # who holds a key, and who is next
            models.Index(
                fields=["workspace_id", "kind", "key", "held", "-priority", "id"], name="place_queue"
            ),
            # who waits for any agent that is fit, kind by kind
            models.Index(
                fields=["seeks", "-priority", "id"],
                condition=models.Q(kind="agent", key="", held=False),
                name="place_seeks",
            ),
        ]

    def __str__(self) -> str:
        return self.key


class AgentWindow(models.Model):
    """How many calls an agent with a rate took in the last minute, by second: `[[second, calls], ...]`."""

    workspace_id = models.UUIDField()
    agent_id = models.TextField()
    calls = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace_id", "agent_id"], name="one_window_per_agent"),
        ]

    def __str__(self) -> str:
        return self.agent_id


class RoutingReceipt(models.Model):
    """Why an attempt went to its agent; written before the call, so that a crash does not forget it.

    `receipt` is `Ranking.as_json()` with what was asked, and `chosen` and `runnerUp`; an old one keeps
    what was asked and chosen alone.
    """

    block = models.ForeignKey(
        BlockExecution, on_delete=models.CASCADE, related_name="receipts", db_index=False
    )
    attempt = models.PositiveIntegerField()
    agent_id = models.TextField()
    receipt = models.JSONField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["block", "attempt"], name="one_receipt_per_attempt")]
        indexes = [
            # what the clock cuts down once it is old
            models.Index(
                fields=["at"], condition=models.Q(receipt__has_key="candidates"), name="whole_receipt_by_age"
            )
        ]

    def __str__(self) -> str:
        return f"attempt {self.attempt}: {self.agent_id}"


class CallbackAnswer(models.Model):
    """What was brought to an attempt's callback URL: one answer each, kept so that a repeat is known."""

    block = models.ForeignKey(BlockExecution, on_delete=models.CASCADE, related_name="+", db_index=False)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="+")
    attempt = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)  # of the body as it was sent
    output = models.JSONField(null=True)
    failure = models.JSONField(null=True)  # null: the output counts
    usage = models.JSONField(null=True)
    late = models.BooleanField(default=False)  # nothing waited for it any more: kept as a late result
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["block", "attempt"], name="one_callback_per_attempt"),
        ]

    def __str__(self) -> str:
        return f"callback of attempt {self.attempt}"


class BudgetScope(models.TextChoices):
    BLOCK = "block"
    EXECUTION = "execution"
    AGENT = "agent"  # of a day, as the next
    WORKSPACE = "workspace"


class BudgetState(models.Model):
    """What became of a budget: whether there was a warning, what people allowed more, who asks just now.

    Written when there is something to say; a budget that is not used up has no row.
    """

    workspace_id = models.UUIDField()
    scope = models.CharField(max_length=9, choices=BudgetScope.choices)
    # The execution's id; of a block's with its blockId: `<id>:<blockId>`.  Of a day's: `2026-11-21`, of an
    # agent's with its agentId: `2026-11-21:writer`.
    key = models.TextField()
    execution = models.ForeignKey(  # null: of a day
        Execution, on_delete=models.CASCADE, null=True, related_name="+"
    )
    warned = models.BooleanField(default=False)
    extra = models.JSONField(
        default=dict
    )  # allowed beyond the budget: {"tokens": 500, "cost": 1.5, "time": 1}
    answered = models.PositiveIntegerField(default=0)  # questions about it
    asked_block = models.BigIntegerField(null=True)  # the row of the block that waits for an answer
    stopped_epoch = models.PositiveIntegerField(null=True)  # in which a person said stop
    agent_id = models.TextField(db_default="")  # of a block: the cheaper one that it goes on with

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace_id", "scope", "key"], name="one_state_per_budget")
        ]
        indexes = [
            # Of an answer: which budget its block asked about.
            models.Index(
                fields=["asked_block"], condition=models.Q(asked_block__isnull=False), name="budget_asked_by"
            )
        ]

    def __str__(self) -> str:
        return f"budget of {self.scope} {self.key}"


class BudgetWait(models.Model):
    """A run that waits for a word about the budget of a day, or for a larger one: it is told of either."""

    workspace_id = models.UUIDField()
    scope = models.CharField(max_length=9, choices=BudgetScope.choices)
    key = models.TextField()
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace_id", "scope", "key", "execution"], name="one_wait_per_budget_and_run"
            )
        ]

    def __str__(self) -> str:
        return f"{self.execution_id} waits for {self.scope} {self.key}"


class DaySpending(models.Model):
    """What the calls of an agent used up on a day (UTC), where it or its workspace has a budget of a day.

    Added to in the transaction that records what an attempt or a step used, so it is counted once whatever
    dies when; a sum over attempts instead would read all of a day's before every call.
    """

    workspace_id = models.UUIDField()
    day = models.DateField()
    agent_id = models.TextField()  # "": models that were called without an agent
    # Counted for another agent already, as a part of whose work this one called or was called: it is in no
    # sum over agents.
    again = models.BooleanField(db_default=False)
    unit = models.TextField()  # tokens, or a currency
    amount = models.DecimalField(max_digits=40, decimal_places=12)

    class Meta:
        constraints = [
            # Also the index of every look at a day.
            models.UniqueConstraint(
                fields=["workspace_id", "day", "agent_id", "again", "unit"],
                name="one_sum_per_agent_and_day",
            )
        ]

    def __str__(self) -> str:
        return f"{self.agent_id} on {self.day}: {self.amount} {self.unit}"


class ProcessKind(models.TextChoices):
    WORKER = "worker"
    CLOCK = "clock"


class Process(models.Model):
    """A worker or clock process.  It stamps its row while it lives; the clock removes rows of the dead."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=6, choices=ProcessKind.choices)
    name = models.TextField()
    host = models.TextField()
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list)
    threads = models.PositiveIntegerField(default=1)
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    heard_at = models.DateTimeField(null=True)  # a worker's: when it last took a message from its queues

    class Meta:
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


class DayTally(models.Model):
    """How often something happened on a day, of all workers and clocks: `tallies`."""

    name = models.TextField()
    day = models.DateField()
    count = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "day"], name="one_tally_per_day")]

    def __str__(self) -> str:
        return f"{self.name} on {self.day}: {self.count}"
