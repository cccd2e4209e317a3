"""Who does the work, and what they counted."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now


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
