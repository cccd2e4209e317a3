"""What a workspace says about failures, as rows."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from agentflow.governance.access import WorkspaceScopedQuerySet
from agentflow.workflow.failures import FailureKind

KINDS = [(str(kind), str(kind)) for kind in FailureKind]


class RecoveryPolicy(models.Model):
    """The `recovery` of a workspace: what holds where neither block nor template say anything."""

    workspace = models.OneToOneField(
        "governance.Workspace", on_delete=models.CASCADE, related_name="recovery_policy"
    )
    policy = models.JSONField(default=dict, blank=True)  # as `recovery` in a template
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects = WorkspaceScopedQuerySet["RecoveryPolicy"].as_manager()

    class Meta:
        verbose_name_plural = "recovery policies"

    def __str__(self) -> str:
        return "Recovery policy"


class FailureRule(models.Model):
    """Failures for which `condition` holds are of another kind.  The first that holds, by place, counts."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="failure_rules"
    )
    name = models.CharField(max_length=100)
    place = models.PositiveIntegerField(default=0)
    condition = models.TextField()
    kind = models.CharField(max_length=13, choices=KINDS)
    code = models.CharField(max_length=60, blank=True)  # empty: as it was
    enabled = models.BooleanField(default=True)
    # The last failure that the condition could not be computed for; such a rule is passed over.
    error = models.TextField(blank=True)
    error_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = WorkspaceScopedQuerySet["FailureRule"].as_manager()

    class Meta:
        ordering = ("place", "created_at")
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="one_failure_rule_per_name"),
            models.CheckConstraint(
                condition=models.Q(kind__in=[str(kind) for kind in FailureKind]),
                name="failure_rule_kind_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name
