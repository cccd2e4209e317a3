"""Faults that a workspace has its executions meet for a time, as a row."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet


class EndedBecause(models.TextChoices):
    OVER = "over"  # its time was over
    STOPPED = "stopped"  # by a person
    PRODUCTION = "production"  # the workspace has become one


class FaultInjection(models.Model):
    """From `started_at` to `ends_at`, unless it is ended before.  What it was stays for who looks back.

    `rules` as `rules.Rule` reads them.  Executions that are started meanwhile refer to it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="fault_injections"
    )
    rules = models.JSONField()
    seed = models.CharField(max_length=64)  # the same gives the same faults
    counts = models.BooleanField(default=False)  # against the agents: their performance and circuits
    reason = models.TextField(blank=True, default="")
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    started_at = models.DateTimeField(db_default=Now())
    ends_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    ended_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    ended_because = models.CharField(max_length=10, choices=EndedBecause.choices, blank=True, default="")

    objects = WorkspaceScopedQuerySet["FaultInjection"].as_manager()

    class Meta:
        constraints = [
            # What a start looks up.
            models.UniqueConstraint(
                fields=["workspace"], condition=Q(ended_at__isnull=True), name="one_fault_injection_at_a_time"
            ),
        ]
        indexes = [models.Index(fields=["workspace", "-started_at"], name="fault_injections_recent")]

    def __str__(self) -> str:
        return f"Faults in {self.workspace}"
