"""The two threads that watch over a worker process's calls.

*heartbeat* extends the leases of calls in flight with one statement, on a connection of its own, and
stops calls whose lease was lost or whose run is being cancelled.  *lookout* calls others to help when
a call of unknown length takes longer than a moment, and gives up on calls that ignore their deadline.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, connection

from agentflow.agents.calls import CancelToken
from agentflow.conf import LIMITS
from executions import dispatch

from . import statements
from .callers import CALLERS
from .judging import Claim
from .run import raw_cursor

log = structlog.get_logger(__name__)

MOMENT_S = 0.010  # a call of unknown length that takes longer has its waiting siblings given to others
STUTTER_S = 0.050  # the same for a call known to be fast: a busy machine makes any call take 10 ms at times
LOOKOUT_S = 0.005
CANCEL_CHECK_S = 1.0
HELPERS = 16  # called at once; each that comes may call more
FORK_PAUSE_S = 0.050  # hints of one run that are under way are not repeated within this time,
FORK_PAUSE_MAX_S = 1.0  # which doubles while more and more are wanted
GRACE_S = 5.0  # how long after its deadline a call may still come back by itself
LOST_S = 20.0  # without a heartbeat for so long a process must assume its leases lost
DRAIN_S = 30.0
STUCK_CALLS = 8  # abandoned calls that never came back: the process leaves to be replaced
STUCK_HANDED_ON = CALLERS // 2


@dataclass(slots=True)
class Flight:
    """One claim in the hands of this process, from the claim to the settle."""

    claim: Claim
    execution_id: UUID
    timeout_s: float
    since: float = field(default_factory=time.monotonic)
    token: CancelToken = field(default_factory=CancelToken)
    started: float = 0.0  # monotonic; 0 while it waits its turn in a batch
    abandoned: bool = False
    handed_on: bool = False  # in a thread for calls that wait, not one of the worker's few
    agent_id: str | None = None  # who is called
    limited: bool = False  # the attempt holds a place of it
    abandon: Callable[[], None] = lambda: None
    address_given: bool = False  # the other side was told where to bring the result later
    needs_row: bool = False  # it was done ahead of its claim, and cannot be: nothing was sent
    may_fork: int = 0  # how many others could be called to help, once the call proves slow,
    moment_s: float = MOMENT_S  # which it does after so long


class Watch:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[int, int], Flight] = {}
        self._forked: dict[UUID, tuple[float, float]] = {}  # when last, and how long until the next
        self._awake = threading.Event()  # something is in flight
        self._eager = threading.Event()  # something is in flight that may want help within a moment
        self._started_in: int | None = None  # pid: a forked process starts threads of its own
        self._last_beat = time.monotonic()
        self.leaving = False

    # -- used by walkers ------------------------------------------------------

    @contextmanager
    def holding(self, flights: list[Flight]) -> Iterator[None]:
        """Watch over claims until they are settled."""
        self._start()
        with self._lock:
            for flight in flights:
                self._flights[flight.claim.pk, flight.claim.attempt] = flight
        self._awake.set()
        if any(flight.may_fork for flight in flights):
            self._eager.set()
        try:
            yield
        finally:
            with self._lock:
                for flight in flights:
                    self._flights.pop((flight.claim.pk, flight.claim.attempt), None)
                if not self._flights:
                    self._awake.clear()

    def fork(self, execution_id: UUID, helpers: int) -> bool:
        """Call up to `helpers` others to a run.  False: that was just done, and may be asked again."""
        now = time.monotonic()
        with self._lock:
            last, pause = self._forked.get(execution_id, (0.0, 0.0))
            if now - last < pause:
                return False
            if len(self._forked) > 1000:
                self._forked = {k: v for k, v in self._forked.items() if now - v[0] < FORK_PAUSE_MAX_S}
            wanted_more = now - last < 2 * FORK_PAUSE_MAX_S
            pause = min(2 * pause, FORK_PAUSE_MAX_S) if wanted_more else FORK_PAUSE_S
            self._forked[execution_id] = (now, pause)
        dispatch.hint(execution_id, min(helpers, HELPERS))
        return True

    def leave(self) -> None:
        """The process is to end: its walkers finish what they hold and take nothing more."""
        self.leaving = True

    def holds_calls(self) -> bool:
        """Whether calls are in hand that may still come back."""
        return any(not flight.abandoned for flight in self._in_flight())

    # -- threads --------------------------------------------------------------

    def _start(self) -> None:
        if self._started_in == os.getpid():
            return
        with self._lock:
            if self._started_in == os.getpid():
                return
            self._started_in = os.getpid()
            self._last_beat = time.monotonic()
        for name, work in (("heartbeat", self._heartbeats), ("lookout", self._lookout)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def _in_flight(self) -> list[Flight]:
        with self._lock:
            return list(self._flights.values())

    def _lookout(self) -> None:
        while True:
            self._awake.wait()
            self._eager.clear()
            if self._look_out():
                time.sleep(LOOKOUT_S)
            else:
                self._eager.wait(CANCEL_CHECK_S / 4)

    def _look_out(self) -> bool:
        """True: some call may want help within a moment."""
        now = time.monotonic()
        for flight in self._in_flight():
            if not flight.started or flight.abandoned:
                continue
            age = now - flight.started
            slow = flight.may_fork and age > flight.moment_s
            if slow and self.fork(flight.execution_id, flight.may_fork):
                flight.may_fork = 0
            if age > flight.timeout_s + GRACE_S:
                self._give_up(flight)
            elif age > flight.timeout_s + 1 and not flight.token.cancelled:
                flight.token.cancel("timeout")
        return any(flight.may_fork for flight in self._in_flight())

    def _give_up(self, flight: Flight) -> None:
        """Record the call as timed out although it still runs; what it brings later is late."""
        flight.abandoned = True
        log.error("call_abandoned", execution_id=str(flight.execution_id), block=flight.claim.idx)
        try:
            flight.abandon()
        except Exception:  # its lease will run out instead
            log.exception("abandon_failed", execution_id=str(flight.execution_id))
        finally:
            connection.close()
        stuck = [f.handed_on for f in self._in_flight() if f.abandoned]
        too_many = stuck.count(False) >= STUCK_CALLS or len(stuck) >= STUCK_HANDED_ON
        if too_many and not self.leaving:
            self._be_replaced()

    def _be_replaced(self) -> None:
        """Too many threads hang in calls that cannot be stopped: finish the others and be replaced."""
        self.leave()
        log.error("worker_leaves", reason="calls past their deadline never came back")
        os.kill(os.getpid(), signal.SIGTERM)

        def end() -> None:
            until = time.monotonic() + DRAIN_S
            while time.monotonic() < until and self.holds_calls():
                time.sleep(0.5)
            os._exit(70)

        threading.Thread(target=end, name="leave", daemon=True).start()

    def _heartbeats(self) -> None:
        beat = time.monotonic()
        while True:
            self._awake.wait()
            time.sleep(CANCEL_CHECK_S)
            now = time.monotonic()
            flights = [f for f in self._in_flight() if not f.abandoned]
            calls = [f for f in flights if f.started and now - f.started > CANCEL_CHECK_S / 2]
            if not any(now - f.since > CANCEL_CHECK_S / 2 for f in flights):
                connection.close()  # an idle process keeps no connection for this thread
                self._last_beat = now
                continue
            try:
                self._stop_cancelled(calls)
                if now - beat >= LIMITS.heartbeat_s:
                    self._extend(flights)
                    beat = now
                self._last_beat = now
            except (DatabaseError, InterfaceError) as error:
                log.warning("heartbeat_failed", error=str(error))
                connection.close()
                if now - self._last_beat > LOST_S:
                    for flight in flights:
                        flight.token.cancel("lease_lost")

    def _extend(self, flights: list[Flight]) -> None:
        if not flights:
            return
        kept = raw_cursor().execute(
            statements.HEARTBEAT,
            {
                "ids": [f.claim.pk for f in flights],
                "attempts": [f.claim.attempt for f in flights],
                "lease": LIMITS.lease_s,
            },
        )
        held = {row[0] for row in kept}
        for flight in flights:
            if flight.claim.pk not in held:
                flight.token.cancel("lease_lost")

    def _stop_cancelled(self, flights: list[Flight]) -> None:
        """Stop calls whose run is ending, or whose block was taken from them."""
        if not flights:
            return
        rows = raw_cursor().execute(
            "SELECT b.id FROM executions_blockexecution b"
            " JOIN executions_execution e ON e.id = b.execution_id"
            " JOIN unnest(%s::bigint[], %s::int[]) AS x(id, attempt) ON x.id = b.id AND x.attempt = b.attempt"
            " WHERE b.status = 'running' AND (e.status IN ('pending', 'running', 'paused')"
            "  OR e.status = 'cancelling' AND e.compensation = 'running')",
            ([f.claim.pk for f in flights], [f.claim.attempt for f in flights]),
        )
        wanted = {row[0] for row in rows}
        for flight in flights:
            if flight.claim.pk not in wanted:
                flight.token.cancel("cancelled")


watch = Watch()
