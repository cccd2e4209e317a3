"""Budgets of a day, of an agent and of a workspace.  A day begins at 00:00 UTC.

Whether a block draws on one is known from what a call needs anyway (the agent, the workspace's settings),
so without one there is no statement more.  What was spent is in `DaySpending`, added to by the statements
that record what attempts and steps used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from agentflow.agents import registry
from agentflow.agents.registry import AgentSpec
from agentflow.types import JSONObject
from agentflow.workflow.daily import DayBudget
from agentflow.workflow.plan import PlanBlock
from executions.models import BudgetScope

from . import budget_rows
from .budget_rows import Held
from .facts import Facts
from .run import raw_cursor

TOKENS = "tokens"
LOOKED_AT = 20_000  # of the newest attempts, to tell what was spent on what: there is no index of a day's
_CALLS_OUT = frozenset({"LLM", "A2A", "AgentService"})  # what they use is known afterwards

_TODAY = """
SELECT d.day, extract(epoch FROM ((d.day + 1)::timestamp AT TIME ZONE 'UTC') - statement_timestamp())::float8,
       s.agent_id, s.again, s.unit, s.amount::float8
FROM (SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date AS day) d
LEFT JOIN executions_dayspending s ON s.workspace_id = %(workspace)s AND s.day = d.day
"""

_SPENT_ON = """
SELECT t.name, b.block_id, a.agent_id, count(*)::int,
  sum(coalesce((a.usage->>'inputTokens')::numeric, 0)
      + coalesce((a.usage->>'outputTokens')::numeric, 0))::float8,
  sum(coalesce((a.usage->'cost'->>%(currency)s)::numeric, 0))::float8
FROM (SELECT * FROM executions_blockattempt ORDER BY id DESC LIMIT %(looked_at)s) a
JOIN executions_blockexecution b ON b.id = a.block_id
JOIN executions_execution e ON e.id = b.execution_id
JOIN templates_app_templateversion v ON v.id = e.template_version_id
JOIN templates_app_template t ON t.id = v.template_id
WHERE a.usage IS NOT NULL AND e.workspace_id = %(workspace)s
  AND a.ended_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
  AND (%(agent)s::text IS NULL OR a.agent_id = %(agent)s)
