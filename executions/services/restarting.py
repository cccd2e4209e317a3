"""Restart: a terminal execution goes on in its next epoch.

Each epoch has a row of its own for every block.  Blocks that run again begin anew; the others are
carried over as they ended, and point to the row in which they did.  Nothing of an earlier epoch is
changed, so a worker that still holds a call of it finds its block settled: its result is late.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import IntegrityError, transaction

from agentflow.errors import Conflict, InvalidInput, NotFound
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from agentflow.workflow.plan import Plan
from agentflow.workflow.restart import RestartPlan, Settled, restart_plan, return_plan
from executions import dispatch, history, selectors
from executions.engine import points
from executions.engine.facts import Facts, as_text, facts_of
from executions.engine.places import ask_for_run
from executions.engine.run import Run, check_timer, locked
from executions.models import BlockExecution, Execution, PointKind
from executions.states import RESTART, TERMINAL
from executions.states import ExecutionStatus as E

from . import carrying
from .starting import asked, key_taken


class NotTerminal(Conflict):
    """The execution has not ended."""

    code = "not_terminal"
    remedy = "Wait for its end, or cancel it first; a single block is mended by retry, skip or complete."


class NothingToRestart(Conflict):
    """No block failed or was cancelled."""

    code = "nothing_to_restart"
    remedy = "Name the block to go back to in `fromBlock`, or send `resetState`."


class PlanStale(Conflict):
    """The execution or the request is no longer what the plan was made for."""

    code = "plan_stale"
    remedy = "Ask for a new restart-plan."


class NoPlace(Conflict):
    """All places of the execution's concurrency key are held or waited for."""

    code = "no_place"
    remedy = "Restart it once others with the key have ended, or start a new execution, which waits."


class EffectsRepeated(Conflict):
    """An effect that must happen once would be repeated."""

    code = "effects_repeated"
    remedy = "Restart it by hand, if the effect may be repeated."


class ChildExecution(Conflict):
    """The execution belongs to a block of another one."""

    code = "child_execution"
    remedy = "Restart the execution that started it, from the block that did."


@dataclass(frozen=True, slots=True)
class RestartRequest:
    """`from_block` None: what did not succeed.  `reset_state` carries nothing over.

    Raises:
        InvalidInput: a recovery point together with one of these.
    """

    from_block: str | None = None
    reset_state: bool = False
    reason: str = ""
    plan_id: str = ""
    point_id: int | None = None  # the recovery point to go back to; excludes the other two
    spares_effects: bool = False  # not where an effect would be repeated that must happen once

    def __post_init__(self) -> None:
        if self.point_id is not None and (self.from_block is not None or self.reset_state):
            raise InvalidInput(
                "A recovery point says already what runs again.",
                pointer="/recoveryPointId",
                remedy="Send either recoveryPointId, or fromBlock or resetState.",
            )


@dataclass(frozen=True, slots=True)
class Before:
    """How an execution ended, as a restart finds it.

    `epoch` is the one whose rows are carried over: the last, or that of a recovery point.
    """

    epoch: int
    last_epoch: int
    status: str
    point: frozenset[int] | None
    settled: Mapping[int, Settled]
    once: Mapping[int, str]  # blocks with a `once` effect: what is known of it, `happened` or `unknown`
    undone: frozenset[int]  # blocks whose compensation completed

    def plan_id(self, request: RestartRequest) -> str:
        said = [
            self.last_epoch,
            self.status,
            sorted((idx, ended.status) for idx, ended in self.settled.items()),
            request.from_block,
            request.reset_state,
            request.point_id,
        ]
        return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()[:32]


def restart(*, execution_id: UUID, by: User | None, request: RestartRequest) -> int:
    """Begin the next epoch; gives its number.

    Raises:
        NotTerminal: it has not ended, or another restart came first.
        ChildExecution: it is the child of another execution.
        NothingToRestart: nothing failed, and neither a block nor a reset was asked for.
        InvalidInput: there is no block `from_block`.
        PlanStale: `plan_id` was given for something else.
        NotFound: it has no such recovery point.
        NoPlace: its concurrency key has no place left.
        EffectsRepeated: the request spares them.
        BusinessKeyTaken: another execution with its business key has become active since.
    """
    facts = _facts(execution_id)
    with locked(facts) as run:
        _check(run.status, facts)
        before = _before(run, request)
        if request.plan_id and request.plan_id != before.plan_id(request):
            raise PlanStale
        found = _decide(facts.plan, before, request)
        if request.spares_effects and not before.once.keys().isdisjoint(found.reruns):
            raise EffectsRepeated
        points.write(run, PointKind.RESTART, by_id=by.pk if by else None)
        _begin(run, found, before.epoch, reset=request.reset_state)
        _take_place(run)
        run.advance()
        audit.record(
            action="execution.restart",
            by=by,
            workspace_id=facts.workspace_id,
            target_type="execution",
            target_id=str(execution_id),
            detail={
                "epoch": run.epoch,
                "reruns": len(found.reruns),
                **({"fromBlock": request.from_block} if request.from_block is not None else {}),
                **({"resetState": True} if request.reset_state else {}),
                **({"recoveryPointId": request.point_id} if request.point_id is not None else {}),
                **({"reason": request.reason} if request.reason else {}),
            },
        )
        dispatch.on_commit_hint(execution_id, min(facts.max_parallel, _ready(run)) or 1)
        return run.epoch


