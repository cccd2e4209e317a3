"""What the channel layer tells this process, passed on to its sockets: one channel for all of them.

A socket with a channel of its own costs Valkey a key, a group a member, and the process a wake-up for
each message.  Here one channel belongs to every process, and who wants to hear of something says so in
the process: `listener().listen(name, hear)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer

from ..types import JSONObject

log = logging.getLogger(__name__)

EVERYBODY = "sockets"  # the group of every process that has sockets
AGAIN_S = 10.0  # the layer forgets groups when it is wiped, and by itself (CHANNEL_LAYERS: group_expiry)
PAUSE_S = 1.0  # before an unreachable layer is tried again
QUIET_S = 60.0  # between two complaints about it

Hear: TypeAlias = Callable[[JSONObject | None], None]


async def tell(names: Iterable[str], message: JSONObject | None = None, *, group: str = EVERYBODY) -> None:
    """Tell all processes, or those that have joined `group`, about each of `names`.  May get lost."""
    await get_channel_layer().group_send(group, {"type": "told", "names": list(names), "message": message})


class Listener:
    """Hears for the sockets of one event loop.

    What was told before the layer knew of this process is gone, so everybody is told of nothing in
    particular (None) once it does; and again after it could not be reached.
    """

    def __init__(self) -> None:
        self._hearers: dict[str, set[Hear]] = defaultdict(set)
        self._groups: dict[str, int] = defaultdict(int)  # beside EVERYBODY: by how many they are wanted
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._complained_at = -QUIET_S

    def listen(self, name: str, hear: Hear, *, group: str = "") -> None:
        """Call `hear` with what is told about `name`; of a `group` only who has joined it is told."""
        self._hearers[name].add(hear)
        if group:
            self._groups[group] += 1
            self._changed.set()
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())

    def forget(self, name: str, hear: Hear, *, group: str = "") -> None:
        self._hearers[name].discard(hear)
        if not self._hearers[name]:
            del self._hearers[name]
        if group:
            self._groups[group] -= 1
            if not self._groups[group]:
                del self._groups[group]
        self._changed.set()

    # -- the channel ------------------------------------------------------------------

    async def _keep(self) -> None:
        """Hold the channel and its groups while there is anybody who listens."""
        layer = get_channel_layer()
        while self._hearers:
            channel, joined = await layer.new_channel("sockets"), set[str]()
            hearing = asyncio.create_task(self._hear(layer, channel))
            try:
                await self._stay_joined(layer, channel, joined, hearing)
            except Exception as error:  # noqa: BLE001  # sockets look by themselves meanwhile
                self._complain(error)
                await asyncio.sleep(PAUSE_S)
            finally:
                while not hearing.done():  # redis-py swallows a cancellation while it connects
                    hearing.cancel()
                    await asyncio.wait({hearing}, timeout=PAUSE_S)
                with contextlib.suppress(Exception):
                    for group in joined:
                        await layer.group_discard(group, channel)

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained_at >= QUIET_S:
            self._complained_at = time.monotonic()
            log.warning("live pages are late by some seconds: the channel layer fails: %r", error)

    async def _stay_joined(
        self, layer: Any, channel: str, joined: set[str], hearing: asyncio.Task[None]
    ) -> None:
        again_at = time.monotonic() + AGAIN_S
        while self._hearers:
            self._changed.clear()
            wanted = {EVERYBODY, *self._groups}
            again = time.monotonic() >= again_at
            if again:
                again_at = time.monotonic() + AGAIN_S
            new = wanted - joined
            for group in wanted if again else new:
                await layer.group_add(group, channel)
                joined.add(group)
            if EVERYBODY in new:
                self._pass_on(list(self._hearers), None)
            for group in joined - wanted:
                await layer.group_discard(group, channel)
                joined.discard(group)
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait(
                {changed, hearing},
                timeout=max(again_at - time.monotonic(), 0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            changed.cancel()
            if hearing.done():
                hearing.result()  # it ends only by failing

    async def _hear(self, layer: Any, channel: str) -> None:
        while True:
            told = await layer.receive(channel)
            self._pass_on(told["names"], told["message"])

    def _pass_on(self, names: Iterable[str], message: JSONObject | None) -> None:
        for name in names:
            for hear in list(self._hearers.get(name, ())):
                hear(message)


_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, Listener] = WeakKeyDictionary()


def listener() -> Listener:
    """This event loop's."""
    loop = asyncio.get_running_loop()
    if (found := _listeners.get(loop)) is None:
        found = _listeners[loop] = Listener()
    return found
