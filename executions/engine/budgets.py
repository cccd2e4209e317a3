"""Budgets: what a block or a run may use up before a person is asked.

Looked at between the claim and the call, and before each answer of an agent that works in steps, where a
budget is given and the block can use some of it up: others cost no statement.  What is spent is read from
attempts and steps, so nothing is counted twice or lost.  A used up budget has one open question, held by the
block that came first (`BudgetState.asked_block`); other blocks look again until it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from django.db import transaction

from agentflow.agents import registry
from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject
from agentflow.workflow.definition import Budget
from agentflow.workflow.plan import PlanBlock
from executions import spending
from executions.models import BudgetScope
from executions.states import BlockStatus as B

from .facts import Facts, as_json
from .judging import BUDGET, Change, Claim
from .rows import loads
from .run import Run, raw_cursor

log = structlog.get_logger(__name__)

EXCEEDED = "budget_exceeded"
LOOK_S = 30.0  # an answer wakes who waits sooner
MOST_STEPS = 50  # that a question names: those that used most
_PARTS = ("tokens", "cost", "time")
_COSTLY = frozenset({"LLM", "UseCase", "A2A", "AgentService"})  # what they use is known afterwards


@dataclass(frozen=True, slots=True)
class Held:
    """One budget that a block draws on."""

    scope: BudgetScope
    key: str
    name: str  # for people
    budget: Budget


@dataclass(frozen=True, slots=True)
class State:
    """What became of it until now."""

    warned: bool = False
    extra: JSONObject | None = None
    answered: int = 0
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Overspent:
    """A budget that is used up, as a question shows it; `answered` tells whether it was asked meanwhile."""

    held: Held
    answered: int
    words: str
    allowed: JSONObject
    used: JSONObject
    spent_on: JSONObject


def apply(facts: Facts, planned: PlanBlock) -> bool:
    """Whether a block draws on a budget.  A run without one is not looked at further."""
    return (planned.block.budget is not None or facts.plan.budget is not None) and bool(
        _budgets_of(facts, planned)
    )


def check(facts: Facts, planned: PlanBlock, claim: Claim) -> Change | None:
    """What holds the block, if something does; the first time that a budget runs low there is a warning."""
    budgets = _budgets_of(facts, planned)
    steps = spending.by_step(facts.execution_id)
    states = _states(facts)
    for held in budgets:
        state = states.get((held.scope, held.key), State())
        if state.stopped:
            return _failed(planned, claim)
        allowed = _allowed(held.budget, state)
        used = _used(held, planned, steps)
        if any(used[part] >= most for part, most in allowed.items()):
            return _parked(planned, claim, _overspent(held, state, allowed, used, steps))
        if not state.warned and any(used[p] >= most * held.budget.soft_share for p, most in allowed.items()):
            _warn(facts, planned, held, allowed, used)
    return None


def asked_once(run: Run, changes: list[Change]) -> list[Change]:
    """Let those changes ask about a budget whose question is not open, and was not answered meanwhile."""
    return [
        change if change.budget is None or _may_ask(run, change) else _later(change) for change in changes
    ]


def extend(run: Run, block_pk: int, given: Mapping[str, Any]) -> None:
    """Allow more of the budget that the block asks about: what was named, else as much as it was once more.

    On top of what is spent by now, so that the next call does not ask again.
    """
    found = _asked_by(run, block_pk)
    if found is None:
        return
    held, state, planned = found
    allowed = _allowed(held.budget, state)
    used = _used(held, planned, spending.by_step(run.facts.execution_id))
    named = {part: given[part] for part in _PARTS if given.get(part)}
    extra: JSONObject = {}
    for part, most in allowed.items():
        own = getattr(held.budget, part)
        over = used[part] >= most
        more = named.get(part, own if over or not named else 0)
        extra[part] = max(most, used[part] if over else 0) + more - own
    run.execute(_EXTEND, block=block_pk, extra=as_json(extra))
    run.execute(_WAKE)


def stop(run: Run, block_pk: int) -> None:
    """Nothing more is spent of the budget that the block asks about, until somebody restarts the run."""
    run.execute(_STOP, block=block_pk)
    run.execute(_WAKE)


def stopped_error() -> JSONObject:
    message = "A budget is used up, and was not extended."
    return {"kind": "critical", "code": EXCEEDED, "message": message}


# -- which, and how much -------------------------------------------------------


def _budgets_of(facts: Facts, planned: PlanBlock) -> list[Held]:
    """What is undone or simulated draws on none."""
    if facts.simulation is not None or planned.compensates is not None:
        return []
    found: list[Held] = []
    own, whole = planned.block.budget, facts.plan.budget
    if own is not None:
        key = f"{facts.execution_id}:{planned.block_id}"
        found.append(Held(BudgetScope.BLOCK, key, "the step's budget", own))
    if whole is not None and (whole.time is not None or _can_cost(facts, planned)):
        key = str(facts.execution_id)
        found.append(Held(BudgetScope.EXECUTION, key, "the execution's budget", whole))
    return found


def _can_cost(facts: Facts, planned: PlanBlock) -> bool:
    if planned.chosen or planned.block.tool_type in _COSTLY:
        return True
    agent_id = planned.block.agent_id
    spec = registry.resolve(facts.workspace_id, agent_id) if agent_id else None
    return spec is not None and (spec.cost.priced or spec.tool_type in _COSTLY)


def _allowed(budget: Budget, state: State) -> dict[str, float]:
    extra = state.extra or {}
    own = {part: getattr(budget, part) for part in _PARTS}
    return {part: most + extra.get(part, 0) for part, most in own.items() if most is not None}


def _used(held: Held, planned: PlanBlock, steps: Mapping[str, JSONObject]) -> dict[str, float]:
    mine = held.scope == BudgetScope.BLOCK
    found = [used for block_id, used in steps.items() if not mine or block_id == planned.block_id]
    return {
        "tokens": sum(each["inputTokens"] + each["outputTokens"] for each in found),
        "cost": sum(each["cost"].get(held.budget.currency, 0) for each in found),
        "time": sum(each.get("timeMs", 0) for each in found),
    }


def _overspent(
    held: Held,
    state: State,
    allowed: Mapping[str, float],
    used: Mapping[str, float],
    steps: Mapping[str, JSONObject],
) -> Overspent:
    timed = held.budget.time is not None
    spent_on = {block_id: _spent_on(used, timed=timed) for block_id, used in steps.items()}
    most = sorted((each for each in spent_on if spent_on[each]), key=lambda each: -_weight(steps[each]))
    return Overspent(
        held=held,
        answered=state.answered,
        words=f"{held.name} is used up ({_words(held, allowed, used)})",
        allowed=dict(allowed),
        used={part: used[part] for part in allowed},
        spent_on={block_id: spent_on[block_id] for block_id in most[:MOST_STEPS]},
    )


def _spent_on(used: JSONObject, *, timed: bool) -> str:
    took = f"{used.get('timeMs', 0) / 1000:g} s" if timed else ""
    return ", ".join(part for part in (spending.words(used), took) if part)


def _weight(used: JSONObject) -> float:
    """What puts a step before others: money, else tokens, else time."""
    tokens = used["inputTokens"] + used["outputTokens"]
    return float(sum(used["cost"].values()) * 1e9 + tokens * 1e3 + used.get("timeMs", 0) / 1e6)


def _words(held: Held, allowed: Mapping[str, float], used: Mapping[str, float]) -> str:
    units = {"tokens": "tokens", "cost": held.budget.currency, "time": "ms"}
    return ", ".join(f"{used[part]:g} of {most:g} {units[part]}" for part, most in allowed.items())


# -- what follows --------------------------------------------------------------


def _base(planned: PlanBlock, claim: Claim) -> Change:
    return Change(
        pk=claim.pk,
        idx=claim.idx,
        iteration=claim.iteration,
        attempt=claim.attempt,
        status=B.READY,
        reason=BUDGET,
        agent_id=planned.block.agent_id or "",
    )


def _parked(planned: PlanBlock, claim: Claim, spent: Overspent) -> Change:
    return replace(_base(planned, claim), status=B.WAITING_HUMAN, ask=BUDGET, budget=spent)


def _failed(planned: PlanBlock, claim: Claim) -> Change:
    return replace(_base(planned, claim), status=B.FAILED, reason=EXCEEDED, error=stopped_error())


def _later(change: Change) -> Change:
    return replace(change, status=B.READY, ask="", budget=None, delay_s=LOOK_S)


def _may_ask(run: Run, change: Change) -> bool:
    spent: Overspent = change.budget
    given = {"scope": str(spent.held.scope), "key": spent.held.key, "answered": spent.answered}
    return run.execute(_ASK, block=change.pk, **given).fetchone() is not None


def _warn(
    facts: Facts, planned: PlanBlock, held: Held, allowed: Mapping[str, float], used: Mapping[str, float]
) -> None:
    given: JSONObject = {"workspace": facts.workspace_id, "execution": facts.execution_id}
    given |= {"scope": str(held.scope), "key": held.key}
    said = f"{held.name} runs low: {_words(held, allowed, used)}"
    with transaction.atomic():
        if raw_cursor().execute(_WARN, given).fetchone() is None:
            return  # another was there first
        store.append(
            type="budget_warning",
            workspace_id=facts.workspace_id,
            execution_id=facts.execution_id,
            block_id=planned.block_id,
            level=Level.WARNING,
            payload={
                "scope": str(held.scope),
                "message": said,
                "allowed": dict(allowed),
                "spent": dict(used),
            },
        )
    log.warning("budget_low", execution_id=str(facts.execution_id), scope=str(held.scope), spent=dict(used))


# -- rows ----------------------------------------------------------------------

_STATES = """
SELECT s.scope, s.key, s.warned, s.extra, s.answered, coalesce(s.stopped_epoch = e.epoch, false)
FROM executions_budgetstate s JOIN executions_execution e ON e.id = s.execution_id
WHERE s.execution_id = %(execution)s
"""

_WARN = """
INSERT INTO executions_budgetstate AS s (workspace_id, execution_id, scope, key, warned, extra, answered)
VALUES (%(workspace)s, %(execution)s, %(scope)s, %(key)s, true, '{}', 0)
ON CONFLICT (workspace_id, scope, key) DO UPDATE SET warned = true WHERE NOT s.warned
RETURNING id
"""

# Whoever asked before may ask again, once it is settled or was taken back so may others.
_ASK = """
INSERT INTO executions_budgetstate AS s
  (workspace_id, execution_id, scope, key, warned, extra, answered, asked_block)
