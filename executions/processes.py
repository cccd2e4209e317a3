"""The processes that do the work, as rows: who is alive, and whether a worker still hears its queues.

A Celery worker can outlive its consumer: connected, heartbeating, and deaf.  So every worker process
consumes a queue of its own beside the shared ones, through the same consumer, and sends itself a
canary there.  Hearing anything proves the consumer; a process that hears nothing while the broker
takes its canaries ends itself, for its supervisor to start it again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from celery import current_app
from django.db import DatabaseError, InterfaceError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models.functions import Now
from kombu import Exchange, Queue

from executions import dispatch
from executions.models import Process, ProcessKind
from executions.tallies import tallies

log = structlog.get_logger(__name__)

BEAT_S = 10.0
DEAF_S = 30.0
GONE_S = 60.0  # without a beat for so long a process counts as dead
FORGET_S = 600.0  # then its row is removed; until then an operator sees that it vanished
DRAIN_S = 30.0
EXIT_DEAF = 70  # EX_SOFTWARE


@dataclass(frozen=True, slots=True)
class Signs:
    """What a worker process knows of its own hearing.

    `asked_s`: since the first canary was taken by the broker after the last message was heard; None
    while none is in the air.  `busy`: every thread works, so the consumer rightly takes nothing.
    """

    asked_s: float | None
    busy: bool = False
    leaving: bool = False


def plan_statements_once() -> None:
    """Let this process's connections plan a prepared statement once and for all.

    The engine's statements are the same for any value, and planning costs as much as running them.
    """
    connection_created.connect(_plan_once, dispatch_uid="plan_statements_once")


def look_up_by_key() -> None:
    """Let this process's connections look rows up one by one, however small a table is as yet.

    To read a small table as a whole is cheaper, and so the planner does; but the plan is kept while the
    table grows, and wide runs would pay for it.  So what counts for a plan here is the rows that it touches.
    """
    connection_created.connect(_use_indexes, dispatch_uid="look_up_by_key")


def _plan_once(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")


def _use_indexes(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off; SET random_page_cost = 0.2; SET cpu_tuple_cost = 0.5")


def deaf(signs: Signs) -> bool:
    """Whether the process must be replaced: the broker took its canary, and it never arrived."""
    return not signs.leaving and not signs.busy and signs.asked_s is not None and signs.asked_s > DEAF_S


class Canary:
    """Keeps count of canaries sent and messages heard.  `heard` is called by the consumer's thread."""

    def __init__(self, send: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._asked_at: float | None = None
        self._beat_at = clock()
        self._heard = False
        self.heard_since_beat = False

    def heard(self) -> None:
        self._heard = True

    def beat(self, *, busy: bool, leaving: bool) -> Signs:
        """Send a canary, and tell what is known.  Time in which nothing could arrive does not count."""
        now = self._clock()
        asleep = now - self._beat_at > 3 * BEAT_S  # the process was stopped, or the machine slept
        self._beat_at = now
        if self._heard or busy or asleep:
            self._asked_at = None
        self.heard_since_beat, self._heard = self._heard, False
        if leaving or busy:
            return Signs(None, busy=busy, leaving=leaving)
        if not self._send():
            self._asked_at = None  # the broker is away: its absence is no deafness
        elif self._asked_at is None:
            self._asked_at = now
        return Signs(None if self._asked_at is None else now - self._asked_at)


# -- rows ----------------------------------------------------------------------


def register(
    kind: ProcessKind, *, name: str, queues: Iterable[str] = (), threads: int = 1, id: uuid.UUID | None = None
) -> Process:
    """A row for this process.  It is unsaved: the first `stamp` writes it."""
    return Process(
        id=id or uuid.uuid4(),
        kind=kind,
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=sorted(queues),
        threads=threads,
    )


def stamp(process: Process, *, heard: bool = False) -> None:
    """This process is alive now.  A row that was removed meanwhile is written again."""
    facts = {field: getattr(process, field) for field in ("kind", "name", "host", "pid", "queues", "threads")}
    seen = {"seen_at": Now(), **({"heard_at": Now()} if heard else {})}
    if not Process.objects.filter(pk=process.pk).update(**seen):
        Process.objects.update_or_create(pk=process.pk, defaults={**facts, **seen})


def forget(process_id: uuid.UUID) -> None:
    """Remove a process that ended in order, or is long gone, with the canaries that nobody will hear."""
    Process.objects.filter(pk=process_id).delete()
    _delete_queue(process_id)


def forget_vanished() -> int:
    """Remove processes that have not been seen for long.  Any number of clocks may do it at once."""
    vanished = Process.objects.filter(seen_at__lt=Now() - timedelta(seconds=FORGET_S))
    ids = list(vanished.values_list("pk", flat=True))
    for process_id in ids:
        forget(process_id)
    return len(ids)


def canary_queue(process_id: uuid.UUID) -> Queue:
    name = f"canary.{process_id}"
    return Queue(name, Exchange("canary", "direct"), routing_key=name)


def _delete_queue(process_id: uuid.UUID) -> None:
    try:
        with current_app.connection_for_write() as broker:
            canary_queue(process_id)(broker.default_channel).delete()
    except Exception as error:  # noqa: BLE001  # whichever family: a few bytes stay behind
        log.info("canary_queue_not_deleted", error=repr(error))


# -- a worker process ----------------------------------------------------------


class WorkerPulse:
    """Stamps this worker's row, and ends the process when it has gone deaf."""

    def __init__(self, *, queues: Iterable[str], name: str, threads: int) -> None:
        self.id = uuid.uuid4()
        self._threads = threads
        self._stop = threading.Event()
        self._process = register(ProcessKind.WORKER, name=name, queues=queues, threads=threads, id=self.id)
        self.canary = Canary(lambda: dispatch.canary(canary_queue(self.id).name))

    def start(self) -> None:
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def stop(self) -> None:
        """The worker shuts down and will consume nothing more: there is nothing left to judge."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._beat()
            self._stop.wait(BEAT_S)
        try:
            forget(self.id)
        except (DatabaseError, InterfaceError) as error:
            log.info("process_row_stays", error=str(error))
        finally:
            connection.close()

    def _beat(self) -> None:
        from executions.engine.watch import watch

        signs = self.canary.beat(busy=self._busy(), leaving=watch.leaving or self._stop.is_set())
        try:
            stamp(self._process, heard=self.canary.heard_since_beat)
            tallies.write()
        except (DatabaseError, InterfaceError) as error:
            log.warning("pulse_not_stamped", error=str(error))
        finally:
            connection.close()  # a connection kept for one statement in ten seconds is not worth its place
        if deaf(signs):
            self._be_replaced()

    def _busy(self) -> bool:
        from celery.worker import state

        return len(state.reserved_requests) >= self._threads

    def _be_replaced(self) -> None:
        """End with a code that says so, once what is in hand is settled; the rest is others' to take."""
        from executions.engine.watch import watch

        log.error("worker_deaf", seconds=DEAF_S, reason="the broker answers, but nothing is consumed")
        watch.leave()
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until and watch.holds_calls():
            time.sleep(0.2)
        os._exit(EXIT_DEAF)


@dataclass(frozen=True, slots=True)
class Seen:
    """A process, with the seconds since its last beat, since it heard its queues (None: never), and up."""

    kind: str
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    seen_s: float
    heard_s: float | None
    up_s: float

    @property
    def alive(self) -> bool:
        return self.seen_s <= GONE_S


def listed() -> list[Seen]:
    """Every process that has a row, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT kind, name, host, pid, queues,"
            " extract(epoch FROM statement_timestamp() - seen_at)::float8,"
            " extract(epoch FROM statement_timestamp() - heard_at)::float8,"
            " extract(epoch FROM statement_timestamp() - started_at)::float8"
            " FROM executions_process ORDER BY kind, name, started_at"
        )
        return [
            Seen(kind, name, host, pid, tuple(json.loads(queues)), seen_s, heard_s, up_s)
            for kind, name, host, pid, queues, seen_s, heard_s, up_s in cursor.fetchall()
        ]
