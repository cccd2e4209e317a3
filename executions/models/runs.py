"""A run, and the versions of its sub-workflows."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet
from executions.states import ExecutionStatus


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
