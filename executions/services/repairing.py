"""Mending one block by hand while its execution goes on: skip it, complete it, try it again.

Each is one transaction under the execution's lock with one audit entry.  What the block waited for is
withdrawn: its question, its child, its items.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from django.db.models import Q

from agentflow.conf import LIMITS, MB
from agentflow.errors import Conflict, InvalidInput, NotFound, Unprocessable
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.plan import PlanBlock
from agentflow.workflow.settlement import Closings, Reason, close_failed
from executions import dispatch
from executions.engine.facts import facts_of
from executions.engine.judging import CALLBACK, CHILD, REPEAT_EXHAUSTED, Change
from executions.engine.opening import Answered
from executions.engine.run import Run, locked
from executions.models import AttemptOutcome, BlockExecution
from executions.ports import human_gate
from executions.snapshot import json_bytes
from executions.states import REPAIR, TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

BY_HAND = str(Reason.BY_HAND)
OPEN = frozenset({B.READY, B.WAITING_HUMAN, B.WAITING_EXTERNAL})


class ExecutionEnded(Conflict):
    """The execution has ended, or is being stopped."""

    code = "execution_ended"
    remedy = "Restart the execution, from this block if need be."


class BlockNotOpen(Conflict):
    """Only a block that is ready or waits can be settled by hand."""

    code = "block_not_open"
    remedy = "Wait until it is ready or waits; one that is running can only be cancelled with its execution."


class NothingToRetry(Conflict):
    """The block is in no state to be tried again."""

    code = "nothing_to_retry"
    remedy = (
        "Only a failed block, one in backoff and one that waits for a decision on a failure are tried again."
    )


class SuccessorsMoved(Conflict):
    """Blocks behind the failed one have moved because of the failure."""

    code = "successors_moved"
    remedy = "When the execution has ended, restart it from this block."


def skip(*, execution_id: UUID, block_pk: int, by: User | None, reason: str) -> None:
    """Go on as if another branch had been chosen.

    Raises:
        ExecutionEnded, BlockNotOpen
    """
    with _block(execution_id, block_pk) as (run, block):
        _check_open(block)
        _settle(
            run,
            block,
            Change(pk=block.pk, idx=block.idx, iteration=block.iteration, status=B.SKIPPED, reason=BY_HAND),
        )
        _audit(run, block, "execution.skip_block", by, {"reason": reason})


def complete(*, execution_id: UUID, block_pk: int, output: JSONValue, by: User | None, reason: str) -> None:
    """Take `output` as what the block gave; its conditions choose on it.

    Raises:
        ExecutionEnded, BlockNotOpen
        InvalidInput: the output is too large.
        Unprocessable: no branch of the block fits the output.
    """
    size = json_bytes(output)
    if size > LIMITS.blob_bytes:
        raise InvalidInput(
            f"The output has {size} bytes; {LIMITS.blob_bytes // MB} MB are allowed.", pointer="/output"
        )
    with _block(execution_id, block_pk) as (run, block):
        _check_open(block)
        change = run.complete(
            Change(pk=block.pk, idx=block.idx, status=B.COMPLETED, reason=BY_HAND), output, reviewed=True
        )
        if change.ask:
            raise Unprocessable(
                str((change.error or {}).get("message", "No branch fits.")),
                pointer="/output",
                remedy="Give an output that one of the block's conditions accepts.",
            )
        _settle(run, block, change)
        _audit(run, block, "execution.complete_block", by, {"reason": reason, "outputBytes": size})


def retry(*, execution_id: UUID, block_pk: int, by: User | None, reason: str) -> None:
    """Try a block again now: from its backoff, instead of a decision, or after it failed.

    A failed block only while nothing behind it has moved: then its edges are opened again.

    Raises:
        ExecutionEnded, NothingToRetry, SuccessorsMoved
    """
    with _block(execution_id, block_pk) as (run, block):
        if block.status == B.READY and block.available_at is not None:
            run.execute(_NOW, block=block.pk)
        elif block.status == B.WAITING_HUMAN and block.error is not None:
            waited = Answered.of(block)
            _settle(run, block, run.answered(waited, kind="fix", approved=True, response={"action": "retry"}))
        elif block.status == B.FAILED:
            _undo_failure(run, block)
        else:
            raise NothingToRetry(f"The block is {block.status}.")
        _audit(run, block, "execution.retry_block", by, {"reason": reason})


@contextmanager
def _block(execution_id: UUID, block_pk: int) -> Iterator[tuple[Run, BlockExecution]]:
    """Hold the execution's lock around what is done to one of its blocks."""
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    with locked(facts) as run:
        if run.status in TERMINAL or (run.status is E.CANCELLING and not run.compensates):
            raise ExecutionEnded(f"The execution is {run.status}.")
        block = BlockExecution.objects.filter(
            Q(iteration=0) | Q(status=B.WAITING_HUMAN), pk=block_pk, execution=execution_id, epoch=run.epoch
        ).first()
        if block is None:  # its epoch is over
            raise BlockNotOpen
        if run.compensates and run.facts.plan[block.idx].compensates is None:
            raise ExecutionEnded("The execution undoes what it did.")
        yield run, block
        run.look_again(0)
        dispatch.on_commit_hint(execution_id)


