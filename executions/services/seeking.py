"""Blocks that wait for an agent: sent to choose again when somebody else is there for them.

Whose turn it is at an agent with limits, `engine.places` decides.  Here is what that cannot see: an agent
that was registered, switched on or off, or that is well again.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from uuid import UUID

from django.db.models.signals import post_delete, post_save

from agentflow.agents import registry
from agentflow.agents.models import Agent, AgentPolicy
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.plan import PlanBlock
from executions import dispatch
from executions.engine import statements
from executions.engine.choosing import waits_in_vain
from executions.engine.judging import TOOL_AGENT, Change, Claim, failed
from executions.engine.places import ANY_AGENT, OF_AGENT, UNLIMITED
from executions.engine.run import Run, raw_cursor
from executions.models import AttemptOutcome, Place
from executions.recovery.decision import NO_AGENT
from executions.recovery.reading import Reader
from executions.states import BlockStatus as B

WOKEN_AT_ONCE = 100

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
        elif ANY_AGENT in keys:
            run.seeks_agents = True
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
