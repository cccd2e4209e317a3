"""What became of recovery's strategies, and what is proposed because of it."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet

from .facts import Kind
from .states import ProposalState


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


class Proposal(models.Model):
    """A change of one block that would mend failures which come again and again.

    `base` is the number of the template's version that it changes, and that is the newest: bare numbers,
    for a foreign key would keep a template from being deleted.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="+", db_index=False
    )
    template = models.ForeignKey("templates_app.Template", on_delete=models.CASCADE, related_name="+")
    base = models.PositiveIntegerField()
    block_id = models.TextField()
    kind = models.CharField(max_length=8, choices=[(kind.value, kind.value) for kind in Kind])
    patch = models.JSONField()  # of the block: RFC 7396
    evidence = models.JSONField()
    predicted = models.JSONField()
    state = models.CharField(max_length=9, choices=ProposalState.choices, default=ProposalState.OPEN)
    made = models.PositiveIntegerField(null=True)  # the number of the version that has it
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True)
    reason = models.TextField(blank=True, default="")  # why it was dismissed or withdrawn
    created_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())  # when its evidence was last looked at

    objects = WorkspaceScopedQuerySet["Proposal"].as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["template", "block_id", "kind"],
                condition=Q(state="open"),
                name="one_open_proposal_per_block_and_kind",
            ),
        ]
        indexes = [models.Index(fields=["workspace", "-created_at"], name="proposal_recent")]  # GET proposals

    def __str__(self) -> str:
        return f"{self.block_id}: {self.kind}"


class ProposalLook(models.Model):
    """When a template's failures were last looked through.  Its row is the lock of doing so."""

    template = models.OneToOneField(
        "templates_app.Template", on_delete=models.CASCADE, primary_key=True, related_name="+"
    )
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.template_id} at {self.at}"
