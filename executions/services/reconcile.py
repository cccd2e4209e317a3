"""One look at one run: whatever a lost message, a dead worker or a passed moment left undone.

The clock calls it for every run whose check timer is due; `join`, the body of a fork, calls it too.
Safe at any time, any number of times at once: it holds the run's lock and every move is fenced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from agentflow.conf import LIMITS
from agentflow.workflow.large import LargeUnavailable
from executions import dispatch, stuck
from executions.engine import budget_rows, budgets, children, judging
from executions.engine.facts import Facts, facts_of
from executions.engine.judging import Change, Claim
from executions.engine.rows import loads
from executions.engine.run import UNREAD_S, Run, check_timer, locked
from executions.models import AttemptOutcome, PointKind
from executions.recovery.reading import Reader
from executions.states import TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from . import callbacks, control, seeking, signals

log = structlog.get_logger(__name__)

SOON_S = 2.0
WATCH_S = 10.0  # while calls are in flight
REST_S = 600.0  # while the run only waits: what ends the wait brings the check forward
REHINT_S = 5.0
REHINT_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What a run's rows say just now.  Seconds are counted from now; None: there is no such row."""

    ready: int
    walkers: int
    running: int
    lease_s: float | None
    backoff_s: float | None  # until the next backoff or wait ends
    deadline_s: float | None
    progress: int
    settled: int  # blocks, without the items of a `forEach`
    marked: int  # of these, when the last recovery point was taken
    unmarked_s: float  # since then, or since the run began


def look(execution_id: UUID) -> bool:
    """Mend what can be mended now and set the next moment to look.  True: there was work nobody had taken."""
    facts = facts_of(execution_id)
    if facts is None:
        return False
    with locked(facts) as run:
        news = run.execute(
            "DELETE FROM executions_timer WHERE execution_id = %(execution)s AND kind = 'news' RETURNING key"
        ).fetchall()
        if any(key.endswith(budget_rows.OF_BUDGETS) for (key,) in news):
            budget_rows.wake(run)
            if run.works or run.status is E.PAUSED:
                budgets.asked_in_vain(run)
        if run.status in TERMINAL:
            run.execute("DELETE FROM executions_timer WHERE key = %(timer)s", timer=check_timer(execution_id))
            return False
        _stop_if_due(run, facts)
        if run.works:
            callbacks.take_answers(run)
        _rescue(run)
        if run.status in (E.RUNNING, E.PAUSED) or run.compensates:
            _take_children(run)
        if run.status is E.RUNNING:
            signals.take_events(run)
        if run.works:
            _end_waits(run)
            seeking.seek(run)
        run.advance()
        standing = _standing(run)
        _mark(run, standing)
        return _plan_next_look(run, standing)


def _stop_if_due(run: Run, facts: Facts) -> None:
    """The deadline has passed, or the parent no longer waits for this child."""
    if run.status is E.CANCELLING:
        return
    row = run.execute(
        "SELECT e.deadline_at <= statement_timestamp(), b.id IS NOT NULL AND"
        " (b.status <> 'waiting_external' OR b.attempt <> e.parent_attempt), p.compensation = 'due'"
        " FROM executions_execution e LEFT JOIN executions_blockexecution b ON b.id = e.parent_block_id"
        " LEFT JOIN executions_execution p ON p.id = b.execution_id WHERE e.id = %(execution)s"
    ).fetchone()
    assert row is not None
    if row[1]:
        # A parent that undoes what it did lets this one undo its part first.
        message = "The workflow that started this one has gone on."
        control.stop(run, code=children.PARENT_ENDED, message=message, compensate=bool(row[2]))
    elif row[0]:
        control.stop(run, code="deadline", message="The workflow's time limit has passed.", compensate=True)


def _rescue(run: Run) -> None:
    """Blocks whose worker has not been heard of for a whole lease."""
    rows = run.execute(
        "SELECT id, idx, attempt, effect, effect_seq, crashes + 1, tries_from, iteration, round"
        " FROM executions_blockexecution"
        " WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'running'"
        " AND lease_expires_at < statement_timestamp() ORDER BY id"
    ).fetchall()
    changes = [
        judging.rescued(run.facts.plan[row[1]], Claim(*row), healing=Reader(run.facts)) for row in rows
    ]
    if run.status is E.CANCELLING and not run.compensates:
        changes = [replace(c, status=B.CANCELLED, reason="cancelled", ask="") for c in changes]
    if changes:
        run.settle(changes, leaving=B.RUNNING)


