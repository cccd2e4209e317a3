"""Who holds a place where only so many may work at once."""

from __future__ import annotations

from django.db import models

from .blocks import BlockExecution
from .runs import Execution


class PlaceKind(models.TextChoices):
    EXECUTION = "execution"
    BLOCK = "block"
    AGENT = "agent"  # `key` is the agentId; empty: a block that waits for any agent that is fit


class Place(models.Model):
    """A place of a concurrency key or of an agent, held or waited for, by an execution or one of its blocks.

    One whose holder is settled counts for nothing any more; the holder's next transaction removes it.
    An agent's is held for one attempt.  A block may wait for several agents; the first that has a place
    for it gets it.
    """

    workspace_id = models.UUIDField()
    kind = models.CharField(max_length=9, choices=PlaceKind.choices)
    key = models.TextField()
    places = models.PositiveIntegerField()  # how many there are at a time, as its own version says
    priority = models.SmallIntegerField(default=0)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="+")
    block = models.ForeignKey(BlockExecution, on_delete=models.CASCADE, null=True, related_name="places")
    held = models.BooleanField(default=False)
    attempt = models.PositiveIntegerField(null=True)  # of an agent's that is held: for which it is
    rate = models.PositiveIntegerField(null=True)  # of an agent's: how many calls it takes in a minute
    # Of a block that waits for any agent that is fit: what those have in common for whom the same are fit.
    seeks = models.TextField(db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["execution"], condition=models.Q(block=None), name="one_place_per_run"
            ),
            models.UniqueConstraint(fields=["block", "kind", "key"], name="one_place_per_block_and_key"),
        ]
        indexes = [
            # who holds a key, and who is next
            models.Index(
                fields=["workspace_id", "kind", "key", "held", "-priority", "id"], name="place_queue"
            ),
            # who waits for any agent that is fit, kind by kind
            models.Index(
                fields=["seeks", "-priority", "id"],
                condition=models.Q(kind="agent", key="", held=False),
                name="place_seeks",
            ),
        ]

    def __str__(self) -> str:
        return self.key


class AgentWindow(models.Model):
    """How many calls an agent with a rate took in the last minute, by second: `[[second, calls], ...]`."""

    workspace_id = models.UUIDField()
    agent_id = models.TextField()
    calls = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace_id", "agent_id"], name="one_window_per_agent"),
        ]

    def __str__(self) -> str:
        return self.agent_id
