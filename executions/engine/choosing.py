"""Whom a claimed block calls: the agent it names, or the best of those that can do what it asks for.

Called by a walker between the claim and the call, outside the run's lock.  An agent with limits, and any
agent that was chosen, gets a place for the attempt (module `places`) and the attempt its receipt, in one
transaction: the receipt is there before the call, so that after a crash it is known who may have done it.
Without a free place the claim is handed back, and the block waits as a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.db import transaction

from agentflow.agents import registry, selection
from agentflow.agents.matching import Candidate, Requirements
from agentflow.agents.selection import Load, Purpose
from agentflow.types import JSONObject
from agentflow.workflow.plan import PlanBlock
from executions.recovery import settings
from executions.recovery.past import Past, past_of
from executions.states import BlockStatus as B

from . import budgets, daily
from .ahead import AHEAD
from .alternates import callable_now, may_queue, queues
from .facts import Facts, as_json
from .judging import AGENT, AgentPlace, Change, Claim
from .places import GOES_ON, LIVE, UNLIMITED, lock_agents
from .rates import take_of_rate, wait_for
from .rows import loads
from .run import raw_cursor

WAITS_FOR = 5  # of the agents that are fit but busy: the best


@dataclass(frozen=True, slots=True)
class Pick:
    """Who is called.  `limited`: the attempt holds a place, which its settling gives back."""

    agent_id: str | None
    limited: bool = False


def pick(facts: Facts, planned: PlanBlock, claim: Claim) -> Pick | Change | None:
    """The agent, or the change that hands the claim back; None: this cannot be done ahead of a claim."""
    agent_id = planned.block.agent_id
    if facts.simulation is not None:
        taken_over = claim.attempt > 1 and planned.routed and not planned.chosen
        return Pick(_named(facts, planned, claim)[0] if taken_over else agent_id)
    instead: str | None = None
    if budgets.apply(facts, planned):
        held = None if claim.pk == AHEAD else budgets.check(facts, planned, claim)
        if isinstance(held, Change) or claim.pk == AHEAD:
            return held if isinstance(held, Change) else None
        instead = held
    if planned.chosen and instead is None:
        return None if claim.pk == AHEAD else _chosen(facts, planned, claim)
    waits = instead is None and may_queue(facts, planned, claim)
    if instead is None and (planned.routed or waits):
        if claim.pk == AHEAD:
            return None
        agent_id, available = _named(facts, planned, claim)
        if waits and not available:
            patience_s = planned.patience_s or settings.recovery_of(facts.workspace_id, planned).queue_s
            return replace(_back(claim, ()), delay_s=patience_s)
        if agent_id and agent_id != planned.block.agent_id and _has_budget(facts, agent_id):
            held = budgets.check(facts, planned, claim, agent_id=agent_id)
            if isinstance(held, Change):
                return held
    agent_id = instead or agent_id
    spec = registry.resolve(facts.workspace_id, agent_id) if agent_id else None
    if spec is None or not spec.enabled:
        return Pick(agent_id)
    limits = spec.limits
    if limits.concurrency is None and limits.rate_per_minute is None and not planned.routed:
        return Pick(agent_id)
    if claim.pk == AHEAD:
        return None
    place = AgentPlace(spec.agent_id, limits.concurrency or UNLIMITED, limits.rate_per_minute)
    receipts = {spec.agent_id: {"asked": {"agentId": planned.block.agent_id}, "chosen": spec.agent_id}}
    taken = _take(facts, claim, [place], receipts)
    return _back(claim, (place,)) if taken is None else Pick(taken, limited=True)


def waits_in_vain(facts: Facts, planned: PlanBlock, effect: str, waits_for: Sequence[str]) -> bool:
    """Whether a block that waits for these agents had better choose again."""
    if not planned.chosen and not waits_for and (planned.routed or queues(facts, planned)):
        return bool(callable_now(facts, planned, effect))
    if not planned.chosen:
        waited_for = waits_for[0] if waits_for else planned.block.agent_id or ""
        spec = registry.resolve(facts.workspace_id, waited_for)
        limits = spec.limits if spec is not None and spec.enabled else None
        return limits is None or (limits.concurrency is None and limits.rate_per_minute is None)
    found = selection.choose(
        facts.workspace_id, asked_by(planned, effect), purpose=_purpose(facts, planned)
    ).ranking
    fit = [each.agent_id for each in found.fit]
    known = [selection.candidate(facts.workspace_id, agent_id) for agent_id in fit]
    unlimited = any(each is not None and not each.limited for each in known)
    return bool(fit) and (unlimited or len(set(fit) & set(waits_for)) < min(len(fit), WAITS_FOR))


def others(facts: Facts, planned: PlanBlock, effect: str, but: Collection[str]) -> tuple[str, ...]:
    """Agents that could take over a block just now, the best first."""
    if not planned.chosen:
        return tuple(name for name in callable_now(facts, planned, effect) if name not in but)
    found = selection.choose(
        facts.workspace_id, asked_by(planned, effect), purpose=_purpose(facts, planned), exclude=but
    ).ranking
    return tuple(each.agent_id for each in found.fit if each.agent_id not in but)


def _named(facts: Facts, planned: PlanBlock, claim: Claim) -> tuple[str | None, bool]:
    """Of the agents that the block names the one to call, and whether it is available.

    The first that the block was not taken from; only the one who may have done it already, if there is one.
    """
    fit = callable_now(facts, planned, claim.effect)
    past = past_of(claim.pk, claim.attempt, claim.effect) if planned.routed else Past()
    if past.bound is not None:
        return past.bound, past.bound in fit
    found = next((name for name in fit if name not in past.left), fit[0] if fit else None)
    return found or planned.block.agent_id, found is not None


def asked_by(planned: PlanBlock, effect: str) -> Requirements:
    """What a block asks of an agent; the effect that was fixed at the start is the most it may have."""
    block = planned.block
    return Requirements(
        capabilities=block.capabilities,
        tool_type=block.tool_type,
        effect=None if block.effect else effect,
    )


def _purpose(facts: Facts, planned: PlanBlock) -> Purpose:
    return Purpose(facts.version.template_id, planned.block_id)


def _chosen(facts: Facts, planned: PlanBlock, claim: Claim) -> Pick | Change:
    past = past_of(claim.pk, claim.attempt, claim.effect)
    choice = selection.choose(
        facts.workspace_id,
        asked_by(planned, claim.effect),
        purpose=_purpose(facts, planned),
        load=loads_of(facts.workspace_id),
        exclude=past.failed | daily.used_up(facts.workspace_id),
        only=past.bound,
        seed=f"{facts.execution_id}:{claim.idx}:{claim.iteration}:{claim.attempt}",
    )
    best = choice.ranking.best
    if best is not None and _has_budget(facts, best.agent_id):
        held = budgets.check(facts, planned, claim, agent_id=best.agent_id)
        if isinstance(held, Change):
            return held
    places = []
    for each in choice.ranking.fit:
        found = selection.candidate(facts.workspace_id, each.agent_id)
        assert found is not None
        places.append(_place(found))
    receipts = {place.agent_id: choice.receipt(place.agent_id) for place in places}
    taken = _take(facts, claim, places, receipts)
    return _back(claim, tuple(places[:WAITS_FOR])) if taken is None else Pick(taken, limited=True)


def _has_budget(facts: Facts, agent_id: str) -> bool:
    spec = registry.resolve(facts.workspace_id, agent_id)
    return spec is not None and spec.budget is not None


def _place(found: Candidate) -> AgentPlace:
    return AgentPlace(found.agent_id, found.concurrency or UNLIMITED, found.rate_per_minute)


def _back(claim: Claim, agents: tuple[AgentPlace, ...]) -> Change:
    return Change(
        pk=claim.pk,
        idx=claim.idx,
        iteration=claim.iteration,
        attempt=claim.attempt,
        status=B.WAITING_EXTERNAL,
        reason=AGENT,
        agents=agents,
    )


# -- places --------------------------------------------------------------------

_LOADS = f"""
SELECT p.key, p.held, count(*)::int FROM executions_place p
JOIN executions_execution e ON e.id = p.execution_id
JOIN executions_blockexecution b ON b.id = p.block_id
WHERE p.workspace_id = %(workspace)s AND p.kind = 'agent' AND ({LIVE}) AND (p.held OR {GOES_ON})
GROUP BY 1, 2
"""

_WINDOWS = """
SELECT agent_id, calls, extract(epoch FROM statement_timestamp())::float8 FROM executions_agentwindow
WHERE workspace_id = %(workspace)s
"""

_GRANTED = """
SELECT key FROM executions_place
WHERE block_id = %(block)s AND kind = 'agent' AND held AND attempt = %(attempt)s
"""

_COUNTS = f"""
SELECT p.key, count(*)::int FROM executions_place p
JOIN executions_execution e ON e.id = p.execution_id
JOIN executions_blockexecution b ON b.id = p.block_id
WHERE p.workspace_id = %(workspace)s AND p.kind = 'agent' AND p.key = ANY(%(agents)s::text[]) AND ({LIVE})
  AND (p.held OR {GOES_ON}) AND p.block_id <> %(block)s
