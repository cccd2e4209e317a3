"""Rework: a person who is asked about a block sends the run back to blocks before it.

As a restart it begins the next epoch, while the run goes on.  What works beside those blocks keeps its
rows, which move to the new epoch with their claims, children and questions; in the old one they stand as
cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from agentflow.errors import Conflict, Unprocessable
from agentflow.types import JSONObject
from agentflow.workflow.issues import pointer
from agentflow.workflow.plan import Plan
from agentflow.workflow.restart import rework_plan
from executions import dispatch
from executions.engine.facts import as_text, facts_of
from executions.engine.run import Run, locked
from executions.models import BlockExecution, Execution, PointKind
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from . import carrying

REASON = "rework"
MOST_WAYS = 20  # that are shown; any block before can be named


class NotRunning(Conflict):
    """Only an execution that goes on can be sent back."""

    code = "not_running"
    remedy = "Resume it first; one that has ended is restarted."


class NothingBefore(Conflict):
    """No step comes before this one that could be done again."""

    code = "nothing_before"
    remedy = "Approve it, with changes if it allows them, or reject it."


class NotUpstream(Unprocessable):
    """A run is sent back to steps before the one that asks."""

    code = "not_upstream"
    remedy = "Name blocks that come before it, or none: then it is those directly before it."


@dataclass(frozen=True, slots=True)
class Rework:
    """`by` is a username, `round` how often this block has sent the run back, with this time."""

    blocks: tuple[str, ...]
    comment: str
    by: str
    by_id: int
    round: int


def blocks_before(plan: Plan, idx: int, *, kind: str) -> set[int]:
    """To where a question about a block may send the run back; a review also to the block itself."""
    found = {idx} if kind == "review" else set[int]()
    todo = [idx]
    while todo:
        fresh = set(plan[todo.pop()].preds) - found
        found |= fresh
        todo += fresh
    return found


def blocks_named(execution: Execution, *, block_id: str, kind: str, named: Sequence[str]) -> tuple[str, ...]:
    """The blocks that a person sends a run back to; by default those directly before, or what is reviewed.

    Raises:
        NotUpstream, NothingBefore
    """
    facts = facts_of(execution.pk)
    assert facts is not None
    plan = facts.plan
    idx = plan.index[block_id]
    before = blocks_before(plan, idx, kind=kind)
    if not before:
        raise NothingBefore
    if not named:
        chosen = [idx] if kind == "review" else plan[idx].preds
        return tuple(plan[each].block_id for each in sorted(chosen))
    issues: list[JSONObject] = [
        {
            "pointer": pointer("blocks", position),
            "code": "not_upstream",
            "message": f"{name!r} does not come before {block_id!r}.",
            "remedy": NotUpstream.remedy,
        }
        for position, name in enumerate(named)
        if plan.index.get(name) not in before
    ]
    if issues:
        raise NotUpstream(str(issues[0]["message"]), issues=issues)
    return tuple(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class WayBack:
    """A block to which a run can be sent back; `again` are the blocks that have ended and would run again."""

    block_id: str
    name: str
    usual: bool  # where it goes back to when nothing is named
    again: tuple[str, ...]
    repeats: bool  # an effect that cannot be taken back is among them


def ways_back(execution_id: UUID, *, epoch: int, block_id: str, kind: str) -> list[WayBack]:
    """The blocks before one that asks, the nearest first; one query."""
    facts = facts_of(execution_id)
    assert facts is not None
    plan = facts.plan
    asker = plan.index[block_id]
    usual = {asker} if kind == "review" else set(plan[asker].preds)
    before = sorted(blocks_before(plan, asker, kind=kind), key=lambda idx: (idx not in usual, -idx))
    if not before:
        return []
    settled = carrying.settled_blocks(facts, epoch)
    found = []
    for idx in before[:MOST_WAYS]:
        ended = [each for each in rework_plan(plan, settled, [idx]).reruns if each in settled]
        again = tuple(plan[each].block_id for each in ended)
        planned = plan[idx]
        name = planned.block.name or planned.block_id
        repeats = not facts.once.isdisjoint(ended)
        found.append(WayBack(planned.block_id, name, idx in usual, again, repeats))
    return found


def require_running(execution: Execution) -> None:
    if execution.status != E.RUNNING:
        raise NotRunning(f"The execution is {execution.status}.")


def send_back(*, execution: Execution, block_pk: int, rework: Rework) -> None:
    """Let the blocks of a rework and all behind them run again, in the transaction that records it.

    `execution` is locked by the caller, and running.
    """
    facts = facts_of(execution.pk)
    assert facts is not None
    block = BlockExecution.objects.get(pk=block_pk, execution=execution)
    if block.status != B.WAITING_HUMAN:
        return
    with locked(facts) as run:
        run.mark(PointKind.DECISION, facts.plan[block.idx].block.name or block.block_id, by_id=rework.by_id)
        _begin(run, block, rework)
        run.advance()
        run.look_again(0)
        dispatch.on_commit_hint(execution.pk, facts.max_parallel)


_MOVE_ON = """
WITH moved AS (
  UPDATE executions_blockexecution SET epoch = %(epoch)s + 1
  WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(idxs)s::int[]) RETURNING id)