def _take_children(run: Run) -> None:
    """Settle blocks whose sub-workflow has ended."""
    rows = run.execute(
        "SELECT b.reason, b.id, b.idx, b.iteration, b.attempt, c.id, c.status, c.epoch, c.error"
        " FROM executions_blockexecution b"
        " JOIN executions_execution c ON c.parent_block_id = b.id AND c.parent_attempt = b.attempt"
        " WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.status = 'waiting_external'"
        " AND b.reason IN ('child', 'tool_child')"
        " AND c.status IN ('completed', 'failed', 'cancelled') ORDER BY b.id"
    ).fetchall()
    changes = []
    for reason, *row in rows:
        if reason == judging.TOOL_CHILD:  # its agent reads by itself what came of it
            pk, idx, iteration, attempt, *_ = row
            changes.append(Change(pk=pk, idx=idx, iteration=iteration, attempt=attempt, status=B.READY))
            continue
        try:
            changes.append(_child_ended(run, *row))
        except LargeUnavailable as error:  # it waits until its outputs can be read
            log.warning("child_left_waiting", execution_id=str(row[4]), error=str(error))
            run.leave_unread()
    if changes:
        run.settle(changes, leaving=B.WAITING_EXTERNAL)


def _end_waits(run: Run) -> None:
    """Blocks whose moment has come, and those whose event, callback or agent has not."""
    rows = run.execute(
        "SELECT reason, id, idx, attempt, effect, effect_seq, crashes, tries_from, iteration, round"
        " FROM executions_blockexecution WHERE execution_id = %(execution)s AND epoch = %(epoch)s"
        " AND status = 'waiting_external' AND available_at <= statement_timestamp() ORDER BY id"
    ).fetchall()
    impatient: dict[str, list[Claim]] = {judging.AGENT: [], judging.TOOL_AGENT: []}
    changes = []
    for reason, *row in rows:
        if reason in impatient:
            impatient[reason].append(Claim(*row))
        else:
            changes.append(_wait_over(run, reason, Claim(*row)))
    for reason, waited in impatient.items():
        changes += seeking.give_up(run, waited, reason)
    if changes:
        run.settle(changes, leaving=B.WAITING_EXTERNAL)


def _wait_over(run: Run, reason: str, waited: Claim) -> Change:
    if reason == judging.CALLBACK:
        return callbacks.expired(run, waited)
    if reason == "event":
        return signals.expired(waited.pk, waited.idx)
    return run.after_wait(waited.pk, waited.idx)


def _child_ended(
    run: Run,
    pk: int,
    idx: int,
    iteration: int,
    attempt: int,
    child_id: UUID,
    status: str,
    epoch: int,
    error: str | None,
) -> Change:
    planned = run.facts.plan[idx]
    base = Change(
        pk=pk,
        idx=idx,
        iteration=iteration,
        attempt=attempt,
        status=B.FAILED,
        agent_id=planned.block.agent_id or "",
    )
    if status == E.COMPLETED:
        return run.complete(base, children.outputs_of(run.cursor, child_id, epoch))
    failure = children.failure_of(child_id, status, loads(error) or {}).as_json()
    ended = replace(base, reason=f"child_{status}", error=failure, ended=AttemptOutcome.ERROR)
    if planned.compensates is not None:
        return replace(ended, status=B.WAITING_HUMAN, reason="fix", ask="fix")
    return ended


def _mark(run: Run, standing: Standing) -> None:
    """A recovery point after each minute in which something settled."""
    due = standing.unmarked_s >= LIMITS.recovery_point_s
    if run.status is E.RUNNING and due and standing.settled > standing.marked:
        run.mark(PointKind.INTERVAL)


