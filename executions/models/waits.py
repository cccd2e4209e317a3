"""What a run waits for: times, events, and results that are brought to it."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from .blocks import BlockExecution
from .runs import Execution


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
