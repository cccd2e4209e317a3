"""One turn of a walker: settle what it did, advance the run, claim what comes next, in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction

from agentflow.conf import LIMITS
from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject
from agentflow.workflow.plan import Plan, PlanBlock
from executions.models import AttemptOutcome
from executions.services import callbacks
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from . import budgets, statements
from .ahead import AHEAD, is_plain, waited_for
from .facts import Facts, as_text, blob_of
from .frontier import BEGINNING, WINDOW, Position
from .judging import CALLBACK, TOOL_AGENT, Change, Claim
from .opening import Decided
from .rows import int_array
from .run import Run, lock_row, poke, raw_cursor

SPECIAL, PARTIAL, FAST, MUST = 1, 2, 4, 8  # traits of a successor, as SETTLE_AND_CLAIM reads them
SEEK_S = 2.0  # after so long it is looked whether a block that waits for an agent had better choose again


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a walker would take: `count` blocks, several at once only where `is_fast` says so of each."""

    count: int
    is_fast: Callable[[PlanBlock], bool] = lambda planned: False
    all_fast: bool = False  # of every block


@dataclass(slots=True)
class Turn:
    """What a walker holds after a turn, and what it knows is left for others (a guess by then)."""

    claims: list[Claim] = field(default_factory=list)
    ready_left: int = 0
    walkers: int = 0
    works: bool = False  # as `Run.works`
    epoch: int = 1
    edits: int = 0
    rework: JSONObject | None = None
    patches: str | None = None  # the run's, as text
    refused: bool = False  # what was done ahead does not count


def take_turn(
    facts: Facts,
    walker: UUID,
    changes: list[Change],
    *,
    want: Wanted | int,
    afresh: bool = True,
    repeated: bool = False,
) -> Turn:
    """Record `changes`, the outcomes of this walker's claims, and claim what it wants, or so many blocks.

    Idempotent by the fences: a repeat records nothing twice.  Behind the claims' changes may stand
    those of blocks done ahead; then all changes but the last completed plainly.  `afresh`: the walker has
    not looked at the whole run yet.  `repeated`: whether the last try committed is not known, so what it
    may have claimed is taken up again.
    """
    turn = Turn()
    want = Wanted(want) if isinstance(want, int) else want
    with transaction.atomic():
        cursor = raw_cursor()
        gate = lock_row(cursor, facts.execution_id)
        if gate is None:
            return turn
        run = Run(facts, cursor, gate)
        facts, turn.patches = run.facts, gate[11]
        run.places.of_agents = any(change.limited for change in changes)
        turn.epoch, turn.edits, turn.rework = run.epoch, run.edits, run.rework
        afresh = afresh or repeated
        more = afresh or run.ready_from is not None  # that was left before this turn
        if any(change.addressed for change in changes):
            changes = _with_what_was_brought(run, changes)
        newcomer = True
        held = [change for change in changes if change.pk != AHEAD]
        if run.status is E.RUNNING and held and all(is_plain(facts, change) for change in held):
            # A walker all of whose blocks were given to others has lost its place too.
            newcomer = not _settle_plainly(run, turn, changes, walker=walker, want=want)
        elif held:
            newcomer = not _settle(run, held, walker)
            turn.refused = len(held) < len(changes)
        if run.status is E.PENDING and run.places.entered():
            run.begin()
        run.leave()
        if repeated:
            turn.claims += [Claim(*row) for row in _held(run, walker, turn.claims)]
        # Who got something need not look what else there is, unless something was left before.
        turn.ready_left += run.places.granted
        more = more or run.places.granted > 0
        if run.works and (not turn.claims or (more and len(turn.claims) < want.count)):
            rest = replace(want, count=want.count - len(turn.claims))
            _claim(run, turn, walker=walker, want=rest, afresh=afresh, newcomer=newcomer)
        run.note_opened()
        turn.works = run.works
    poke(facts)
    return turn


def _held(run: Run, walker: UUID, claims: list[Claim]) -> Iterable[Sequence[Any]]:
    return run.execute(statements.HELD, walker=walker, taken=[claim.pk for claim in claims])