UPDATE executions_eventwait w SET epoch = %(epoch)s + 1 FROM moved WHERE w.block_id = moved.id
"""

# The next epoch, told; and in the old one, at the same moment, what stands for the rows that moved on.
_NEXT_EPOCH = """
WITH next AS (
  UPDATE executions_execution
  SET epoch = epoch + 1, open_sinks = %(sinks)s, failed_blocks = %(failures)s, decisions_of = %(epoch)s,
      rework = %(rework)s::jsonb
  WHERE id = %(execution)s),
left_behind AS (
  INSERT INTO executions_blockexecution (execution_id, epoch, idx, iteration, block_id, status, todo, dead,
      failed, attempt, crashes, tries_from, round, effect, effect_seq, reason, started_at, completed_at)
  SELECT execution_id, %(epoch)s, idx, 0, block_id, 'cancelled', todo, dead, failed, 0, 0, 0, 0, effect,
      effect_seq, 'rework', statement_timestamp(), statement_timestamp()
  FROM executions_blockexecution
  WHERE execution_id = %(execution)s AND epoch = %(epoch)s + 1 AND idx = ANY(%(idxs)s::int[])
    AND iteration = 0)
INSERT INTO events_event (workspace_id, execution_id, type, level, payload)
VALUES (%(workspace)s, %(execution)s, 'execution_changed', 20, %(payload)s::jsonb)
"""

_BLOCK_EVENTS = """
INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
       '{"status": "blocked", "attempt": 0, "reason": "rework"}'::jsonb
FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(idxs)s::int[])
ORDER BY idx
"""


def _begin(run: Run, block: BlockExecution, rework: Rework) -> None:
    plan = run.facts.plan
    settled = carrying.settled_blocks(run.facts, run.epoch)
    found = rework_plan(plan, settled, [plan.index[name] for name in rework.blocks])
    going_on = [idx for idx in range(len(plan.blocks)) if idx not in settled and idx not in found.reruns]
    run.cancel(found.reruns, first=0, reason=REASON)
    run.execute(_MOVE_ON, idxs=going_on)
    carrying.copy(
        found,
        carrying.Origin(run.facts.execution_id, run.epoch),
        blocks=len(plan.blocks),
        execution_id=run.facts.execution_id,
        epoch=run.epoch + 1,
    )
    run.rework = {
        "round": rework.round,
        "comment": rework.comment,
        "by": rework.by,
        "askedBy": block.block_id,
        "blocks": list(rework.blocks),
        "epoch": run.epoch + 1,
    }
    payload: JSONObject = {"status": "running", "epoch": run.epoch + 1, "reason": REASON}
    run.execute(
        _NEXT_EPOCH,
        sinks=found.open_sinks,
        failures=found.failed_blocks,
        rework=as_text(run.rework),
        idxs=going_on,
        payload=as_text(payload),
    )
    run.decisions_of = run.epoch
    run.epoch += 1
    run.open_sinks, run.failed_blocks = found.open_sinks, found.failed_blocks
    run.known.clear()
    run.execute(_BLOCK_EVENTS, idxs=list(found.reruns))
