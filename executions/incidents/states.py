"""The state machine of an incident."""

from __future__ import annotations

from django.db.models import TextChoices

from agentflow.lifecycle import Lifecycle


class IncidentState(TextChoices):
    OPEN = "open"  # a person snoozes or resolves it
    SNOOZED = "snoozed"  # its moment (`snoozed_until`) or a person moves it on; failures are still counted
    RESOLVED = "resolved"  # the next failure of the kind opens a new incident


S = IncidentState

INCIDENT: Lifecycle[IncidentState] = Lifecycle(
    {
        # A snooze is moved to another moment by snoozing again.
        S.OPEN: {S.SNOOZED, S.RESOLVED},
        S.SNOOZED: {S.OPEN, S.SNOOZED, S.RESOLVED},
        S.RESOLVED: set(),
    }
)


class RepairState(TextChoices):
    CANARY = "canary"  # one block is tried first: how it ends, or a person, moves it on
    RUNNING = "running"  # the clock goes through the rest
    DONE = "done"
    STOPPED = "stopped"  # by a person; what was not reached is as it was
    FAILED = "failed"  # the first block failed again, or was refused; the rest is as it was


R = RepairState

REPAIR: Lifecycle[RepairState] = Lifecycle(
    {
        R.CANARY: {R.RUNNING, R.DONE, R.STOPPED, R.FAILED},
        R.RUNNING: {R.DONE, R.STOPPED},
        R.DONE: set(),
        R.STOPPED: set(),
        R.FAILED: set(),
    }
)


class ItemState(TextChoices):
    PENDING = "pending"
    APPLIED = "applied"
    REFUSED = "refused"  # the block had moved, or the fix does not fit it; nothing was done
