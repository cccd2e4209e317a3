"""Blocks that wait for an agent: sent to choose again when somebody else is there for them.

Whose turn it is at an agent with limits, `engine.places` decides.  Here is what that cannot see: an agent
that was registered, switched on or off, or that is well again.  A change of an agent wakes who waits for it;
that a circuit lets calls through again nobody tells, so the clock asks, once for all blocks for which the
same agents are fit.  Should both be lost, each run is looked at by itself now and then.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from uuid import UUID

from django.db import transaction
from django.db.models.signals import post_delete, post_save

from agentflow.agents import registry
from agentflow.agents.models import Agent, AgentPolicy
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.plan import PlanBlock
from executions import dispatch
from executions.engine import statements
from executions.engine.choosing import waits_in_vain
from executions.engine.facts import facts_of
from executions.engine.judging import TOOL_AGENT, Change, Claim, failed
from executions.engine.places import ANY_AGENT, GOES_ON, LIVE, OF_AGENT, UNLIMITED
from executions.engine.run import Run, raw_cursor
from executions.models import AttemptOutcome, Place
from executions.recovery.decision import NO_AGENT
from executions.recovery.reading import Reader
from executions.states import BlockStatus as B

WOKEN_AT_ONCE = 100
WAVES = (1, 10, 100, 1000)  # so many are woken by one look after the other, while an agent stays fit

_WAITING = """
SELECT b.id, b.idx, b.iteration, b.effect, p.key FROM executions_place p
JOIN executions_blockexecution b ON b.id = p.block_id
WHERE p.execution_id = %(execution)s AND p.kind = 'agent' AND NOT p.held AND b.epoch = %(epoch)s
  AND b.status = 'waiting_external' AND b.reason = 'agent' ORDER BY b.id, p.id
"""


def seek(run: Run) -> None:
    """Let blocks choose again that wait in vain."""
    waits: dict[tuple[int, int, int, str], list[str]] = defaultdict(list)
    for pk, idx, iteration, effect, key in run.execute(_WAITING):
        waits[pk, idx, iteration, effect].append(key)
    changes = []
    for (pk, idx, iteration, effect), keys in waits.items():
        planned = run.facts.plan[idx]
        if waits_in_vain(run.facts, planned, effect, [key for key in keys if key != ANY_AGENT]):
            changes.append(Change(pk=pk, idx=idx, iteration=iteration, status=B.READY))
    if changes:
        run.settle(changes, leaving=B.WAITING_EXTERNAL)


def give_up(run: Run, waited: list[Claim], reason: str) -> list[Change]:
    """Fail the attempts of blocks whose patience is over, as attempts at which nobody was called."""
    if waited:
        run.execute(statements.COUNT_WAITED, ids=[each.pk for each in waited])
    return [_impatient(run, replace(each, attempt=each.attempt + 1), reason) for each in waited]


def _impatient(run: Run, claim: Claim, reason: str) -> Change:
    planned = run.facts.plan[claim.idx]
    base = Change(
        pk=claim.pk,
        idx=claim.idx,
        iteration=claim.iteration,
        attempt=claim.attempt,
        status=B.FAILED,
        ended=AttemptOutcome.ERROR,
    )
    healing = Reader(run.facts)
    waited_s = planned.patience_s or healing.recovery(planned).queue_s
    failure = _no_agent(planned, waited_s, reason)
    return failed(planned, base, claim, failure, uniform=random.random, healing=healing)


def _no_agent(planned: PlanBlock, waited_s: float, reason: str) -> Failure:
    who = planned.block.agent_id
    wanted = f"The agent {who!r}" if who else f"An agent that can do {', '.join(planned.block.capabilities)}"
    if reason == TOOL_AGENT:
        wanted = "The agent that it was to call next"
    message = f"{wanted} was not free within {waited_s:g} s, the patience of the block."
    return Failure(FailureKind.AGENT, NO_AGENT, message)


def wake(workspace_id: UUID, agent_id: str) -> None:
    """An agent has changed: look at the runs that wait for it, or for any."""
    waiting = Place.objects.filter(workspace_id=workspace_id, kind=OF_AGENT, held=False)
    runs = waiting.filter(key__in=[agent_id, ANY_AGENT]).order_by("-priority", "pk")
    for execution_id in sorted(set(runs.values_list("execution_id", flat=True)[:WOKEN_AT_ONCE])):
        timer = f"news:{execution_id}:agents"
        raw_cursor().execute(statements.NEWS, {"timer": timer, "other": execution_id})
        dispatch.on_commit_look_at(execution_id)


# A loose index scan: a probe of the index for each kind, however many blocks wait.
_SOUGHT = """
WITH RECURSIVE sought AS (
  (SELECT seeks FROM executions_place WHERE kind = 'agent' AND key = '' AND NOT held ORDER BY seeks LIMIT 1)
  UNION ALL
  SELECT (SELECT seeks FROM executions_place WHERE kind = 'agent' AND key = '' AND NOT held
          AND seeks > sought.seeks ORDER BY seeks LIMIT 1)
  FROM sought WHERE sought.seeks IS NOT NULL)
