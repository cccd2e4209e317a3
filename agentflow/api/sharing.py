"""One look at the database for all who ask in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
AT_ONCE = 1000  # questions that one look answers at most


class Together(Generic[K, V]):
    """Answers questions in batches: who asks while a look is under way is answered by the next one.

    So an answer is never older than its question, and a thousand sockets that are poked by one event
    cost a few queries.  `look` runs in a thread and answers every key it is given.
    """

    def __init__(self, look: Callable[[Sequence[K]], Mapping[K, V]]) -> None:
        self._look = look
        self._desks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk[K, V]] = WeakKeyDictionary()

    async def ask(self, key: K) -> V:
        loop = asyncio.get_running_loop()
        desk = self._desks.get(loop)
        if desk is None:
            desk = self._desks[loop] = _Desk(self._look)
        return await desk.ask(key)


class _Desk(Generic[K, V]):
    """The questions of one event loop."""

    def __init__(self, look: Callable[[Sequence[K]], Mapping[K, V]]) -> None:
        self._look = look
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._clerk: asyncio.Task[None] | None = None

    async def ask(self, key: K) -> V:
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.create_task(self._work())
        return await asyncio.shield(future)  # who goes away takes nobody else's answer along

    async def _work(self) -> None:
        while self._waiting:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:AT_ONCE]}
            try:
                answers = await database_sync_to_async(self._look)(list(batch))
            except Exception as error:  # noqa: BLE001  # it belongs to those who asked
                for future in batch.values():
                    future.set_exception(error)
                    future.exception()  # somebody may have gone away
                continue
            for key, future in batch.items():
                future.set_result(answers[key])