GROUP BY 1, 2, 3 ORDER BY 6 DESC, 5 DESC LIMIT %(most)s
"""


@dataclass(frozen=True, slots=True)
class Today:
    """What a workspace's agents used up since 00:00 UTC, by agent and unit; nobody's is the agent ""."""

    day: date
    left_s: float
    amounts: dict[str, dict[str, float]]
    again: dict[str, dict[str, float]]  # what is counted for another, too: as a tool's, or of its tools

    def of(self, agent_id: str | None) -> dict[str, float]:
        """Of one agent; None: of all."""
        if agent_id is None:
            return _sum(self.amounts.values())
        return _sum([self.amounts.get(agent_id, {}), self.again.get(agent_id, {})])


def _sum(each: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for amounts in each:
        for unit, amount in amounts.items():
            total[unit] = total.get(unit, 0.0) + amount
    return total


def today(workspace_id: UUID) -> Today:
    rows = raw_cursor().execute(_TODAY, {"workspace": workspace_id}).fetchall()
    found = Today(rows[0][0], rows[0][1], {}, {})
    for _, _, agent_id, again, unit, amount in rows:
        if unit is not None:
            (found.again if again else found.amounts).setdefault(agent_id, {})[unit] = amount
    return found


def apply(facts: Facts, planned: PlanBlock) -> bool:
    """Whether a block draws on the budget of a day."""
    if facts.simulation is not None or planned.compensates is not None:
        return False
    if planned.chosen:
        specs = registry.candidates(facts.workspace_id)
        if any(spec.budget is not None for spec in specs):
            return True
        return any(map(_costs, specs)) and registry.day_budget(facts.workspace_id) is not None
    spec = _spec(facts, planned.block.agent_id)
    if spec is not None and spec.budget is not None:
        return True
    return _draws(planned, spec) and registry.day_budget(facts.workspace_id) is not None


def of_its_own(facts: Facts, agent_id: str | None) -> bool:
    """Whether an agent that is called on the way has a budget of its own."""
    spec = _spec(facts, agent_id) if facts.simulation is None else None
    return spec is not None and spec.budget is not None


def of_block(facts: Facts, planned: PlanBlock, agent_id: str | None) -> list[Held]:
    """The budgets of today that a call of this agent draws on."""
    if facts.simulation is not None or planned.compensates is not None:
        return []
    spec = _spec(facts, agent_id)
    own = spec.budget if spec is not None else None
    draws = own is not None or planned.chosen or _draws(planned, spec)
    whole = registry.day_budget(facts.workspace_id) if draws else None
    if own is None and whole is None:
        return []
    now = today(facts.workspace_id)
    found = []
    if spec is not None and own is not None:
        found.append(_held(BudgetScope.AGENT, now, own, spec.agent_id))
    if whole is not None:
        found.append(_held(BudgetScope.WORKSPACE, now, whole))
    return found


def used_up(workspace_id: UUID) -> frozenset[str]:
    """The agents whose budget of today is used up.  Where none has one, there is no statement."""
    specs = [spec for spec in registry.candidates(workspace_id) if spec.budget is not None]
    if not specs:
        return frozenset()
    now = today(workspace_id)
    held = [_held(BudgetScope.AGENT, now, spec.budget, spec.agent_id) for spec in specs if spec.budget]
    states = budget_rows.of_days(workspace_id, [each.key for each in held])
    return frozenset(
        each.agent_id for each in held if over(each, extra_of(states.get((each.scope, each.key))))
    )


def over(held: Held, extra: JSONObject) -> bool:
    spent = held.spent or {}
    limits = ((TOKENS, held.budget.tokens, TOKENS), ("cost", held.budget.cost, held.budget.currency))
    return any(
        most is not None and spent.get(unit, 0.0) >= most + extra.get(part, 0) for part, most, unit in limits
    )


def extra_of(state: budget_rows.State | None) -> JSONObject:
    return (state.extra if state is not None else None) or {}


def spent_on(facts: Facts, held: Held, *, most: int) -> list[tuple[str, str, str, int, float, float]]:
    """Template, block, agent, calls, tokens and money, as far as the newest attempts tell."""
    given: dict[str, Any] = {
        "workspace": facts.workspace_id,
        "agent": held.agent_id if held.scope == BudgetScope.AGENT else None,
        "day": held.key[:10],
        "currency": held.budget.currency,
        "looked_at": LOOKED_AT,
        "most": most,
    }
    return raw_cursor().execute(_SPENT_ON, given).fetchall()


def key_of(day: date, agent_id: str = "") -> str:
    return f"{day.isoformat()}:{agent_id}" if agent_id else day.isoformat()


def _held(scope: BudgetScope, now: Today, budget: DayBudget, agent_id: str = "") -> Held:
    mine = scope == BudgetScope.AGENT
    name = f"the budget of {agent_id} for {now.day}" if mine else f"the workspace's budget for {now.day}"
    return Held(
        scope=scope,
        key=key_of(now.day, agent_id),
        name=name,
        budget=budget.limits,
        spent=now.of(agent_id if mine else None),
        waits_s=now.left_s if budget.when_spent == "wait" else None,
        agent_id=agent_id,
    )


def _spec(facts: Facts, agent_id: str | None) -> AgentSpec | None:
    return registry.resolve(facts.workspace_id, agent_id) if agent_id else None


def _costs(spec: AgentSpec) -> bool:
    return spec.tool_type in _CALLS_OUT or spec.cost.priced


def _draws(planned: PlanBlock, spec: AgentSpec | None) -> bool:
    return _costs(spec) if spec is not None else planned.block.tool_type in _CALLS_OUT
