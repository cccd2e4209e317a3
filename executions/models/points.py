"""States of a run that it can go back to."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet

from .runs import Execution


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
