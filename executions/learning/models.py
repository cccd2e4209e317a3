"""What became of recovery's strategies, and what is proposed because of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from agentflow.governance.access import WorkspaceScopedQuerySet


class StrategyTally(models.Model):
    """What came of one strategy for failures of one code, in a week: of a template, and of its workspace.

    `taken` counts decisions.  A result is known once the block's next attempt has ended: `tries` counts
    those, `seconds` is the time from the failure to there, added up.
    """

    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="+", db_index=False
    )
    template = models.ForeignKey(  # null: of all templates of the workspace
        "templates_app.Template", on_delete=models.CASCADE, null=True, related_name="+"
    )
    cause = models.CharField(max_length=20)  # which ladder: the failure's kind, or what weighs more
    code = models.CharField(max_length=100)
    strategy = models.CharField(max_length=12)
    week = models.DateField()  # its Monday
    taken = models.BigIntegerField()
    tries = models.BigIntegerField()
    recovered = models.BigIntegerField()
    seconds = models.FloatField()

    objects = WorkspaceScopedQuerySet["StrategyTally"].as_manager()

    class Meta:
        verbose_name = "recovery result"
        constraints = [
            # Also the index of every look-up.
            models.UniqueConstraint(
                fields=["workspace", "template", "week", "cause", "code", "strategy"],
                nulls_distinct=False,
                name="one_strategy_tally_per_week",
            ),
            models.CheckConstraint(
                condition=Q(tries__gte=models.F("recovered")), name="no_more_recovered_than_tried"
            ),
        ]
        indexes = [models.Index(fields=["week"], name="strategy_tally_by_age")]  # what is removed

    def __str__(self) -> str:
        return f"{self.strategy} for {self.code} in the week of {self.week}"