def _check_open(block: BlockExecution) -> None:
    if block.status not in OPEN:
        raise BlockNotOpen(
            f"The block is {block.status}; only one that is ready or waits is settled by hand."
        )


def _settle(run: Run, block: BlockExecution, change: Change) -> None:
    before = B(block.status)
    if before is B.WAITING_EXTERNAL and block.reason in (CHILD, CALLBACK):  # this attempt's answer
        change = replace(change, ended=AttemptOutcome.CANCELLED)
    run.settle([change], leaving=before)
    if before is B.WAITING_HUMAN:
        human_gate().cancel(execution_id=block.execution_id, block_pks=[block.pk], reason=BY_HAND)
    elif before is B.WAITING_EXTERNAL:
        run.withdraw(block.pk, block.idx, block.attempt, reason=BY_HAND)


# -- a failure undone ----------------------------------------------------------

_NOW = """
WITH moved AS (
  UPDATE executions_blockexecution SET available_at = NULL, reason = 'run_again' WHERE id = %(block)s
  RETURNING block_id, attempt)
INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
       jsonb_build_object('status', 'ready', 'attempt', attempt, 'reason', 'run_again') FROM moved
"""

_MOVED_ON = """
SELECT 1 FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(idxs)s::int[])
  AND iteration = 0 AND status <> 'blocked'
LIMIT 1
"""

_REOPEN = """
UPDATE executions_blockexecution b
SET todo = b.todo + x.closed, dead = b.dead - x.dead, failed = b.failed - x.failed
FROM unnest(%(idxs)s::int[], %(closed)s::int[], %(dead)s::int[], %(failed)s::int[])
  AS x(idx, closed, dead, failed)
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.idx = x.idx AND b.iteration = 0
"""

_UNFAIL = """
WITH moved AS (
  UPDATE executions_blockexecution
  SET status = %(status)s, reason = 'run_again', error = NULL,
      output = CASE WHEN %(further)s THEN output END,
      output_blob = CASE WHEN %(further)s THEN output_blob END,
      round = round + %(further)s::int, effect_seq = effect_seq + %(further)s::int,
      completed_at = NULL, available_at = NULL, tries_from = attempt, crashes = 0
  WHERE id = %(block)s AND status = 'failed' RETURNING block_id, attempt),
counted AS (
  UPDATE executions_execution SET open_sinks = %(sinks)s, failed_blocks = %(failures)s
  WHERE id = %(execution)s)
INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
       jsonb_build_object('status', %(status)s::text, 'attempt', attempt, 'reason', 'run_again') FROM moved
"""


def _undo_failure(run: Run, block: BlockExecution) -> None:
    """Let a failed block be tried again as if it had not failed yet; one never called is opened anew."""
    planned: PlanBlock = run.facts.plan[block.idx]
    # One that gave its place of a concurrency key up with its failure is opened anew, to take another.
    status = B.READY if block.attempt and planned.key is None else B.BLOCKED
    REPAIR.check(B.FAILED, status)
    if planned.compensates is not None:
        raise NothingToRetry("A person let the compensation fail, and others may have begun since.")
    if planned.items is not None:
        raise NothingToRetry(
            "Its items have been worked on; a forEach runs again as a whole.",
            remedy="When the execution has ended, restart it from this block.",
        )
    if planned.succs:
        if run.execute(_MOVED_ON, idxs=list(planned.succs)).fetchone() is not None:
            raise SuccessorsMoved
        closings = Closings()
        close_failed(run.facts.plan, block.idx, closings)
        found = sorted(closings.by_idx.items())
        run.execute(
            _REOPEN,
            idxs=[idx for idx, _ in found],
            closed=[closing.closed for _, closing in found],
            dead=[closing.dead for _, closing in found],
            failed=[closing.failed for _, closing in found],
        )
    else:
        run.open_sinks += 1
    run.failed_blocks -= planned.block.on_error != "continue"
    run.execute(
        _UNFAIL,
        block=block.pk,
        status=str(status),
        sinks=run.open_sinks,
        failures=run.failed_blocks,
        further=(block.error or {}).get("code") == REPEAT_EXHAUSTED,  # a round more
    )
    if status is B.BLOCKED:
        run.advance()


def _audit(run: Run, block: BlockExecution, action: str, by: User | None, detail: JSONObject) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=run.facts.workspace_id,
        target_type="execution",
        target_id=str(run.facts.execution_id),
        detail={"blockId": block.block_id, **detail},
    )
