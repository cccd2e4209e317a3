"""Whether an execution stands still for longer than what it waits for should take.

Each open wait has a moment up to which it is as it should be: a date, a limit, a person's time to answer, or
twice what nearly all such calls took.  A wait of which nobody can say how long it takes has none.  A run is
stuck once one of these moments has passed and nothing has moved since for a while: one slow call beside
others that go on is none.  The clock finds that out at its looks at a run, writes it down with the run's
timer, tells it once, and takes it back when something moves.  Nothing is done about it: hints are repeated
anyway.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject

from . import history
from .engine.judging import CALLBACK
from .ports import human_history
from .states import BlockStatus as B
from .states import ExecutionStatus as E

if TYPE_CHECKING:
    from .engine.run import Run

QUIET = timedelta(seconds=60)  # so long nothing has moved, at least
UNTAKEN = timedelta(seconds=300)  # a block is ready and no worker takes it; or nothing is open at all
SLOWEST = 2.0  # times what 99 of 100 calls took
NAMED = 5  # blocks in an event
ASKED = 20  # questions that are looked at
SOON_S, LATE_S = 30.0, 600.0  # a stuck run is looked at again: the longer it stands, the later


@dataclass(frozen=True, slots=True)
class Wait:
    """Blocks of one position that wait for the same: `since` and `until` of the one that waits longest."""

    block_id: str
    status: str
    reason: str
    since: datetime | None
    until: datetime | None  # when it ends by itself, or a person should have answered
    usual_s: float | None = None  # 99 of 100 such calls were done after so long
    limit_s: float | None = None


def overdue_at(wait: Wait, moved_at: datetime) -> datetime | None:
    """Up to when it is as it should be; None: nobody can say."""
    if wait.status == B.READY:
        return max(moved_at, wait.until or moved_at) + UNTAKEN
    if wait.status == B.WAITING_HUMAN:
        return wait.until
    calls = wait.status == B.RUNNING or wait.reason == CALLBACK
    if not calls:
        return None if wait.until is None else wait.until + QUIET
    since = wait.since or moved_at
    ends = [] if wait.until is None else [wait.until]
    if wait.usual_s is not None:
        ends.append(since + max(timedelta(seconds=SLOWEST * wait.usual_s), QUIET))
    if wait.limit_s is not None:
        ends.append(since + timedelta(seconds=wait.limit_s) + QUIET)
    return min(ends, default=None)


@dataclass(frozen=True, slots=True)
class Verdict:
    stuck: bool
    at: datetime | None = None  # it is, or would be, from then on
    overdue: tuple[Wait, ...] = ()  # the longest first


def verdict(waits: Iterable[Wait], moved_at: datetime, now: datetime) -> Verdict:
    """Of a run that is at work.  With nothing open it stands still for no reason at all."""
    known = list(waits)
    if not known:
        at = moved_at + UNTAKEN
        return Verdict(now >= at, at)
    moments = [(moment, wait) for wait in known if (moment := overdue_at(wait, moved_at)) is not None]
    if not moments:
        return Verdict(False)
    moments.sort(key=lambda each: each[0])
    at = max(moments[0][0], moved_at + QUIET)
    return Verdict(now >= at, at, tuple(wait for moment, wait in moments if moment <= now))


# -- from the rows ---------------------------------------------------------------

# A carried or a settled block waits for nothing; an item's `forEach` waits for its items.
_WAITS = """
SELECT b.idx, min(b.block_id), b.status, b.reason, min(b.started_at),
  CASE WHEN bool_or(b.available_at IS NULL) AND b.status = 'ready' THEN NULL ELSE min(b.available_at) END,
  (array_agg(b.id ORDER BY b.id))[1:%(asked)s]
FROM executions_blockexecution b
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s
  AND b.status IN ('ready', 'running', 'waiting_human', 'waiting_external')
  AND NOT (b.status = 'waiting_external' AND b.reason = 'items')
GROUP BY b.idx, b.status, b.reason
"""

_known: dict[tuple[int, bool], tuple[float, dict[int, float]]] = {}
KNOWN_S, KNOWN_MAX = 300.0, 500


def waits_of(run: Run) -> list[Wait]:
    rows = run.execute(_WAITS, asked=ASKED).fetchall()
    people = [pk for row in rows if row[2] == B.WAITING_HUMAN for pk in row[6]]
    answers = _respond_by(run, people) if people else {}
    called = any(row[2] == B.RUNNING or row[3] == CALLBACK for row in rows)
    usual = _usual(run) if called else {}
    return [_wait(run, row, answers, usual) for row in rows]


def _wait(run: Run, row: Sequence[Any], answers: dict[int, datetime], usual: dict[int, float]) -> Wait:
    idx, block_id, status, reason, since, until, pks = row
    if status == B.WAITING_HUMAN:
        until = min((answers[pk] for pk in pks if pk in answers), default=None)
    seconds = usual.get(idx)
    return Wait(block_id, status, reason, since, until, seconds, run.facts.plan[idx].timeout_s)


def _respond_by(run: Run, pks: list[int]) -> dict[int, datetime]:
    asked = human_history()(execution_id=run.facts.execution_id, block_pks=pks)
    return {
        each.block_pk: each.respond_by
        for each in asked
        if each.responded_at is None and each.respond_by is not None
    }


def _usual(run: Run) -> dict[int, float]:
    """By position, within how many seconds 99 of 100 calls were done; looked up now and then."""
    key = (run.facts.version.version_id, run.facts.simulation is not None)
    found = _known.get(key)
    if found is None or found[0] < time.monotonic():
        if len(_known) >= KNOWN_MAX:
            _known.clear()
        seconds = {idx: ms / 1000 for idx, ms in history.slowest_ms(key[0], simulated=key[1]).items()}
        found = _known[key] = (time.monotonic() + KNOWN_S, seconds)
    return found[1]


# -- by the clock ----------------------------------------------------------------


def look(
    run: Run, *, moved_at: datetime, stuck_at: datetime | None, now: datetime
) -> tuple[datetime | None, float | None]:
    """Since when the run is stuck (None: it is not), and the seconds until it is worth looking again."""
    if run.status is not E.RUNNING or now - moved_at < QUIET:
        found = Verdict(False)
    else:
        found = verdict(waits_of(run), moved_at, now)
    if found.stuck:
        if stuck_at is None:
            blocks = list(dict.fromkeys(wait.block_id for wait in found.overdue))
            said: JSONObject = {"blocks": blocks[:NAMED], "blocksTotal": len(blocks)}
            _tell(run, "execution_stuck", Level.WARNING, said)
            return now, SOON_S
        return stuck_at, min(max((now - stuck_at).total_seconds() / 4, SOON_S), LATE_S)
    if stuck_at is not None:
        _tell(run, "execution_moves", Level.INFO, {})
    return None, None if found.at is None else max((found.at - now).total_seconds(), 1.0)


def _tell(run: Run, type: str, level: Level, payload: JSONObject) -> None:
    store.append(
        type=type,
        workspace_id=run.facts.workspace_id,
        execution_id=run.facts.execution_id,
        level=level,
        payload=payload,
    )
