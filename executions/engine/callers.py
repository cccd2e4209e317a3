"""Calls that wait for somebody outside do so in threads of their own, so that a worker's few go on working.

A walker whose next call is such a one is handed on to one of `CALLERS` threads, and the thread it came in
begins another walk.  Who was handed on works from one of `SEATS` seats, each with a database connection, and
leaves it while the call waits (`integrations.waiting`): connections are as many as work, not as wait.
With all callers taken a walker calls where it is: that holds back who sends more.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from django.db import DEFAULT_DB_ALIAS, connection, connections

from agentflow.integrations import waiting

log = structlog.get_logger(__name__)

CALLERS = 200
SEATS = 4
WORTH_MS = 20.0  # a call that waits as long is worth another thread
SITS_S = 0.1  # then who works on lets others sit down in between
RESTED_S = 1.0  # a connection that was not used for so long may be broken


class Seats:
    """So many connections, handed from thread to thread in order.  Who comes back goes before who is new."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free: list[Any] = [None] * count  # the connections; None: not opened yet
        self._returning: deque[queue.SimpleQueue[Any]] = deque()
        self._new: deque[queue.SimpleQueue[Any]] = deque()

    @property
    def wanted(self) -> bool:
        return bool(self._returning or self._new)

    def take(self, *, returning: bool) -> None:
        with self._lock:
            if self._free:
                held = self._free.pop()
                mine = None
            else:
                mine = queue.SimpleQueue[Any]()
                (self._returning if returning else self._new).append(mine)
        if mine is not None:
            held = mine.get()
        for own in connections.all(initialized_only=True):  # opened in between, without a seat
            own.close()
        if held is not None:
            given, at = held
            if time.monotonic() - at > RESTED_S:
                given.close_if_unusable_or_obsolete()  # looked at again before its next use
            connections[DEFAULT_DB_ALIAS] = given

    def give(self) -> None:
        held = connections[DEFAULT_DB_ALIAS]
        if not held.allow_thread_sharing:
            held.inc_thread_sharing()
        if held.errors_occurred:
            held.close_if_unusable_or_obsolete()
        del connections[DEFAULT_DB_ALIAS]
        with self._lock:
            waits = self._returning or self._new
            if waits:
                waits.popleft().put((held, time.monotonic()))
            else:
                self._free.append((held, time.monotonic()))

    def close(self) -> None:
        for held in self._free:
            if held is not None:
                held[0].close()


class _Seat(waiting.Place):
    """One thread's: it has it, or has left it."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._taken = self._kept = False
        self._since = 0.0

    def take(self, *, returning: bool = False) -> None:
        self._seats.take(returning=returning)
        self._taken, self._since = True, time.monotonic()

    def give(self) -> None:
        if self._taken:
            self._taken = False
            self._seats.give()

    def let_others(self) -> None:
        if self._seats.wanted and time.monotonic() - self._since > SITS_S:
            self.give()
            self.take(returning=True)

    def leave(self) -> None:
        self._kept = connection.in_atomic_block  # a transaction stays where it is
        if not self._kept:
            self.give()

    def come_back(self) -> None:
        if not self._kept:
            self.take(returning=True)


class Callers:
    """Closed until a worker opens them: elsewhere nothing is handed on."""

    def __init__(self) -> None:
        self.open = False
        self._here = threading.local()

    def begin(self, *, threads: int = CALLERS, seats: int = SEATS) -> None:
        # At the end of the process Python waits for these threads, as for calls of the worker's own.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="caller")
        self._idle = threading.Semaphore(threads)
        self._seats = Seats(seats)
        self.open = True

    def hand_on(self, work: Callable[[], Any]) -> bool:
        """Do the work in another thread, where it is to `sit_down` first.  False: none is idle."""
        if not self._idle.acquire(blocking=False):
            return False
        try:
            self._threads.submit(self._handed_on, work)
        except RuntimeError:  # the process ends
            self._idle.release()
            return False
        return True

    def sit_down(self) -> None:
        """Wait for a seat; what needs the database comes after."""
        self._here.seat.take()

    def let_others(self) -> None:
        """Between two pieces of work: who has long waited for a seat goes first."""
        self._here.seat.let_others()

    def end(self) -> None:
        """Wait for all that was handed on; nothing is from now on."""
        if self.open:
            self.open = False
            self._threads.shutdown(wait=True)
            self._seats.close()

    def _handed_on(self, work: Callable[[], Any]) -> None:
        seat = self._here.seat = _Seat(self._seats)
        waiting.hold(seat)
        try:
            work()
        except Exception:
            log.exception("walk_failed")
        finally:
            waiting.hold(None)
            seat.give()
            self._idle.release()


callers = Callers()