def _plan_next_look(run: Run, standing: Standing) -> bool:
    """True: walkers are called for."""
    timer = run.execute(
        "SELECT tries, progress, moved_at, stuck_at, statement_timestamp() FROM executions_timer"
        " WHERE key = %(timer)s",
        timer=check_timer(run.facts.execution_id),
    ).fetchone()
    still = timer is not None and timer[1] == standing.progress
    tries = timer[0] if timer is not None and still else 0
    stuck_at, stuck_s = None, None
    if timer is not None:
        moved_at = timer[2] if still and timer[2] else timer[4]
        stuck_at, stuck_s = stuck.look(run, moved_at=moved_at, stuck_at=timer[3], now=timer[4])
    wanted = min(standing.ready, run.facts.max_parallel - standing.walkers)
    if run.status is E.PENDING:  # whatever its first blocks need, a walker begins it, once it has its place
        wanted = max(wanted, 1) if run.places.entered() else 0
    moments = [standing.lease_s, standing.backoff_s, standing.deadline_s, stuck_s]
    if run.left_unread:
        moments.append(UNREAD_S)
    calls = (run.status is E.PENDING or run.works) and wanted > 0
    if calls:
        dispatch.on_commit_hint(run.facts.execution_id, wanted)
        # A hint may be waiting its turn in a long queue: the longer nothing moves, the rarer it is repeated.
        moments.append(min(REHINT_S * 2**tries, REHINT_MAX_S))
        tries = min(tries + 1, 10)
    elif standing.running:
        moments.append(WATCH_S)
    seconds = max(SOON_S / 2, min([moment for moment in moments if moment is not None], default=REST_S))
    run.execute(
        "INSERT INTO executions_timer AS t (kind, key, execution_id, due_at, tries, progress, moved_at,"
        " stuck_at)"
        " VALUES ('check', %(timer)s, %(execution)s,"
        " statement_timestamp() + %(seconds)s * interval '1 second', %(tries)s, %(progress)s,"
        " statement_timestamp(), %(stuck_at)s)"
        " ON CONFLICT (key) DO UPDATE SET due_at = excluded.due_at, tries = excluded.tries,"
        " progress = excluded.progress, stuck_at = excluded.stuck_at,"
        " moved_at = CASE WHEN t.progress = excluded.progress THEN coalesce(t.moved_at, excluded.moved_at)"
        " ELSE excluded.moved_at END",
        timer=check_timer(run.facts.execution_id),
        seconds=min(seconds, REST_S),
        tries=tries,
        progress=standing.progress,
        stuck_at=stuck_at,
    )
    return calls


def _standing(run: Run) -> Standing:
    row = run.execute(
        "SELECT count(*) FILTER (WHERE status = 'ready'"
        "         AND (available_at IS NULL OR available_at <= statement_timestamp()))::int,"
        " count(DISTINCT lease_owner) FILTER (WHERE status = 'running')::int,"
        " count(*) FILTER (WHERE status = 'running')::int,"
        " extract(epoch FROM min(lease_expires_at) FILTER (WHERE status = 'running')"
        "         - statement_timestamp())::float8 + 0.1,"
        " extract(epoch FROM min(available_at) FILTER (WHERE status IN ('ready', 'waiting_external')"
        "         AND available_at > statement_timestamp()) - statement_timestamp())::float8,"
        " (SELECT extract(epoch FROM deadline_at - statement_timestamp())::float8 FROM executions_execution"
        "   WHERE id = %(execution)s),"
        " (sum(attempt) + count(*) FILTER (WHERE completed_at IS NOT NULL))::bigint,"
        " count(*) FILTER (WHERE completed_at IS NOT NULL AND iteration = 0)::int,"
        " coalesce((SELECT settled_count FROM executions_recoverypoint p WHERE p.execution_id = %(execution)s"
        "   AND p.epoch = %(epoch)s ORDER BY p.id DESC LIMIT 1), 0),"
        " coalesce((SELECT extract(epoch FROM statement_timestamp() - coalesce((SELECT p.created_at"
        "     FROM executions_recoverypoint p WHERE p.execution_id = e.id ORDER BY p.id DESC LIMIT 1),"
        "     e.started_at))::float8"
        "   FROM executions_execution e WHERE e.id = %(execution)s), 0)"
        " FROM executions_blockexecution WHERE execution_id = %(execution)s AND epoch = %(epoch)s"
    ).fetchone()
    assert row is not None
    return Standing(*row)