def _settle_plainly(run: Run, turn: Turn, changes: list[Change], *, walker: UUID, want: Wanted) -> int:
    """How many of the claims' changes were accepted; the others came late."""
    facts = run.facts
    plain = [change for change in changes if is_plain(facts, change)]
    last = None if len(plain) == len(changes) else changes[-1]  # done ahead, with another outcome
    settled = _as_arrays(facts.plan, plain, want=want, last=last)
    claimed = {"want": want.count, "walker": walker, "lease": LIMITS.lease_s}
    rows = run.execute(statements.SETTLE_AND_CLAIM, **settled, **claimed).fetchall()
    accepted: set[int] = set()
    held: set[int] = set()
    decided: list[Decided] = []
    for kind, pk, idx, attempt, effect, effect_seq, crashes, tries_from, todo, dead, failed in rows:
        if kind == "done":
            held.add(pk)
            accepted.add(idx)
        elif kind == "ahead":
            accepted.add(idx)
        elif kind == "claim":
            turn.claims.append(Claim(pk, idx, attempt, effect, effect_seq, crashes, tries_from))
        elif kind == "ready":
            turn.ready_left += 1
            run.opened((idx, 0), noted=True)
        elif kind == "decided":
            decided.append(Decided(pk, idx, todo, dead, failed))
        elif kind == "sinks":
            run.open_sinks = idx
    for change in plain:
        if change.idx in accepted:
            run.known[change.idx] = {"output": change.output, "status": "completed"}
    late = [change for change in plain if change.pk != AHEAD and change.pk not in held]
    if late:
        _keep_late(run, late)
    if decided:
        run.open(sorted(decided, key=lambda block: block.idx))
    turn.refused = len(accepted) < len(plain)
    if last is not None and not _settle_claimed(run, turn, last):
        turn.refused = True
    return len(held)


def _as_arrays(plan: Plan, plain: list[Change], *, want: Wanted, last: Change | None) -> JSONObject:
    """What SETTLE_AND_CLAIM is told of these changes, one by one, and of the edges behind them."""
    edges = [(change.idx, succ) for change in plain for succ in plan[change.idx].succs]
    traits = {succ: _traits(plan[succ], want, last) for succ in {succ for _, succ in edges}}
    idxs = {change.idx for change in plain}
    now = time.monotonic()
    return {
        "ids": int_array(None if c.pk == AHEAD else c.pk for c in plain),
        "idxs": int_array(c.idx for c in plain),
        "attempts": int_array(c.attempt for c in plain),
        "todos": int_array(waited_for(plan[c.idx], idxs) for c in plain),
        "outputs": [as_text(c.output) for c in plain],
        "inputs": [as_text(c.input) for c in plain],
        "agents": [c.agent_id for c in plain],
        "began": [now - c.times[0] if c.times else 0.0 for c in plain],
        "ended": [now - c.times[1] if c.times else 0.0 for c in plain],
        "preds": int_array(pred for pred, _ in edges),
        "succs": int_array(succ for _, succ in edges),
        "traits": int_array(traits[succ] for _, succ in edges),
        "sinks": int_array(c.idx for c in plain if not plan[c.idx].succs),
    }


def _traits(planned: PlanBlock, want: Wanted, last: Change | None) -> int:
    special = SPECIAL * planned.special + PARTIAL * (planned.needed is not None)
    fast = want.count > 1 and (want.all_fast or want.is_fast(planned))
    return special + FAST * fast + MUST * (last is not None and last.idx == planned.idx)


def _settle_claimed(run: Run, turn: Turn, change: Change) -> bool:
    """Settle a block done ahead that did not complete plainly.  False: it was not given to this walker."""
    for claim in turn.claims:
        if claim.idx == change.idx:
            turn.claims.remove(claim)
            return bool(run.settle([replace(change, pk=claim.pk, attempt=claim.attempt)], leaving=B.RUNNING))
    return False


def _settle(run: Run, changes: list[Change], walker: UUID) -> int:
    """The same, for changes of every kind."""
    if run.status is E.CANCELLING and not run.compensates:
        changes = [_while_cancelling(change) for change in changes]
    back = [change for change in changes if change.agents is not None and change.ended is None]
    if back:
        return _hand_back(run, back, walker) + _settle(run, [c for c in changes if c not in back], walker)
    if not changes:
        return 0
    changes = budgets.asked_once(run, changes)
    moved = run.settle(changes, leaving=B.RUNNING)
    if len(moved) < len(changes):
        _keep_late(run, [change for change in changes if change.pk not in moved])
    _leave_own_places(run, [change for change in changes if change.step and change.limited])
    _ask_for_tools(run, [change for change in changes if change.reason == TOOL_AGENT and change.pk in moved])
    return len(moved)