VALUES (%(workspace)s, %(execution)s, %(scope)s, %(key)s, false, '{}', 0, %(block)s)
ON CONFLICT (workspace_id, scope, key) DO UPDATE SET asked_block = excluded.asked_block
WHERE s.answered = %(answered)s AND (s.asked_block = excluded.asked_block OR NOT EXISTS (
  SELECT 1 FROM executions_blockexecution b WHERE b.id = s.asked_block AND b.epoch = %(epoch)s
    AND b.status NOT IN ('completed', 'failed', 'skipped', 'cancelled')))
RETURNING id
"""

_ASKED_BY = """
SELECT scope, key, warned, extra, answered FROM executions_budgetstate
WHERE execution_id = %(execution)s AND asked_block = %(block)s
"""

_EXTEND = """
UPDATE executions_budgetstate
SET extra = %(extra)s::jsonb, answered = answered + 1, asked_block = NULL
WHERE execution_id = %(execution)s AND asked_block = %(block)s
"""

_STOP = """
UPDATE executions_budgetstate
SET stopped_epoch = %(epoch)s, answered = answered + 1, asked_block = NULL
WHERE execution_id = %(execution)s AND asked_block = %(block)s
"""

_WAKE = """
UPDATE executions_blockexecution SET available_at = NULL
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'ready' AND reason = 'budget'
"""


def _states(facts: Facts) -> dict[tuple[str, str], State]:
    rows = raw_cursor().execute(_STATES, {"execution": facts.execution_id})
    return {
        (scope, key): State(warned, loads(extra), answered, stopped)
        for scope, key, warned, extra, answered, stopped in rows
    }


def _asked_by(run: Run, block_pk: int) -> tuple[Held, State, PlanBlock] | None:
    row = run.execute(_ASKED_BY, block=block_pk).fetchone()
    if row is None:
        return None
    scope, key, warned, extra, answered = row
    place = run.execute("SELECT idx FROM executions_blockexecution WHERE id = %(block)s", block=block_pk)
    found = place.fetchone()
    assert found is not None
    planned = run.facts.plan[found[0]]
    for held in _budgets_of(run.facts, planned):
        if (held.scope, held.key) == (scope, key):
            return held, State(warned, loads(extra), answered), planned
    return None
