"""Telling open sockets that there is something to read: fire and forget, never on the caller's time.

What is to be read is named; one message a round carries all names to every process that has sockets.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from ..api import listening

log = logging.getLogger(__name__)

ROUND_S = 0.1  # one subject is told at most ten times a second
SEND_TIMEOUT_S = 2.0
AT_ONCE = 50  # previews sent concurrently, over as many connections at most
SHOWN_MAX = 1000  # previews that wait: more are dropped
QUIET_S = 60.0  # between two complaints about an unreachable channel layer


class Pokes:
    """Merges pokes and sends them from one background thread of the process.

    The thread has an event loop of its own that lives as long as the process: the channel layer
    keeps its connections per loop, and a loop per send would leak them.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        # Bounded: while the channel layer hangs, the oldest are dropped, which costs nothing.
        self._waiting: deque[str] = deque(maxlen=10_000)
        self._shown: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._complained_at = -QUIET_S

    def add(self, name: str) -> None:
        self._waiting.append(name)
        self._begin()

    def show(self, group: str, part: str, message: Mapping[str, Any]) -> None:
        """Let processes that joined the group see what is not stored yet; of one part only what came last."""
        if len(self._shown) < SHOWN_MAX:
            self._shown[group, part] = message
            self._begin()

    def _begin(self) -> None:
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pokes", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        while True:
            self._wake.wait()
            # Cleared before the queue is taken: what is added from here on wakes the next round.
            self._wake.clear()
            started = time.monotonic()
            names: set[str] = set()
            while self._waiting:
                names.add(self._waiting.popleft())
            sends = [listening.tell(names)] if names else []
            while self._shown:
                (group, _), shown = self._shown.popitem()
                sends.append(listening.tell([group], dict(shown), group=group))
            loop.run_until_complete(self._send(sends))
            time.sleep(max(0.0, ROUND_S - (time.monotonic() - started)))

    async def _send(self, sends: list[Coroutine[Any, Any, None]]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def send(one: Coroutine[Any, Any, None]) -> None:
            async with gate:
                await asyncio.wait_for(one, SEND_TIMEOUT_S)

        for result in await asyncio.gather(*map(send, sends), return_exceptions=True):
            if isinstance(result, Exception) and time.monotonic() - self._complained_at >= QUIET_S:
                self._complained_at = time.monotonic()
                log.warning("live pages are late by some seconds: the channel layer fails: %r", result)


pokes = Pokes()
# A forked child has the parent's queue and flag, but not its thread.
os.register_at_fork(after_in_child=pokes._forget)
