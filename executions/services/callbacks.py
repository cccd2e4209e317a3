"""Results that agents bring later, to the callback URL of the attempt that called them.

Everything happens under the execution's lock: a result that comes before its block begins to wait is
stored, and the wait finds it; one that meets the deadline is taken if it holds the lock first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from agentflow.agents import invocation
from agentflow.agents.calls import Completed, Failed, Outcome
from agentflow.errors import AgentflowError, Conflict, Gone, NotFound
from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.plan import PlanBlock
from executions import dispatch
from executions.engine import statements
from executions.engine.facts import facts_of
from executions.engine.judging import CALLBACK, Change, Claim, judge, named
from executions.engine.rows import loads
from executions.engine.run import Run, locked
from executions.models import (
    AttemptOutcome,
    BlockAttempt,
    BlockExecution,
    CallbackAnswer,
    LateResult,
    RoutingReceipt,
)
from executions.recovery.reading import Reader
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

EXPIRED = "callback_timeout"


class CallbackUsed(Conflict):
    """Another result was brought to this address before."""

    code = "callback_used"
    remedy = "The first result counts; send that one again, or nothing."


class CallbackWithdrawn(Conflict):
    """Nothing waits for this result any more; it is kept for people to see, without effect."""

    code = "callback_withdrawn"
    remedy = "Send nothing more to this address."


class CallbackExpired(Gone):
    """The result came after its time; it is kept for people to see, without effect."""

    code = "callback_expired"
    remedy = "Send nothing more to this address; a longer callback.timeout gives more time."


def receive(*, block_pk: int, attempt: int, brought: Completed | Failed) -> None:
    """Take what was brought for an attempt.  The same again changes nothing.

    Raises:
        NotFound: the block is gone.
        CallbackUsed, CallbackWithdrawn, CallbackExpired
    """
    found = BlockExecution.objects.filter(pk=block_pk).values_list("execution_id", "idx").first()
    facts = facts_of(found[0]) if found is not None else None
    if found is None or facts is None:
        raise NotFound()
    agent_id = _called(facts.plan[found[1]], block_pk, attempt)
    outcome = invocation.called_back(facts.workspace_id, agent_id, brought)
    with locked(facts) as run:
        block = BlockExecution.objects.get(pk=block_pk)
        if attempt > block.attempt:
            raise NotFound()
        refusal = _receive(run, block, attempt, _digest(brought), outcome)
    if refusal is not None:  # told after the commit: what came late is kept
        raise refusal


def _called(planned: PlanBlock, block_pk: int, attempt: int) -> str | None:
    """The agent that the attempt went to."""
    if not planned.routed:
        return planned.block.agent_id
    receipts = RoutingReceipt.objects.filter(block=block_pk, attempt=attempt)
    return receipts.values_list("agent_id", flat=True).first() or planned.block.agent_id


def _receive(
    run: Run, block: BlockExecution, attempt: int, digest: str, outcome: Outcome
) -> AgentflowError | None:
    known = CallbackAnswer.objects.filter(block=block, attempt=attempt).first()
    if known is not None:
        if known.late:
            return _too_late(block, attempt)
        return None if known.digest == digest else CallbackUsed()
    late = not _awaited(run, block, attempt)
    answer = CallbackAnswer(
        block=block,
        execution_id=block.execution_id,
        attempt=attempt,
        digest=digest,
        output=outcome.output if isinstance(outcome, Completed) else None,
        failure=outcome.failure.as_json() if isinstance(outcome, Failed) else None,
        usage=outcome.usage if isinstance(outcome, Completed | Failed) else None,
        late=late,
    )
    answer.save(force_insert=True)
    _tell(run, block, answer)
    if late:
        LateResult.objects.create(block=block, attempt=attempt, output=answer.output, failure=answer.failure)
        return _too_late(block, attempt)
    if run.works:
        take_answers(run)
        run.look_again(2)
        dispatch.on_commit_hint(block.execution_id)
    return None


def _too_late(block: BlockExecution, attempt: int) -> AgentflowError:
    ended = BlockAttempt.objects.filter(block=block, attempt=attempt).first()
    if ended is not None and (ended.failure or {}).get("code") == EXPIRED:
        return CallbackExpired()
    return CallbackWithdrawn()


def _awaited(run: Run, block: BlockExecution, attempt: int) -> bool:
    """Whether the block waits, or may come to wait, for what was brought to this attempt."""
    if not (run.works or run.status is E.PAUSED) or block.epoch != run.epoch:
        return False
    if block.status == B.RUNNING or (block.status == B.WAITING_EXTERNAL and block.reason == CALLBACK):
        return _answers(block.pk, block.effect, range(attempt, block.attempt))
    return block.status == B.READY and _answers(block.pk, block.effect, range(attempt, block.attempt + 1))


def _answers(block_pk: int, effect: str, ended: range) -> bool:
    """Whether a result brought to the first of some ended attempts answers the attempt after them.

    It does while nobody knows what came of them: their worker vanished, the line broke.  All are then one
    operation under one idempotency key.  A `once` block is not tried again unasked, so it has no such.
    """
    if not ended:
        return True
    if effect == "once":
        return False
    attempts = BlockAttempt.objects.filter(block=block_pk, attempt__gte=ended.start, attempt__lt=ended.stop)
    return sum(map(_open_ended, attempts)) == len(ended)


def _open_ended(attempt: BlockAttempt) -> bool:
    failure = attempt.failure or {}
    unknown = failure.get("outcomeUnknown") is True and failure.get("code") != EXPIRED
    return attempt.outcome == AttemptOutcome.RESCUED or unknown


def take_answers(run: Run) -> None:
    """Settle the blocks of a locked run whose results were brought."""
    found: dict[B, dict[int, Change]] = {B.WAITING_EXTERNAL: {}, B.RUNNING: {}}
    for status, attempt, output, failure, usage, *row in run.execute(statements.CALLBACK_ANSWERS).fetchall():
        claim = Claim(*row)
        if _answers(claim.pk, claim.effect, range(attempt, claim.attempt)):
            found[B(status)][claim.pk] = _judged(run, claim, _stored(output, failure, usage))
    for leaving, changes in found.items():
        if changes:
            run.settle(list(changes.values()), leaving=leaving)


def brought_meanwhile(run: Run, changes: list[Change]) -> dict[int, Change]:
    """What was brought while the calls were open that these changes came of, in place of each."""
    by_pk = {change.pk: change for change in changes}
    found = {}
    rows = run.execute(statements.BROUGHT_MEANWHILE, ids=list(by_pk)).fetchall()
    for _, attempt, output, failure, usage, *row in rows:
        claim = Claim(*row)
        called, before = by_pk[claim.pk], range(attempt, claim.attempt)
        planned = run.facts.plan[claim.idx]
        if called.attempt == claim.attempt and _answers(claim.pk, claim.effect, before):
            judged = _judged(run, claim, _stored(output, failure, usage))
            found[claim.pk] = replace(
                judged,
                agent_id=called.agent_id if not before else _called(planned, claim.pk, attempt) or "",
                input=called.input,
                times=called.times,
                limited=called.limited,
            )
    return found


def expired(run: Run, waited: Claim) -> Change:
    """The block's callback has not come in time; whether the work was done nobody knows."""
    failure = Failure(
        FailureKind.TRANSIENT, EXPIRED, "The callback did not come in time.", outcome_unknown=True
    )
    return _judged(run, waited, Failed(failure))