SELECT sought.seeks, one.execution_id, e.patches::text, b.idx, b.effect FROM sought
CROSS JOIN LATERAL (
  SELECT execution_id, block_id FROM executions_place
  WHERE kind = 'agent' AND key = '' AND NOT held AND seeks = sought.seeks
  ORDER BY priority DESC, id LIMIT 1) one
JOIN executions_execution e ON e.id = one.execution_id
JOIN executions_blockexecution b ON b.id = one.block_id
WHERE sought.seeks <> ''
"""

# Not again who has been told and did not look yet.
_WAKE_SOME = f"""
INSERT INTO executions_timer (kind, key, execution_id, due_at, tries, progress)
SELECT DISTINCT 'news', w.timer, w.execution_id, statement_timestamp(), 0, 0 FROM (
  SELECT p.execution_id, 'news:' || p.execution_id || ':agents' AS timer
  FROM executions_place p JOIN executions_execution e ON e.id = p.execution_id
  JOIN executions_blockexecution b ON b.id = p.block_id
  WHERE p.kind = 'agent' AND p.key = '' AND NOT p.held AND p.seeks = %(seeks)s AND {GOES_ON} AND ({LIVE})
    AND NOT EXISTS (SELECT 1 FROM executions_timer t WHERE t.key = 'news:' || p.execution_id || ':agents')
  ORDER BY p.priority DESC, p.id LIMIT %(most)s) w
ON CONFLICT (key) DO NOTHING RETURNING execution_id
"""


class Seeker:
    """Of one clock: asks for whom agents are fit again, and wakes few at first, for a half-open circuit lets
    one call through."""

    def __init__(self) -> None:
        self._waves: dict[str, int] = {}  # how many looks in a row found somebody fit

    def look(self) -> int:
        """How many runs were woken."""
        sought = raw_cursor().execute(_SOUGHT).fetchall()
        fit = [seeks for seeks, *one in sought if _are_fit(*one)]
        self._waves = {seeks: min(self._waves.get(seeks, -1) + 1, len(WAVES) - 1) for seeks in fit}
        return sum(self._wake(seeks, WAVES[wave]) for seeks, wave in self._waves.items())

    def _wake(self, seeks: str, most: int) -> int:
        with transaction.atomic():
            woken = raw_cursor().execute(_WAKE_SOME, {"seeks": seeks, "most": most}).fetchall()
            for (execution_id,) in woken:
                dispatch.on_commit_look_at(execution_id)
        return len(woken)


def _are_fit(execution_id: UUID, patches: str | None, idx: int, effect: str) -> bool:
    facts = facts_of(execution_id)
    if facts is None:
        return False
    facts = facts.patched(patches)
    return waits_in_vain(facts, facts.plan[idx], effect, [])


def _agent_saved(instance: Agent, **_: object) -> None:
    registry.forget()
    limits = instance.limits or {}
    Place.objects.filter(
        workspace_id=instance.workspace_id, kind=OF_AGENT, key=instance.agent_id, held=False
    ).update(places=limits.get("concurrency") or UNLIMITED, rate=limits.get("ratePerMinute"))
    wake(instance.workspace_id, instance.agent_id)


def _policy_changed(instance: AgentPolicy, **_: object) -> None:
    wake(instance.workspace_id, ANY_AGENT)


def listen() -> None:
    post_save.connect(_agent_saved, sender=Agent, dispatch_uid="executions.agent_saved")
    post_save.connect(_policy_changed, sender=AgentPolicy, dispatch_uid="executions.policy_saved")
    post_delete.connect(_policy_changed, sender=AgentPolicy, dispatch_uid="executions.policy_deleted")
