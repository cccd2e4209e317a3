"""Budgets: what a block, a run, an agent or a workspace may use up before a person is asked.

Looked at between the claim and the call, and before each answer of an agent that works in steps, where a
budget is given and the block can use some of it up: others cost no statement.  What is spent is read from
attempts and steps, of a day from what these added to it (module `daily`), so nothing is counted twice or
lost.  A used up budget has one open question, held by the block that came first; other blocks wait until
it is answered (module `budget_rows`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction

from agentflow.agents import registry
from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject
from agentflow.workflow.definition import Budget
from agentflow.workflow.plan import PlanBlock
from executions import spending
from executions.models import AttemptOutcome, BudgetScope
from executions.ports import human_gate
from executions.states import BlockStatus as B

from . import budget_rows, cheaper, daily
from .budget_rows import OF_A_DAY, Held, State
from .facts import Above, Facts, version_facts
from .judging import BUDGET, BUDGET_DAY, Change, Claim
from .run import Run

log = structlog.get_logger(__name__)

EXCEEDED = "budget_exceeded"
CHANGED = "budget_changed"  # why a question about one was closed
LOOK_S = 30.0  # an answer wakes who waits sooner
LOOK_DAY_S = 600.0  # as does the budget of a day that is changed
MOST_STEPS = 50  # that a question names: those that used most
_PARTS = ("tokens", "cost", "time")
_COSTLY = frozenset({"LLM", "UseCase", "A2A", "AgentService"})  # what they use is known afterwards


@dataclass(frozen=True, slots=True)
class Overspent:
    """A budget that is used up, as a question shows it; `answered` tells whether it was asked meanwhile."""

    held: Held
    answered: int
    words: str = ""
    allowed: JSONObject | None = None
    used: JSONObject | None = None
    rows: tuple[JSONObject, ...] = ()  # what was spent on what, the most first
    agents: tuple[JSONObject, ...] = ()  # that could do it for less, the cheapest first


def apply(facts: Facts, planned: PlanBlock) -> bool:
    """Whether a block draws on a budget.  A run without one is not looked at further."""
    of_template = planned.block.budget is not None or facts.plan.budget is not None or _above(facts.above)
    return (bool(of_template) and bool(_budgets_of(facts, planned))) or daily.apply(facts, planned)


def check(
    facts: Facts, planned: PlanBlock, claim: Claim, *, agent_id: str | None = None, on_its_way: bool = False
) -> Change | str | None:
    """What holds the block, if something does, or the agent that a person let it go on with.

    The first time that a budget runs low there is a warning.  `agent_id` is who would be called, where it
    is not whom the template names; `on_its_way` by an agent that is at work.
    """
    states = budget_rows.of_run(facts)
    own = states.get((BudgetScope.BLOCK, budget_rows.block_key(facts, planned.block_id)), State())
    budgets = _budgets_of(facts, planned)
    runs = [facts.execution_id, *(each.execution_id for each in facts.above)]
    keys = {(BudgetScope.EXECUTION, str(run)) for run in runs} | {(held.scope, held.key) for held in budgets}
    if own.stopped or any(states[key].stopped for key in keys & states.keys()):
        return _failed(claim)
    who = agent_id if on_its_way else own.agent_id or agent_id or planned.block.agent_id
    spent = {run: spending.by_step(run) for run in {held.run_id for held in budgets} if run is not None}
    of_today = daily.of_block(facts, planned, who)
    states |= budget_rows.of_days(facts.workspace_id, [held.key for held in of_today])
    for held in (*budgets, *of_today):
        state = states.get((held.scope, held.key), State())
        allowed = _allowed(held.budget, state)
        steps = spent[held.run_id] if held.run_id is not None else {}
        used = _used(held, steps)
        if any(used[part] >= most for part, most in allowed.items()):
            low = _Low(held, state, allowed, used, steps)
            return _held(facts, planned, claim, who, low, cheaper_too=not on_its_way)
        if not state.warned and any(used[p] >= most * held.budget.soft_share for p, most in allowed.items()):
            _warn(facts, planned, held, allowed, used)
    return own.agent_id or None


def asked_in_vain(run: Run) -> None:
    """Close the questions about budgets of a day that have room again, since somebody changed them."""
    for pk, idx, iteration, scope, key in budget_rows.asking(run):
        planned = run.facts.plan[idx]
        found = daily.of_block(run.facts, planned, key[11:] or planned.block.agent_id)
        held = next((each for each in found if (each.scope, each.key) == (scope, key)), None)
        state = budget_rows.of_days(run.facts.workspace_id, [key]).get((scope, key))
        if held is not None and daily.over(held, daily.extra_of(state)):
            continue
        budget_rows.answer(run, pk)
        budget_rows.wake(run, scope, key)
        human_gate().cancel(execution_id=run.facts.execution_id, block_pks=[pk], reason=CHANGED)
        change = Change(pk=pk, idx=idx, iteration=iteration, status=B.READY, reason="extended")
        run.settle([change], leaving=B.WAITING_HUMAN)


def asked_once(run: Run, changes: list[Change]) -> list[Change]:
    """Let those changes ask about a budget whose question is not open, and was not answered meanwhile."""
    return [change if change.budget is None else _asked(run, change) for change in changes]


def extend(run: Run, block_pk: int, given: Mapping[str, Any]) -> None:
    """Allow more of the budget that the block asks about: what was named, else as much as it was once more.

    On top of what is spent by now, so that the next call does not ask again.  That of a day that is over
    needs nothing.
    """
    asked = budget_rows.asked_by(run, block_pk)
    if asked is None:
        return
    scope, key, state = asked
    planned = _planned(run, block_pk)
    found = _budgets_of(run.facts, planned)
    if scope in OF_A_DAY:
        found = daily.of_block(run.facts, planned, key[11:] or planned.block.agent_id)
    held = next((each for each in found if (each.scope, each.key) == (scope, key)), None)
    budget_rows.answer(run, block_pk, None if held is None else _extra(held, state, given))
    budget_rows.wake(run, scope, key)


def go_on_cheaper(run: Run, block_pk: int, agent_id: str, given: Mapping[str, Any]) -> None:
    """The block goes on with another agent; where that draws on the same budget, it is extended for it."""
    asked = budget_rows.asked_by(run, block_pk)
    budget_rows.go_on_with(run, _planned(run, block_pk).block_id, agent_id)
    if asked is not None and asked[0] == BudgetScope.AGENT:
        budget_rows.answer(run, block_pk)
        budget_rows.wake(run, *asked[:2])
    else:
        extend(run, block_pk, given)


def stop(run: Run, block_pk: int) -> None:
    """Nothing more is spent of the budget that the block asks about, until somebody restarts the run.

    Of a day's by this run: others ask themselves.
    """
    asked = budget_rows.asked_by(run, block_pk)
    if asked is None:
        return
    scope, key, _ = asked
    budget_rows.answer(run, block_pk)
    if scope in OF_A_DAY:
        budget_rows.stop(run, BudgetScope.EXECUTION, str(run.facts.execution_id))
    else:
        budget_rows.stop(run, scope, key)
    budget_rows.wake(run, scope, key)


def stopped_error() -> JSONObject:
    message = "A budget is used up, and was not extended."
    return {"kind": "critical", "code": EXCEEDED, "message": message}


# -- which, and how much -------------------------------------------------------


def _budgets_of(facts: Facts, planned: PlanBlock) -> list[Held]:
    """Those of the template, and of the runs above.  What is undone or simulated draws on none."""
    if facts.simulation is not None or planned.compensates is not None:
        return []
    found: list[Held] = []
    own, whole = planned.block.budget, facts.plan.budget
    if own is not None:
        found.append(_of_block(facts.execution_id, planned.block_id, own, "the step's budget"))
    shared = [] if whole is None else [_of_whole(facts.execution_id, whole, "the execution's budget")]
    shared += _above(facts.above)
    costs = bool(shared) and _can_cost(facts, planned)
    return found + [held for held in shared if costs or held.budget.time is not None]


def _of_block(run_id: UUID, block_id: str, budget: Budget, name: str) -> Held:
    key = f"{run_id}:{block_id}"
    return Held(BudgetScope.BLOCK, key, name, budget, run_id=run_id, block_id=block_id)


def _of_whole(run_id: UUID, budget: Budget, name: str) -> Held:
    return Held(BudgetScope.EXECUTION, str(run_id), name, budget, run_id=run_id)


@lru_cache(maxsize=256)
def _above(chain: tuple[Above, ...]) -> tuple[Held, ...]:
    """The budgets of the runs that wait for this one, and of the blocks that do; up to one that undoes."""
    found: list[Held] = []
    for run_id, version_id, idx in chain:
        version = version_facts(version_id)
        planned = version.plan[idx]
        if planned.compensates is not None:
            break
        if planned.block.budget is not None:
            name = f"the budget of the step “{planned.block.name or planned.block_id}” above"
            found.append(_of_block(run_id, planned.block_id, planned.block.budget, name))
        if version.plan.budget is not None:
            name = f"the budget of the execution of “{version.template_name}” above"
            found.append(_of_whole(run_id, version.plan.budget, name))
    return tuple(found)


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


def _used(held: Held, steps: Mapping[str, JSONObject]) -> dict[str, float]:
    if held.spent is not None:
        return {
            "tokens": held.spent.get(daily.TOKENS, 0.0),
            "cost": held.spent.get(held.budget.currency, 0.0),
            "time": 0.0,
        }
    mine = held.scope == BudgetScope.BLOCK
    found = [used for block_id, used in steps.items() if not mine or block_id == held.block_id]
    return {
        "tokens": sum(each["inputTokens"] + each["outputTokens"] for each in found),
        "cost": sum(each["cost"].get(held.budget.currency, 0) for each in found),
        "time": sum(each.get("timeMs", 0) for each in found),
    }


def _extra(held: Held, state: State, given: Mapping[str, Any]) -> JSONObject:
    allowed = _allowed(held.budget, state)
    used = _used(held, {} if held.run_id is None else spending.by_step(held.run_id))
    named = {part: given[part] for part in _PARTS if given.get(part)}
    extra: JSONObject = {}
    for part, most in allowed.items():
        own = getattr(held.budget, part)
        over = used[part] >= most
        more = named.get(part, own if over or not named else 0)
        extra[part] = max(most, used[part] if over else 0) + more - own
    return extra


def _planned(run: Run, block_pk: int) -> PlanBlock:
    place = run.execute("SELECT idx FROM executions_blockexecution WHERE id = %(block)s", block=block_pk)
    found = place.fetchone()
    assert found is not None
    return run.facts.plan[found[0]]


# -- what is shown ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Low:
    """A budget and how it stands."""

    held: Held
    state: State
    allowed: Mapping[str, float]
    used: Mapping[str, float]
    steps: Mapping[str, JSONObject]

    @property
    def words(self) -> str:
        units = {"tokens": "tokens", "cost": self.held.budget.currency, "time": "ms"}
        return ", ".join(
            f"{self.used[part]:g} of {most:g} {units[part]}" for part, most in self.allowed.items()
        )


def _overspent(
    facts: Facts, planned: PlanBlock, claim: Claim, who: str | None, low: _Low, *, cheaper_too: bool
) -> Overspent:
    held = low.held
    rows = _rows_of_day(facts, low) if held.spent is not None else _rows_of_run(low)
    return Overspent(
        held=held,
        answered=low.state.answered,
        words=f"{held.name} is used up ({low.words})",
        allowed=dict(low.allowed),
        used={part: low.used[part] for part in low.allowed},
        rows=tuple(rows),
        agents=tuple(cheaper.candidates(facts, planned, claim, who)) if cheaper_too else (),
    )


def _rows_of_run(low: _Low) -> list[JSONObject]:
    """Step by step; time only where it is limited."""
    found = []
    for block_id, used in low.steps.items():
        row: JSONObject = {
            "name": block_id,
            "tokens": used["inputTokens"] + used["outputTokens"],
            "cost": used["cost"].get(low.held.budget.currency, 0),
        }
        took = used.get("timeMs", 0) if "time" in low.allowed else 0
        said = spending.words(used)
        row["words"] = ", ".join(part for part in (said, f"{took / 1000:g} s" if took else "") if part)
        found.append(row | ({"timeMs": took} if took else {}))
    shown = [row for row in found if row["words"]]
    return sorted(shown, key=lambda row: (-row["cost"], -row["tokens"], -row.get("timeMs", 0)))[:MOST_STEPS]


def _rows_of_day(facts: Facts, low: _Low) -> list[JSONObject]:
    """By template and step, and what no ended call tells: what is under way, and what is long ago."""
    held, currency = low.held, low.held.budget.currency
    found: list[JSONObject] = []
    for template, block_id, agent_id, calls, tokens, cost in daily.spent_on(facts, held, most=MOST_STEPS):
        row: JSONObject = {"name": f"{template}: {block_id}", "agentId": agent_id, "calls": calls}
        found.append(row | {"tokens": tokens, "cost": cost})
    rest = {part: low.used[part] - sum(row[part] for row in found) for part in ("tokens", "cost")}
    if rest["tokens"] >= 1 or rest["cost"] > 1e-9:
        found.append({"name": "Others", **rest})
    for row in found:
        costs = {currency: row["cost"]} if row["cost"] else {}
        row["words"] = spending.words({"inputTokens": int(row["tokens"]), "cost": costs})
    return found


# -- what follows --------------------------------------------------------------


def _base(claim: Claim) -> Change:
    return Change(
        pk=claim.pk,
        idx=claim.idx,
        iteration=claim.iteration,
        attempt=claim.attempt,
        status=B.READY,
        reason=BUDGET,
        ended=AttemptOutcome.WAITED,  # by no agent: nobody was called
    )


def _held(
    facts: Facts, planned: PlanBlock, claim: Claim, who: str | None, low: _Low, *, cheaper_too: bool
) -> Change:
    """Asked about, or waited out."""
    if low.held.waits_s is not None:
        spent = Overspent(low.held, low.state.answered)
        return replace(_base(claim), reason=BUDGET_DAY, budget=spent)
    spent = _overspent(facts, planned, claim, who, low, cheaper_too=cheaper_too)
    return replace(_base(claim), status=B.WAITING_HUMAN, ask=BUDGET, budget=spent)


def _failed(claim: Claim) -> Change:
    ended = AttemptOutcome.ERROR
    return replace(_base(claim), status=B.FAILED, reason=EXCEEDED, error=stopped_error(), ended=ended)


def _asked(run: Run, change: Change) -> Change:
    spent: Overspent = change.budget
    held = spent.held
    if change.ask and budget_rows.ask(run, change.pk, held, spent.answered):
        return change
    later = replace(change, status=B.READY, ask="", budget=None, delay_s=LOOK_S)
    if not budget_rows.wait(run, held, spent.answered):
        return replace(later, delay_s=0.0)
    if held.scope not in OF_A_DAY:
        return later
    if held.waits_s is None:
        return replace(later, delay_s=LOOK_DAY_S)
    return replace(later, delay_s=min(held.waits_s + random.uniform(0, 5), LOOK_DAY_S))


def _warn(
    facts: Facts, planned: PlanBlock, held: Held, allowed: Mapping[str, float], used: Mapping[str, float]
) -> None:
    said = f"{held.name} runs low: {_Low(held, State(), allowed, used, {}).words}"
    payload: JSONObject = {"scope": str(held.scope), "message": said, "allowed": dict(allowed)}
    payload["spent"] = dict(used)
    if held.agent_id:
        payload["agentId"] = held.agent_id
    with transaction.atomic():
        if not budget_rows.warn(facts, held):
            return  # another was there first
        store.append(
            type="budget_warning",
            workspace_id=facts.workspace_id,
            execution_id=facts.execution_id,
            block_id=planned.block_id,
            level=Level.WARNING,
            payload=payload,
        )
    log.warning("budget_low", execution_id=str(facts.execution_id), scope=str(held.scope), spent=dict(used))