GROUP BY 1
"""

_HOLD = """
INSERT INTO executions_place (workspace_id, kind, key, places, rate, priority, execution_id, block_id, held,
    attempt)
VALUES (%(workspace)s, 'agent', %(agent)s, %(limit)s, %(rate)s, 0, %(execution)s, %(block)s, true,
    %(attempt)s)
ON CONFLICT (block_id, kind, key) DO UPDATE SET held = true, attempt = excluded.attempt,
    places = excluded.places, rate = excluded.rate
  WHERE executions_place.attempt IS NULL OR executions_place.attempt <= excluded.attempt
"""

_RECEIVE = """
INSERT INTO executions_routingreceipt (block_id, attempt, agent_id, receipt)
VALUES (%(block)s, %(attempt)s, %(agent)s, %(receipt)s::jsonb)
ON CONFLICT (block_id, attempt) DO UPDATE
  SET agent_id = excluded.agent_id, receipt = excluded.receipt, at = statement_timestamp()
"""


def loads_of(workspace_id: UUID) -> dict[str, Load]:
    """How busy the workspace's agents are."""
    cursor, given = raw_cursor(), {"workspace": workspace_id}
    found: dict[str, dict[bool, int]] = {}
    for agent_id, held, count in cursor.execute(_LOADS, given):
        found.setdefault(agent_id, {})[held] = count
    waits: dict[str, float] = {}
    for agent_id, calls, now in cursor.execute(_WINDOWS, given):
        known = selection.candidate(workspace_id, agent_id)
        if known is not None and known.rate_per_minute is not None:
            waits[agent_id] = wait_for(loads(calls), now, known.rate_per_minute)
    return {
        agent_id: Load(counts.get(True, 0), counts.get(False, 0), waits.get(agent_id, 0.0))
        for agent_id, counts in ((each, found.get(each, {})) for each in found.keys() | waits.keys())
    }


