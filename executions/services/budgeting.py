"""Budgets of a day beside the engine: how they stand, and that who waits is told when one is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db.models.signals import post_save

from agentflow.agents import registry
from agentflow.agents.models import Agent
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject
from agentflow.workflow.daily import of_day
from executions.engine import budget_rows, daily
from executions.engine.budget_rows import OF_A_DAY
from executions.models import BudgetScope, BudgetState, BudgetWait, DaySpending

KEPT_DAYS = 90


@dataclass(frozen=True, slots=True)
class Standing:
    """What was used up today, by unit (`tokens`, or a currency), and what is allowed by now."""

    day: date
    spent: Mapping[str, float]
    by_agent: Mapping[str, Mapping[str, float]]
    allowed: Mapping[str, float]
    warned: bool


def of_workspace(workspace: Workspace) -> Standing:
    return _standing(workspace.pk, workspace.budget, None)


def of_agent(agent: Agent) -> Standing:
    return _standing(agent.workspace_id, agent.budget, agent.agent_id)


def purge() -> None:
    """Remove what no budget of a day looks at any more."""
    today = datetime.now(UTC).date()
    DaySpending.objects.filter(day__lt=today - timedelta(days=KEPT_DAYS)).delete()
    old = daily.key_of(today - timedelta(days=1))
    for rows in (BudgetState.objects.filter(execution=None, asked_block=None), BudgetWait.objects.all()):
        rows.filter(scope__in=OF_A_DAY, key__lt=old).delete()
    BudgetWait.objects.filter(execution__completed_at__isnull=False).delete()


def listen() -> None:
    post_save.connect(_agent_saved, sender=Agent, dispatch_uid="executions.agent_budget")
    post_save.connect(_workspace_saved, sender=Workspace, dispatch_uid="executions.workspace_budget")


def _standing(workspace_id: UUID, stored: JSONObject, agent_id: str | None) -> Standing:
    now = daily.today(workspace_id)
    scope = BudgetScope.WORKSPACE if agent_id is None else BudgetScope.AGENT
    key = daily.key_of(now.day, agent_id or "")
    state = budget_rows.of_days(workspace_id, [key]).get((scope, key))
    budget, extra = of_day(stored), daily.extra_of(state)
    limits = {"tokens": budget.tokens, "cost": budget.cost} if budget is not None else {}
    allowed = {part: most + extra.get(part, 0) for part, most in limits.items() if most is not None}
    by_agent = now.amounts if agent_id is None else {}
    return Standing(now.day, now.of(agent_id), by_agent, allowed, state is not None and state.warned)


def _agent_saved(instance: Agent, created: bool, update_fields: frozenset[str] | None, **_: object) -> None:
    if not created and (update_fields is None or "budget" in update_fields):
        key = daily.key_of(datetime.now(UTC).date(), instance.agent_id)
        budget_rows.changed(instance.workspace_id, BudgetScope.AGENT, key)


def _workspace_saved(
    instance: Workspace, created: bool, update_fields: frozenset[str] | None, **_: object
) -> None:
    if not created and (update_fields is None or "budget" in update_fields):
        registry.forget()
        key = daily.key_of(datetime.now(UTC).date())
        budget_rows.changed(instance.pk, BudgetScope.WORKSPACE, key)
