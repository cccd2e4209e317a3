"""What a person's decision does to the block that waited for it."""

from __future__ import annotations

from uuid import UUID

from agentflow.governance.models import User
from agentflow.types import JSONValue
from executions import dispatch
from executions.engine.facts import facts_of
from executions.engine.judging import Change
from executions.engine.opening import Answered
from executions.engine.run import locked
from executions.models import BlockExecution, Execution, PointKind
from executions.states import BlockStatus as B

# What an unanswered question makes of its block.
_EXPIRED = {
    "kind": "critical",
    "code": "approval_timeout",
    "message": "Nobody answered in time.",
}


def answered(
    *,
    execution: Execution,
    block_pk: int,
    kind: str,
    approved: bool,
    response: JSONValue,
    by: User | None,
    expired: bool = False,
    approval_id: UUID | None = None,
) -> None:
    """Move the block on because of a decision, in the transaction that records the decision.

    `execution` is locked by the caller.  The block may have moved before (a cancel): then nothing happens.
    """
    facts = facts_of(execution.pk)
    assert facts is not None
    block = BlockExecution.objects.get(pk=block_pk, execution=execution)
    if block.status != B.WAITING_HUMAN:
        return
    with locked(facts) as run:
        if expired:
            change = Change(
                pk=block.pk,
                idx=block.idx,
                iteration=block.iteration,
                status=B.FAILED,
                reason="approval_timeout",
                error=_EXPIRED,
            )
        else:
            waited = Answered.of(block)
            change = run.answered(waited, kind=kind, approved=approved, response=response)
        run.settle([change], leaving=B.WAITING_HUMAN)
        if not expired and not run.compensates:
            decided = facts.plan[block.idx].block
            run.mark(PointKind.DECISION, decided.name or decided.block_id, by_id=by.pk if by else None)
        if run.works:
            run.look_again(2)
            dispatch.on_commit_hint(execution.pk)
