"""The clock: takes due timers and does what each is for.

A due timer is first put off by a moment, under SKIP LOCKED, and then worked on in a transaction of
its own that deletes it or sets its next time: two clocks share the work, and a clock that dies leaves
a timer that is due again soon.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, connection

from agentflow.agents import performance
from agentflow.agents.services import warnings
from agentflow.agents.upkeep import Upkeep
from agentflow.api import idempotency
from agentflow.api.context import origin
from agentflow.governance.services import sessions
from executions import blobs, processes
from executions.engine.run import raw_cursor
from executions.faults import service as faults
from executions.incidents import feed, repair_steps
from executions.learning import counting, looking
from executions.models import ProcessKind, TimerKind
from executions.ports import approval_timeout, notifications
from executions.recovery import going_back
from executions.tallies import Tally, tallies
from executions.tallies import purge as purge_tallies

from . import budgeting, losses, measuring, reconcile, seeking, signals

log = structlog.get_logger(__name__)

TICK_S = 0.5
NOTES_S = 0.15  # between two looks for failures: an incident is there soon after the first
TAKEN_AT_ONCE = 100
PUT_OFF_S = 15
STAMP_S = 5.0
UPKEEP_S = 1.0  # between two looks for sources and agents that are due
SEEK_S = 2.0  # between two looks whether agents are fit again for which blocks wait
TIDY_S = 600.0  # between two removals of what has run out: idempotency records, spent tokens

_TAKE = """
WITH due AS (
  SELECT id FROM executions_timer WHERE due_at <= statement_timestamp()
  ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED)
UPDATE executions_timer t SET due_at = statement_timestamp() + %s * interval '1 second'
FROM due WHERE t.id = due.id RETURNING t.kind, t.execution_id, t.subject
"""


def run(stop: threading.Event) -> None:
    """Tick until told to stop.  A database that is away is waited for."""
    with origin(channel="clock"):
        _run(stop)


def _run(stop: threading.Event) -> None:
    processes.plan_statements_once()
    tidy_at = time.monotonic()
    stamp_at = time.monotonic()
    upkeep_at = time.monotonic()
    upkeep = Upkeep()
    seeker = seeking.Seeker()
    seek_at = time.monotonic()
    notifying = notifications()()
    own = processes.register(ProcessKind.CLOCK, name="clock")
    while not stop.is_set():
        try:
            losses.make_good()
            busy = tick()
            busy = feed.count() or busy
            busy = repair_steps.step() or busy
            if time.monotonic() >= stamp_at:
                tallies.add(Tally.LATE_EVENTS, signals.deliver_late())
                tallies.write()
                busy = measuring.measure() or busy
                processes.stamp(own)  # after a tick: a clock that cannot tick does not count as alive
                stamp_at = time.monotonic() + STAMP_S
            if time.monotonic() >= seek_at:
                seeker.look()
                seek_at = time.monotonic() + SEEK_S
            if time.monotonic() >= upkeep_at:
                upkeep.start_due()
                notifying.start_due()
                feed.wake()
                faults.end_due()
                upkeep_at = time.monotonic() + UPKEEP_S
            if time.monotonic() >= tidy_at:
                idempotency.purge()
                sessions.purge_spent()
                processes.forget_vanished()
                signals.purge()
                purge_tallies()
                budgeting.purge()
                performance.purge()
                warnings.purge()
                measuring.cut_receipts()
                counting.purge()
                looking.look_due()
                blobs.tidy()
                notifying.tidy()
                tidy_at = time.monotonic() + TIDY_S
        except (DatabaseError, InterfaceError) as error:
            log.warning("clock_waits_for_database", error=str(error))
            connection.close()
            busy = False
        if not busy:
            _rest(stop)
    with suppress(DatabaseError):
        processes.forget(own.pk)


def _rest(stop: threading.Event) -> None:
    """Wait for the next tick, or for a failure that is to be counted."""
    until = time.monotonic() + TICK_S
    while time.monotonic() < until:
        if stop.wait(NOTES_S):
            return
        try:
            if feed.noted():
                return
        except (DatabaseError, InterfaceError):  # the next tick says so
            return


def tick() -> bool:
    """Do what is due now.  True: there may be more."""
    due = raw_cursor().execute(_TAKE, (TAKEN_AT_ONCE, PUT_OFF_S)).fetchall()
    for kind, execution_id, subject in due:
        _fire(kind, execution_id, subject)
    return len(due) == TAKEN_AT_ONCE


def _fire(kind: str, execution_id: UUID, subject: UUID | None) -> None:
    try:
        if kind in (TimerKind.CHECK, TimerKind.NEWS):
            tallies.add(Tally.CHECKS)
            if reconcile.look(execution_id):
                tallies.add(Tally.REHINTS)
        elif kind == TimerKind.RECOVERY:
            going_back.go_back(execution_id)
        elif kind == TimerKind.APPROVAL_TIMEOUT and subject is not None:
            approval_timeout()(subject=subject, execution_id=execution_id)
    except (DatabaseError, InterfaceError):
        raise
    except Exception:  # one bad timer must not stop the others; it is due again
        log.exception("timer_failed", kind=kind, execution_id=str(execution_id))
