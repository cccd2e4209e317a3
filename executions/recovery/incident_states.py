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
