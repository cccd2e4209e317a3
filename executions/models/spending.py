"""What was spent, and who waits because of it."""

from __future__ import annotations

from django.db import models

from .runs import Execution


class BudgetScope(models.TextChoices):
    BLOCK = "block"
    EXECUTION = "execution"
    AGENT = "agent"  # of a day, as the next
    WORKSPACE = "workspace"


class BudgetState(models.Model):
    """What became of a budget: whether there was a warning, what people allowed more, who asks just now.

    Written when there is something to say; a budget that is not used up has no row.
    """

    workspace_id = models.UUIDField()
    scope = models.CharField(max_length=9, choices=BudgetScope.choices)
    # The execution's id; of a block's with its blockId: `<id>:<blockId>`.  Of a day's: `2026-11-21`, of an
    # agent's with its agentId: `2026-11-21:writer`.
    key = models.TextField()
    execution = models.ForeignKey(  # null: of a day
        Execution, on_delete=models.CASCADE, null=True, related_name="+"
    )
    warned = models.BooleanField(default=False)
    extra = models.JSONField(
        default=dict
    )  # allowed beyond the budget: {"tokens": 500, "cost": 1.5, "time": 1}
    answered = models.PositiveIntegerField(default=0)  # questions about it
    asked_block = models.BigIntegerField(null=True)  # the row of the block that waits for an answer
    stopped_epoch = models.PositiveIntegerField(null=True)  # in which a person said stop
    agent_id = models.TextField(db_default="")  # of a block: the cheaper one that it goes on with

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace_id", "scope", "key"], name="one_state_per_budget")
        ]
        indexes = [
            # Of an answer: which budget its block asked about.
            models.Index(
                fields=["asked_block"], condition=models.Q(asked_block__isnull=False), name="budget_asked_by"
            )
        ]

    def __str__(self) -> str:
        return f"budget of {self.scope} {self.key}"


class BudgetWait(models.Model):
    """A run that waits for a word about the budget of a day, or for a larger one: it is told of either."""

    workspace_id = models.UUIDField()
    scope = models.CharField(max_length=9, choices=BudgetScope.choices)
    key = models.TextField()
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace_id", "scope", "key", "execution"], name="one_wait_per_budget_and_run"
            )
        ]

    def __str__(self) -> str:
        return f"{self.execution_id} waits for {self.scope} {self.key}"


class DaySpending(models.Model):
    """What the calls of an agent used up on a day (UTC), where it or its workspace has a budget of a day.

    Added to in the transaction that records what an attempt or a step used, so it is counted once whatever
    dies when; a sum over attempts instead would read all of a day's before every call.
    """

    workspace_id = models.UUIDField()
    day = models.DateField()
    agent_id = models.TextField()  # "": models that were called without an agent
    # Counted for another agent already, as a part of whose work this one called or was called: it is in no
    # sum over agents.
    again = models.BooleanField(db_default=False)
    unit = models.TextField()  # tokens, or a currency
    amount = models.DecimalField(max_digits=40, decimal_places=12)

    class Meta:
        constraints = [
            # Also the index of every look at a day.
            models.UniqueConstraint(
                fields=["workspace_id", "day", "agent_id", "again", "unit"],
                name="one_sum_per_agent_and_day",
            )
        ]

    def __str__(self) -> str:
        return f"{self.agent_id} on {self.day}: {self.amount} {self.unit}"
