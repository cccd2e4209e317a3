"""Hints: messages that say "there may be work in this run".

A hint carries ids only.  If it is lost, doubled or late the rows decide, and the clock sends it again
(docs/decisions/0004).  So they are published by a thread of their own: no request and no walker waits
for the broker, and while it does not answer, hints are left to the clock.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from uuid import UUID

import structlog
from celery import chord, current_app, group
from django.db import transaction

from executions import messages
from executions.engine.facts import workspace_of
from executions.lanes import QUEUE, Lanes
from executions.tallies import Tally, tallies

__all__ = ["QUEUE", "Sender", "canary", "hint", "look_at", "on_commit_hint", "on_commit_look_at"]

log = structlog.get_logger(__name__)

CONTROL = "control"
WALK, JOIN, DELIVER = (f"executions.tasks.{name}" for name in ("run_branch", "join", "deliver"))
CANARY_EXPIRES_S = 60
_QUIET_S = 2.0  # after a failed publish nothing is tried for this long
_LAST_WORDS_S = 1.0  # what a process that ends gives its last hints


class Sender:
    """Publishes hints in order.  Bounded: of too many the oldest are dropped, and the clock repeats them."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.flush, _LAST_WORDS_S)

    def _forget(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque(maxlen=10_000)
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._silent_until = 0.0

    def add(self, send: Callable[[], object]) -> None:
        self._waiting.append(send)
        self._idle.clear()
        self._wake.set()
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
                    self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was added has been sent or given up."""
        return self._idle.wait(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                self.now(self._waiting.popleft())
            self._idle.set()
            if self._waiting:  # added between the last look and now
                self._idle.clear()
                self._wake.set()

    def now(self, send: Callable[[], object]) -> bool:
        """Publish on the caller's time.  True: the broker has taken it."""
        if time.monotonic() < self._silent_until:
            return False
        try:
            send()
        except Exception as error:  # noqa: BLE001  # whichever family: a hint may fail
            self._silent_until = time.monotonic() + _QUIET_S
            log.warning("hint_not_sent", error=repr(error))
            return False
        return True


sender = Sender()
lanes = Lanes()


def hint(execution_id: UUID, walkers: int = 1, *, workspace_id: UUID | None = None) -> None:
    """Ask for walkers.  Several are a chord whose body looks at the run once all of them are done.

    `workspace_id` is looked up among the runs that this process knows, where it is not given.
    """
    if walkers <= 0:
        return
    queue = lanes.queue(workspace_id or workspace_of(execution_id), walkers)
    args = (str(execution_id), queue)
    if walkers == 1:
        sender.add(partial(messages.send, WALK, queue, *args))
        return
    one = current_app.signature(WALK, args=args, immutable=True, queue=queue)
    counted = tallies.kept
    body = current_app.signature(JOIN, args=(str(execution_id), counted), immutable=True, queue=CONTROL)

    def fork() -> None:
        chord(group(one.clone() for _ in range(walkers)), body).apply_async(retry=False)
        if counted:
            tallies.add(Tally.FORKS)

    sender.add(fork)


def look_at(execution_id: UUID) -> None:
    """Ask for one look at a run: its children, its leases, its end."""
    sender.add(partial(messages.send, JOIN, CONTROL, str(execution_id)))


def on_commit_deliver(received: UUID) -> None:
    """Ask for an event to be brought to the blocks that wait for it."""
    send = partial(messages.send, DELIVER, CONTROL, str(received))
    transaction.on_commit(lambda: sender.add(send), robust=True)


def canary(queue: str) -> bool:
    """A message of a worker to itself.  True: the broker has taken it."""
    return sender.now(
        lambda: current_app.send_task(
            "executions.tasks.canary", queue=queue, retry=False, ignore_result=True, expires=CANARY_EXPIRES_S
        )
    )


def on_commit_hint(execution_id: UUID, walkers: int = 1, *, workspace_id: UUID | None = None) -> None:
    transaction.on_commit(lambda: hint(execution_id, walkers, workspace_id=workspace_id), robust=True)


def on_commit_look_at(execution_id: UUID) -> None:
    transaction.on_commit(lambda: look_at(execution_id), robust=True)