def _judged(run: Run, claim: Claim, outcome: Outcome) -> Change:
    plan = run.facts.plan
    if isinstance(outcome, Completed):
        outcome = replace(outcome, output=run.opener.keep(outcome.output))
    refs = plan.refs(named(plan[claim.idx]))
    return judge(
        plan[claim.idx],
        claim,
        outcome,
        scope=lambda: run.facts.scope(run.outputs(refs - {claim.idx}), run.rework),
        healing=Reader(run.facts),
    )


def _stored(output: str | None, failure: str | None, usage: str | None) -> Outcome:
    if failure is None:
        return Completed(loads(output), usage=loads(usage))
    return Failed(Failure.from_json(loads(failure)), loads(usage))


def _digest(brought: Completed | Failed) -> str:
    body = {"output": brought.output} if isinstance(brought, Completed) else brought.failure.as_json()
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _tell(run: Run, block: BlockExecution, answer: CallbackAnswer) -> None:
    payload: JSONObject = {"attempt": answer.attempt, "late": answer.late}
    if block.iteration:
        payload["item"] = block.iteration
    if answer.failure is not None:
        payload["error"] = {key: answer.failure[key] for key in ("kind", "code", "message")}
    store.append(
        type="callback_received",
        workspace_id=run.facts.workspace_id,
        execution_id=run.facts.execution_id,
        block_id=block.block_id,
        level=Level.WARNING if answer.late else Level.INFO,
        payload=payload,
    )
