"""What a run does: its blocks, their attempts, and the steps of agents that work in several."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from agentflow.agents.journal import StepKind, StepStatus
from agentflow.governance.access import WorkspaceScopedQuerySet
from agentflow.types import JSONValue
from executions.states import BlockStatus

from .runs import Execution


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
