"""What happened, in order: one append-only table behind logs, live pages and replay."""

from __future__ import annotations

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
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.block_id or ''}".strip()
