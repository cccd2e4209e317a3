"""Questions that show what is no more: they go stale, and are asked as they would be asked now."""

from __future__ import annotations

from uuid import UUID

from agentflow.agents import registry
from executions.engine.calling import called
from executions.engine.facts import facts_of
from executions.engine.judging import Change
from executions.engine.opening import Answered
from executions.engine.run import Run, locked
from executions.models import BlockExecution
from executions.ports import human_gate
from executions.states import BlockStatus as B


def ask_anew(run: Run, *, only: int | None = None) -> None:
    """Ask again what is asked otherwise now; `only` the block of that row."""
    waiting = BlockExecution.objects.filter(
        execution=run.facts.execution_id,
        epoch=run.epoch,
        status=B.WAITING_HUMAN,
        reason__in=("approval", "input", "edit"),
    )
    if only is not None:
        waiting = waiting.filter(pk=only)
    rows = {row.pk: row for row in waiting.order_by("pk")}
    asks = [run.opener.asked_now(Answered.of(row), row.idx) for row in rows.values()]
    stale = human_gate().stale([ask for ask in asks if ask is not None])
    if not stale:
        return
    changes = [
        Change(
            pk=ask.block_pk,
            idx=rows[ask.block_pk].idx,
            iteration=rows[ask.block_pk].iteration,
            status=B.WAITING_HUMAN,
            reason=ask.kind,
        )
        for ask in stale
    ]
    run.move(changes, B.WAITING_HUMAN)
    human_gate().renew(stale)


def ask_anew_about(execution_id: UUID, block_pk: int) -> None:
    """The execution is locked by the caller."""
    facts = facts_of(execution_id)
    assert facts is not None
    with locked(facts) as run:
        ask_anew(run, only=block_pk)


def calls_now(execution_id: UUID, block_id: str) -> str:
    """Whom a block would call now, as `engine.calling`; read afresh."""
    registry.forget()
    facts = facts_of(execution_id)
    assert facts is not None
    return called(facts, facts.plan[facts.plan.index[block_id]])
