"""That an agent is no longer what it usually was, as rows."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet


class Signal(models.TextChoices):
    ERRORS = "errors", "Fails more than usual"
    LATENCY = "latency", "Slower than usual"


class WarningEnd(models.TextChoices):
    AS_USUAL = "as_usual", "As it used to be"
    NEW_USUAL = "new_usual", "So for a day: that is usual now"
    QUIET = "quiet", "Not called any more"


class AgentWarning(models.Model):
    """An agent fails more, or is slower, than it usually is; `drift` tells how that is found.

    `figures`: `{"usual": 0.02, "feared": 0.12, "seen": 0.3, "calls": 40, "slowerThanMs": 830.0}`, the last
    for latency only; `seen` and `calls` as of the onset.
    """

    agent = models.ForeignKey("agents.Agent", on_delete=models.CASCADE, related_name="warnings")
    signal = models.CharField(max_length=7, choices=Signal.choices)
    figures = models.JSONField()
    since = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    ended_as = models.CharField(max_length=9, choices=WarningEnd.choices, blank=True)

    workspace_path = "agent__workspace"
    objects = WorkspaceScopedQuerySet["AgentWarning"].as_manager()

    class Meta:
        constraints = [
            # One for each onset, however many clocks look.
            models.UniqueConstraint(
                fields=("agent", "signal"), name="one_open_warning", condition=models.Q(ended_at=None)
            ),
        ]
        indexes = [models.Index(fields=("ended_at",), name="agent_warning_by_age")]  # what is removed

    def __str__(self) -> str:
        return f"{self.signal} of {self.agent_id}"
