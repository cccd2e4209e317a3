"""One fix for all blocks that an incident holds, as rows that the clock works off."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet

from .models import Incident
from .states import ItemState, RepairState

ACTIVE = (RepairState.CANARY.value, RepairState.RUNNING.value)


class RepairRun(models.Model):
    """A fix that is being applied, or was, to the blocks that an incident held when it began."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, related_name="repairs")
    fix = models.JSONField()  # as `repairs.Fix.as_json`
    state = models.CharField(max_length=7, choices=RepairState.choices)
    reason = models.TextField(blank=True, default="")
    canary = models.BigIntegerField(null=True)  # the item that is tried first; null: none was
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    said = models.TextField(blank=True, default="")  # why it failed

    objects = WorkspaceScopedQuerySet["RepairRun"].as_manager()
    workspace_path = "incident__workspace"

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["incident"], condition=Q(state__in=ACTIVE), name="one_repair_of_incident_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.fix.get('action')} of {self.incident_id}"


class RepairItem(models.Model):
    """One block of a repair."""

    repair = models.ForeignKey(RepairRun, on_delete=models.CASCADE, related_name="items", db_index=False)
    block = models.ForeignKey("executions.BlockExecution", on_delete=models.CASCADE, related_name="+")
    execution = models.ForeignKey("executions.Execution", on_delete=models.CASCADE, related_name="+")
    state = models.CharField(max_length=7, choices=ItemState.choices, default=ItemState.PENDING)
    attempt = models.PositiveIntegerField(default=0)  # of the block, when the fix was applied
    # The execution that goes on in place of this one, and where it has the block; null: it has it no more.
    moved_to = models.ForeignKey(
        "executions.Execution", on_delete=models.SET_NULL, null=True, related_name="+"
    )
    moved_idx = models.PositiveIntegerField(null=True)
    code = models.TextField(blank=True, default="")
    message = models.TextField(blank=True, default="")
    at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["repair", "block"], name="one_item_per_repair_and_block"),
        ]
        indexes = [
            models.Index(  # what the clock does next
                fields=["repair", "id"], condition=Q(state="pending"), name="repair_items_left"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.block_id}: {self.state}"