def _leave_own_places(run: Run, waiting: list[Change]) -> None:
    """While a sub-workflow works that an agent called, the called holds its place, and the agent none."""
    for change in waiting:
        run.places.give_back(change.pk, change.attempt or 0, change.agent_id)


def _ask_for_tools(run: Run, waiting: list[Change]) -> None:
    for change in waiting:
        priority = run.facts.plan[change.idx].block.priority
        run.places.ask_for_agents(change.pk, change.agents or (), priority)
    if waiting:
        run.look_again(SEEK_S)


def _with_what_was_brought(run: Run, changes: list[Change]) -> list[Change]:
    """A result that was taken from a callback counts, whatever the call gave that was open meanwhile."""
    brought = callbacks.brought_meanwhile(run, [change for change in changes if change.addressed])
    unheard = [change for change in changes if change.pk in brought and change.ended is AttemptOutcome.OK]
    if unheard:
        _keep_late(run, unheard, because=CALLBACK)
    return [replace(brought.get(change.pk, change), addressed=False) for change in changes]


def _hand_back(run: Run, changes: list[Change], walker: UUID) -> int:
    """Let blocks wait for whose call no agent was free."""
    patience = [change.delay_s or run.facts.plan[change.idx].patience_s for change in changes]
    rows = run.execute(
        statements.HAND_BACK,
        ids=[change.pk for change in changes],
        attempts=[change.attempt for change in changes],
        patience=patience,
        walker=walker,
    )
    moved = {pk for (pk,) in rows}
    for change in changes:
        if change.pk in moved:
            priority = run.facts.plan[change.idx].block.priority
            run.places.ask_for_agents(change.pk, change.agents or (), priority)
    if moved:
        run.look_again(min([SEEK_S, *(each for each in patience if each is not None)]))
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
        usage=change.usage,
        injected=change.injected,
    )


def _keep_late(run: Run, changes: list[Change], *, because: str = "") -> None:
    rows = run.execute(
        statements.LATE,
        ids=[c.pk for c in changes],
        attempts=[c.attempt for c in changes],
        outputs=[as_text(c.output) for c in changes],
        failures=[as_text(c.error) for c in changes],
        endings=[str(c.ended or "") for c in changes],
        output_blobs=[blob_of(c.output) for c in changes],
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
                payload={"attempt": change.attempt, **({"reason": because} if because else {})},
            )


def _claim(run: Run, turn: Turn, *, walker: UUID, want: Wanted, afresh: bool, newcomer: bool) -> None:
    """Claim from where something was left ready; from the beginning if nothing is ready there."""
    claim = partial(_claim_from, run, turn, walker=walker, want=want, newcomer=newcomer)
    if not afresh and run.ready_from is not None and claim(start=run.ready_from, window=WINDOW):
        return
    claim(start=BEGINNING, window=None)


def _claim_from(
    run: Run,
    turn: Turn,
    *,
    start: Position,
    window: int | None,
    walker: UUID,
    want: Wanted,
    newcomer: bool,
) -> bool:
    """Whether anything was ready there."""
    rows = run.execute(
        statements.CLAIM,
        want=want.count,
        from_idx=start[0],
        from_iteration=start[1],
        window=window,
        enough=want.count + min(run.facts.max_parallel, WINDOW),
        all_fast=want.all_fast,
        fast=int_array(_fast_near(run.facts, want, start[0])),
        walker=walker,
        lease=LIMITS.lease_s,
        newcomer=newcomer,
        places=run.facts.max_parallel,
    )
    claims = []
    for *claim, ready, walkers in rows:
        if claim[0]:
            claims.append(Claim(*claim))
        else:
            turn.ready_left = ready
            turn.walkers = walkers
            run.looked(None if claim[1] < 0 else (claim[1], claim[7]))
    found = turn.ready_left > 0
    turn.claims += claims
    turn.ready_left -= len(claims)
    return found


def _fast_near(facts: Facts, want: Wanted, first: int) -> list[int]:
    """The fast blocks among the next; one that is farther away is claimed by itself."""
    if want.all_fast or want.count <= 1:
        return []
    plan = facts.plan
    last = min(first + WINDOW, len(plan.blocks) + len(plan.compensations))
    return [idx for idx in range(first, last) if want.is_fast(plan[idx])]
