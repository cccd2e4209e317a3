"""One turn of a walker: settle what it did, advance the run, claim what comes next, in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction

from agentflow.conf import LIMITS
from agentflow.events import store
from agentflow.events.models import Level
from executions.models import AttemptOutcome
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from . import statements
from .facts import Facts, as_text
from .judging import Change, Claim
from .opening import Decided
from .run import Run, lock_row, poke, raw_cursor


@dataclass(slots=True)
class Turn:
    """What a walker holds after a turn, and what it knows is left for others (a guess by then)."""

    claims: list[Claim] = field(default_factory=list)
    ready_left: int = 0
    walkers: int = 0
    status: E = E.PENDING
    epoch: int = 1


def take_turn(
    facts: Facts,
    walker: UUID,
    changes: list[Change],
    *,
    want: int,
    fast: list[int] | None = None,
    more: bool = True,
    repeated: bool = False,
) -> Turn:
    """Record `changes`, the outcomes of this walker's claims, and claim up to `want` blocks.

    Idempotent by the fences: a repeat records nothing twice.  `fast` are blocks of which several may
    be claimed at once.  `more`: ready blocks may have been left by the last turn.  `repeated`: whether
    the last try committed is not known, so what it may have claimed is taken up again.
    """
    turn = Turn()
    with transaction.atomic():
        cursor = raw_cursor()
        gate = lock_row(cursor, facts.execution_id)
        if gate is None:
            return turn
        run = Run(facts, cursor, gate)
        turn.epoch = run.epoch
        newcomer = True
        if run.status is E.RUNNING and changes and all(_plain(facts, change) for change in changes):
            # A walker all of whose blocks were given to others has lost its place too.
            newcomer = not _settle_plainly(run, turn, changes, walker=walker, want=want, fast=fast or [])
        elif changes:
            newcomer = not _settle(run, changes)
        if run.status is E.PENDING:
            run.begin()
        run.leave()
        if repeated:
            turn.claims += [Claim(*row) for row in _held(run, walker, turn.claims)]
        # Who got something need not look what else there is, unless others left some the last time.
        if run.status is E.RUNNING and (not turn.claims or (more and len(turn.claims) < want)):
            _claim(run, turn, walker=walker, want=want - len(turn.claims), fast=fast or [], newcomer=newcomer)
        turn.status = run.status
    poke(facts)
    return turn


def _held(run: Run, walker: UUID, claims: list[Claim]) -> Iterable[Sequence[Any]]:
    return run.execute(statements.HELD, walker=walker, taken=[claim.pk for claim in claims])


def _plain(facts: Facts, change: Change) -> bool:
    return change.status is B.COMPLETED and not change.iteration and not facts.plan[change.idx].routes


def _settle_plainly(
    run: Run, turn: Turn, changes: list[Change], *, walker: UUID, want: int, fast: list[int]
) -> int:
    """How many of `changes` were accepted; the others came late."""
    plan = run.facts.plan
    preds: list[int] = []
    succs: list[int] = []
    for change in changes:
        out = plan[change.idx].succs
        preds += [change.idx] * len(out)
        succs += out
    rows = run.execute(
        statements.SETTLE_AND_CLAIM,
        ids=[c.pk for c in changes],
        attempts=[c.attempt for c in changes],
        outputs=[as_text(c.output) for c in changes],
        inputs=[as_text(c.input) for c in changes],
        agents=[c.agent_id for c in changes],
        preds=preds,
        succs=succs,
        special=[idx for idx in set(succs) if idx in plan.special],
        partial=[idx for idx in set(succs) if idx in plan.partial],
        sinks=[c.idx for c in changes if not plan[c.idx].succs],
        want=want,
        fast=fast,
        walker=walker,
        lease=LIMITS.lease_s,
    ).fetchall()
    done: set[int] = set()
    decided: list[Decided] = []
    for kind, pk, idx, attempt, effect, effect_seq, crashes, tries_from, todo, dead, failed in rows:
        if kind == "done":
            done.add(pk)
        elif kind == "claim":
            turn.claims.append(Claim(pk, idx, attempt, effect, effect_seq, crashes, tries_from))
        elif kind == "ready":
            turn.ready_left += 1
        elif kind == "decided":
            decided.append(Decided(pk, idx, todo, dead, failed))
        elif kind == "sinks":
            run.open_sinks = idx
    for change in changes:
        if change.pk in done:
            run.known[change.idx] = {"output": change.output, "status": "completed"}
    if len(done) < len(changes):
        _keep_late(run, [change for change in changes if change.pk not in done])
    if decided:
        run.open(sorted(decided, key=lambda block: block.idx))
    return len(done)


def _settle(run: Run, changes: list[Change]) -> int:
    """The same, for changes of every kind."""
    if run.status is E.CANCELLING:
        changes = [_while_cancelling(change) for change in changes]
    moved = run.settle(changes, leaving=B.RUNNING)
    if len(moved) < len(changes):
        _keep_late(run, [change for change in changes if change.pk not in moved])
    return len(moved)


def _while_cancelling(change: Change) -> Change:
    """A call that ended first counts; nothing is tried again and nobody is asked."""
    if change.status is B.COMPLETED or change.status is B.FAILED:
        return change
    return Change(
        pk=change.pk,
        idx=change.idx,
        iteration=change.iteration,
        attempt=change.attempt,
        status=B.CANCELLED,
        error=change.error,
        reason="cancelled",
        ended=AttemptOutcome.CANCELLED,
        agent_id=change.agent_id,
    )


def _keep_late(run: Run, changes: list[Change]) -> None:
    rows = run.execute(
        statements.LATE,
        ids=[c.pk for c in changes],
        attempts=[c.attempt for c in changes],
        outputs=[as_text(c.output) for c in changes],
        failures=[as_text(c.error) for c in changes],
        endings=[str(c.ended or "") for c in changes],
    ).fetchall()
    late = {pk for pk, _ in rows}
    for change in changes:
        if change.pk in late:
            store.append(
                type="block_late",
                workspace_id=run.facts.workspace_id,
                execution_id=run.facts.execution_id,
                block_id=run.facts.plan[change.idx].block_id,
                level=Level.WARNING,
                payload={"attempt": change.attempt},
            )


def _claim(run: Run, turn: Turn, *, walker: UUID, want: int, fast: list[int], newcomer: bool) -> None:
    rows = run.execute(
        statements.CLAIM,
        want=want,
        fast=fast,
        walker=walker,
        lease=LIMITS.lease_s,
        newcomer=newcomer,
        places=run.facts.max_parallel,
    )
    claimed = 0
    for *claim, ready, walkers in rows:
        if claim[0]:
            turn.claims.append(Claim(*claim))
            claimed += 1
        else:
            turn.ready_left = ready
            turn.walkers = walkers
    turn.ready_left = max(0, turn.ready_left - claimed)