def restart_failed(*, execution_id: UUID, by: User | None, reason: str = "") -> int:
    """The plain form, for lists of executions: what did not succeed, and all behind it."""
    return restart(execution_id=execution_id, by=by, request=RestartRequest(reason=reason))


def preview(*, execution_id: UUID, request: RestartRequest) -> JSONObject:
    """What `restart` would do now; raises what it would raise.  Moves nothing."""
    facts = _facts(execution_id)
    with locked(facts) as run:
        _check(run.status, facts)
        before = _before(run, request)
        found = _decide(facts.plan, before, request)
        taken = _decisions_taken(run, before.epoch, found, reset=request.reset_state)
    plan = facts.plan
    reruns, carried = list(found.reruns), [idx for idx in before.settled if idx not in found.reruns]
    version_id, simulated = facts.version.version_id, facts.simulation is not None
    expected = history.expected_ms(version_id, simulated=simulated)
    decided = _decided_approvals(execution_id, before.epoch)
    return {
        "planId": before.plan_id(request),
        "epoch": before.last_epoch + 1,
        "reruns": [plan[idx].block_id for idx in reruns],
        "carried": [plan[idx].block_id for idx in carried],
        "approvals": {
            "survive": [plan[idx].block_id for idx in sorted({*decided.intersection(carried), *taken})],
            "askedAgain": [
                plan[idx].block_id for idx in reruns if plan[idx].human is not None and idx not in taken
            ],
        },
        "onceEffectsRepeated": [
            {"blockId": plan[idx].block_id, "outcome": before.once[idx]}
            for idx in reruns
            if idx in before.once
        ],
        "estimatedMs": history.estimate_ms(plan, reruns, expected),
        "estimatedCost": history.expected_cost(version_id, reruns, simulated=simulated),
    }


def _facts(execution_id: UUID) -> Facts:
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    return facts


def _check(status: E, facts: Facts) -> None:
    if status not in TERMINAL:
        raise NotTerminal(f"The execution is {status}; only one that has ended can be restarted.")
    if facts.parent_execution_id is not None:
        raise ChildExecution


def _before(run: Run, request: RestartRequest) -> Before:
    point = None if request.point_id is None else selectors.point(run.facts.execution_id, request.point_id)
    epoch = run.epoch if point is None else point.epoch
    undone = carrying.undone_blocks(run.facts)
    return Before(
        epoch=epoch,
        last_epoch=run.epoch,
        status=run.status,
        point=None if point is None else point.idxs,
        settled=carrying.settled_blocks(run.facts, epoch),
        once=_once_effects(run.facts, undone),
        undone=frozenset(idx for at, idx in undone if at == epoch),
    )


def _once_effects(facts: Facts, undone: Collection[tuple[int, int]]) -> dict[int, str]:
    """Blocks that were called with a `once` effect, in any epoch: whether it happened, or may have."""
    rows = BlockExecution.objects.filter(
        execution=facts.execution_id, effect="once", attempt__gt=0, idx__lt=len(facts.plan.blocks)
    )
    once: dict[int, str] = {}
    for epoch, idx, status, unknown in rows.values_list("epoch", "idx", "status", "error__outcomeUnknown"):
        if (epoch, idx) in undone:
            continue
        if status == "completed":
            once[idx] = "happened"
        elif unknown is not False:  # an error that is known to have come before the effect is no repeat
            once.setdefault(idx, "unknown")
    return once


def _decide(plan: Plan, before: Before, request: RestartRequest) -> RestartPlan:
    if before.point is not None:
        found = return_plan(plan, before.settled, before.point - before.undone)
        if not found.reruns:
            raise NothingToRestart("Every block had settled at the recovery point, and none had failed.")
        return found
    from_idx = None if request.from_block is None else block_index(plan, request.from_block)
    found = restart_plan(
        plan,
        before.settled,
        from_idx=from_idx,
        reset=request.reset_state,
        succeeded=before.status == E.COMPLETED,
        undone=before.undone,
    )
    if not found.reruns:
        raise NothingToRestart
    return found


