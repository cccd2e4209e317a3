"""What happened, in order: one append-only table behind logs, live pages and replay."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Level(models.IntegerChoices):
    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Event(models.Model):
    """One thing that happened.  Written in the transaction that made it happen, never changed.

    `xid` is the writing transaction: ids are handed out before commit, so a reader that follows ids
    alone skips rows committed late.  Read with `store.read`, which waits for older transactions.
    """

    id = models.BigAutoField(primary_key=True)
    xid = models.BigIntegerField()  # default pg_current_xact_id(), set in the migration
    workspace_id = models.UUIDField()
    execution_id = models.UUIDField(null=True)
    block_id = models.TextField(null=True)  # the template's blockId
    type = models.TextField()
    level = models.SmallIntegerField(choices=Level.choices, default=Level.INFO)
    payload = models.JSONField(null=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            # GET executions/{id}/logs and /ws/executions/{id}
            models.Index(fields=["execution_id", "xid", "id"], name="event_by_execution"),
            # /ws/approvals
            models.Index(
                fields=["workspace_id", "xid", "id"],
                name="event_of_approvals",
                condition=Q(type__startswith="approval_"),
            ),
            # those who follow the approvals of all workspaces
            models.Index(
                fields=["xid", "id"], name="event_followed", condition=Q(type__startswith="approval_")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.block_id or ''}".strip()


class ReceivedEvent(models.Model):
    """Something that happened outside, told by a client; blocks with `wait.event` wait for it.

    A client that repeats `event_id` tells of the same event.  Kept for `LIMITS.event_days`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace_id = models.UUIDField()
    event_id = models.TextField()  # the client's
    type = models.TextField()
    correlation = models.TextField(blank=True, default="")
    payload = models.JSONField(null=True)
    at = models.DateTimeField(db_default=Now(), db_index=True)
    delivered_at = models.DateTimeField(null=True)  # null: whoever waits for it may not know yet

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace_id", "event_id"], name="one_event_per_event_id"),
        ]
        indexes = [
            # a block that begins to wait looks for what has come already
            models.Index(fields=["workspace_id", "type", "correlation", "at"], name="received_by_key"),
            # the clock
            models.Index(fields=["at"], name="received_undelivered", condition=Q(delivered_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.correlation}".strip()