def _take(
    facts: Facts, claim: Claim, places: Sequence[AgentPlace], receipts: Mapping[str, JSONObject]
) -> str | None:
    """Take the first of these agents that has room, with its receipt.  None: none has."""
    if not places:
        return None
    given = _given(facts, claim)
    with transaction.atomic():
        cursor = raw_cursor()
        taken = _hold(cursor, facts, given, places)
        if taken is None:
            return None
        receipt = receipts[taken.agent_id]
        cursor.execute(_RECEIVE, {**given, "agent": taken.agent_id, "receipt": as_json(receipt)})
        return taken.agent_id


def limits_of(facts: Facts, agent_id: str) -> AgentPlace | None:
    """What a place of a tool's agent is; None: it takes as many calls as come."""
    spec = registry.resolve(facts.workspace_id, agent_id)
    if spec is None or (spec.limits.concurrency is None and spec.limits.rate_per_minute is None):
        return None
    return AgentPlace(agent_id, spec.limits.concurrency or UNLIMITED, spec.limits.rate_per_minute)


def take_for_tool(facts: Facts, claim: Claim, place: AgentPlace) -> bool:
    """Take a place of an agent that the attempt's own agent is to call.  False: it has no room."""
    with transaction.atomic():
        return _hold(raw_cursor(), facts, _given(facts, claim), [place]) is not None


def _given(facts: Facts, claim: Claim) -> dict[str, Any]:
    return {
        "workspace": facts.workspace_id,
        "execution": facts.execution_id,
        "block": claim.pk,
        "attempt": claim.attempt,
    }


def _hold(
    cursor: Any, facts: Facts, given: dict[str, Any], places: Sequence[AgentPlace]
) -> AgentPlace | None:
    by_id = {place.agent_id: place for place in places}
    granted = {row[0] for row in cursor.execute(_GRANTED, given)} & by_id.keys()
    if granted:
        return by_id[min(granted)]
    limited = [p.agent_id for p in places if p.limit < UNLIMITED or p.rate is not None]
    if limited:
        lock_agents(cursor, limited)
    counts = dict(cursor.execute(_COUNTS, {**given, "agents": limited}).fetchall()) if limited else {}
    taken = next((p for p in places if _has_room(cursor, facts, p, counts.get(p.agent_id, 0))), None)
    if taken is not None:
        cursor.execute(_HOLD, {**given, "agent": taken.agent_id, "limit": taken.limit, "rate": taken.rate})
    return taken


def _has_room(cursor: Any, facts: Facts, place: AgentPlace, taken: int) -> bool:
    """Nobody overtakes those that wait: they are counted with those at work."""
    if taken >= place.limit:
        return False
    if place.rate is None:
        return True
    return take_of_rate(cursor, facts.workspace_id, place.agent_id, place.rate) <= 0