def block_index(plan: Plan, block_id: str) -> int:
    """The position of the block that `fromBlock` names.

    Raises:
        InvalidInput: there is none.
    """
    if block_id in plan.index and plan[plan.index[block_id]].compensates is None:
        return plan.index[block_id]
    raise InvalidInput(
        "The execution has no such block.",
        issues=[
            {
                "pointer": "/fromBlock",
                "code": "unknown_block",
                "message": f"The execution has no block {block_id!r}.",
                "remedy": "Name a blockId of its template's version.",
            }
        ],
    )


# -- the next epoch --------------------------------------------------------------

_NEXT_EPOCH = """
UPDATE executions_execution
SET status = 'running', epoch = epoch + 1, open_sinks = %(sinks)s, failed_blocks = %(failures)s, ends_as = '',
    decisions_of = %(decisions_of)s, compensation = '', error = NULL, completed_at = NULL,
    deadline_at = statement_timestamp() + %(timeout_ms)s * interval '1 millisecond'
WHERE id = %(execution)s AND epoch = %(epoch)s RETURNING epoch
"""

_CHECK_SOON = """
INSERT INTO executions_timer (kind, key, execution_id, due_at, tries, progress)
VALUES ('check', %(timer)s, %(execution)s, statement_timestamp() + interval '5 seconds', 0, 0)
ON CONFLICT (key) DO UPDATE SET due_at = excluded.due_at, tries = 0, progress = 0
"""

_EVENTS = """
INSERT INTO events_event (workspace_id, execution_id, type, level, payload)
VALUES (%(workspace)s, %(execution)s, 'execution_changed', 20, %(payload)s::jsonb);
"""

_BLOCK_EVENTS = """
INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
       '{"status": "blocked", "attempt": 0, "reason": "restart"}'::jsonb
FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(idxs)s::int[])
ORDER BY idx
"""


def _begin(run: Run, found: RestartPlan, carried: int, *, reset: bool) -> None:
    """Write the next epoch's rows and put `run` into it; what is decided is opened by `advance`.

    `carried` is the epoch whose rows are copied.
    """
    RESTART.check(run.status, E.RUNNING)
    run.decisions_of = None if reset else carried
    row = _next_epoch(run, found)
    origin = carrying.Origin(run.facts.execution_id, carried)
    carrying.copy(
        found,
        origin,
        blocks=len(run.facts.plan.blocks),
        execution_id=run.facts.execution_id,
        epoch=row,
        reset=reset,
    )
    run.epoch = row
    run.status = E.RUNNING
    run.ends_as = run.compensation = ""
    run.open_sinks, run.failed_blocks = found.open_sinks, found.failed_blocks
    run.execute(_CHECK_SOON, timer=check_timer(run.facts.execution_id))
    payload: JSONObject = {"status": "running", "epoch": run.epoch, "reason": "restart"}
    run.execute(_EVENTS, payload=as_text(payload))
    run.execute(_BLOCK_EVENTS, idxs=list(found.reruns))


def _take_place(run: Run) -> None:
    facts = run.facts
    key = facts.plan.run_key
    if key is None or not facts.limited:
        return
    ask_for_run(facts.execution_id, facts.workspace_id, asked(key, facts.input, facts.workspace))
    if not run.places.take_at_once():
        raise NoPlace


def _next_epoch(run: Run, found: RestartPlan) -> int:
    try:
        with transaction.atomic():
            row = run.execute(
                _NEXT_EPOCH,
                sinks=found.open_sinks,
                failures=found.failed_blocks,
                timeout_ms=run.facts.plan.timeout_ms,
                decisions_of=run.decisions_of,
            ).fetchone()
    except IntegrityError as error:
        execution = Execution.objects.get(pk=run.facts.execution_id)
        raise key_taken(run.facts.version.template_id, execution.business_key or "") from error
    assert row is not None  # the lock is held since the epoch was read
    return int(row[0])


def _ready(run: Run) -> int:
    row = run.execute(
        "SELECT count(*)::int FROM executions_blockexecution"
        " WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'ready'"
    ).fetchone()
    return int(row[0]) if row else 0


def _decisions_taken(run: Run, epoch: int, found: RestartPlan, *, reset: bool) -> set[int]:
    """Blocks that run again and surely take the decision that was made: nothing before them runs again."""
    if reset:
        return set()
    now, run.epoch, run.decisions_of = run.epoch, epoch, epoch  # as the restart will find it
    taken = {idx for idx in found.reruns if run.opener.would_take(idx, found.reruns)}
    run.epoch, run.decisions_of = now, None
    return taken


def _decided_approvals(execution_id: UUID, epoch: int) -> set[int]:
    """Blocks whose questions were answered by a person, in the rows that this epoch shows."""
    execution = Execution.objects.only("epoch", "forked_from").get(pk=execution_id)
    execution.epoch = epoch
    shown = selectors.positions(execution)
    return {
        shown[asked.block_pk]
        for asked in selectors.questions(execution)
        if asked.approved is not None and asked.block_pk in shown
    }
