"""Failures of one kind as one row, and what people did about them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet
from agentflow.workflow.failures import FailureKind

from .fingerprint import FINGERPRINT_CHARS
from .states import IncidentState


class FailureNote(models.Model):
    """A failure that no incident counts yet.

    Written by the transaction that settles the attempt, removed by the one that counts it.  `block` is the
    block's row; a foreign key would be looked up by every failure, and nothing rests on it.
    """

    block = models.BigIntegerField()
    fingerprint = models.CharField(max_length=FINGERPRINT_CHARS)
    failure = models.JSONField()
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.fingerprint


class Incident(models.Model):
    """The failures of a template's block that have the same code and, but for ids and numbers, message."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="incidents")
    template = models.ForeignKey("templates_app.Template", on_delete=models.CASCADE, related_name="incidents")
    block_id = models.TextField()
    code = models.TextField()
    kind = models.CharField(max_length=20, choices=[(kind.value, kind.value) for kind in FailureKind])
    fingerprint = models.CharField(max_length=FINGERPRINT_CHARS)
    simulated = models.BooleanField()
    state = models.CharField(
        max_length=8, choices=IncidentState.choices, default=IncidentState.OPEN, db_default=IncidentState.OPEN
    )
    sample = models.JSONField()  # its first failure, as `Failure.as_json`
    sample_block = models.BigIntegerField()  # the row of the block that failed first
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    count = models.PositiveBigIntegerField()
    snoozed_until = models.DateTimeField(null=True)
    assignee = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    link = models.TextField(blank=True, default="", db_default="")  # where else it is worked on: a ticket
    resolved_at = models.DateTimeField(null=True)

    objects = WorkspaceScopedQuerySet["Incident"].as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "fingerprint", "simulated"],
                condition=~Q(state="resolved"),
                name="one_open_incident_per_fingerprint",
            ),
        ]
        indexes = [
            models.Index(fields=["workspace", "-last_seen"], name="incident_recent"),  # GET incidents
            models.Index(  # the clock wakes them
                fields=["snoozed_until"], condition=Q(state="snoozed"), name="incident_snoozed"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.block_id}: {self.code}"

    @property
    def message(self) -> str:
        return str(self.sample.get("message") or "")


class IncidentBlock(models.Model):
    """A block of a run whose failures an incident counts."""

    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, related_name="blocks", db_index=False)
    block = models.ForeignKey("executions.BlockExecution", on_delete=models.CASCADE, related_name="+")
    execution = models.ForeignKey("executions.Execution", on_delete=models.CASCADE, related_name="+")
    failures = models.PositiveIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["incident", "block"], name="one_row_per_incident_and_block"),
        ]

    def __str__(self) -> str:
        return f"{self.block_id} of {self.incident_id}"


class NoteKind(models.TextChoices):
    COMMENT = "comment"
    ASSIGNED = "assigned"
    SNOOZED = "snoozed"
    WOKEN = "woken"  # by its moment, or by a person
    RESOLVED = "resolved"
    LINKED = "linked"
    REPAIR = "repair"  # begun, stopped or ended


class IncidentNote(models.Model):
    """What a person said about an incident, or what was done with it."""

    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, related_name="notes")
    kind = models.CharField(max_length=8, choices=NoteKind.choices)
    text = models.TextField(blank=True, default="")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.kind}: {self.text[:50]}"
