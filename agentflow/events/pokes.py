"""Telling open sockets that there is something to read: fire and forget, never on the caller's time."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from channels.layers import get_channel_layer

log = logging.getLogger(__name__)

ROUND_S = 0.1  # one subject is told at most ten times a second
SEND_TIMEOUT_S = 2.0
AT_ONCE = 50  # groups told concurrently, over as many connections at most
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

    def add(self, group: str) -> None:
        self._waiting.append(group)
        self._begin()

    def show(self, group: str, name: str, message: Mapping[str, Any]) -> None:
        """Let sockets of the group see what is not stored yet; of one name only what came last."""
        if len(self._shown) < SHOWN_MAX:
            self._shown[group, name] = message
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
            groups: set[str] = set()
            while self._waiting:
                groups.add(self._waiting.popleft())
            messages: list[tuple[str, dict[str, Any]]] = [(group, {"type": "poke"}) for group in groups]
            while self._shown:
                (group, _), shown = self._shown.popitem()
                messages.append((group, {"type": "shown", "message": dict(shown)}))
            loop.run_until_complete(self._send(messages))
            time.sleep(max(0.0, ROUND_S - (time.monotonic() - started)))

    async def _send(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        layer = get_channel_layer()
        gate = asyncio.Semaphore(AT_ONCE)

        async def send(group: str, message: dict[str, Any]) -> None:
            async with gate:
                await asyncio.wait_for(layer.group_send(group, message), SEND_TIMEOUT_S)

        sent = (send(group, message) for group, message in messages)
        for result in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(result, Exception) and time.monotonic() - self._complained_at >= QUIET_S:
                self._complained_at = time.monotonic()
                log.warning("live pages are late by some seconds: the channel layer fails: %r", result)


pokes = Pokes()
# A forked child has the parent's queue and flag, but not its thread.
os.register_at_fork(after_in_child=pokes._forget)
