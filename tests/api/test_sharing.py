"""Many who ask in the same moment cost one look, and nobody is told what was true before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import Event

import pytest

from agentflow.api.sharing import Together


async def test_who_asks_while_a_look_is_under_way_is_answered_by_the_next_one() -> None:
    truth, looks, begun, go_on = {"answer": 1}, [], Event(), Event()

    def look(keys: Sequence[int]) -> dict[int, int]:
        looks.append(sorted(keys))
        begun.set()
        found = dict.fromkeys(keys, truth["answer"])
        go_on.wait(10)
        return found

    desk = Together(look)
    first = asyncio.create_task(desk.ask(0))
    await asyncio.to_thread(begun.wait, 10)
    truth["answer"] = 2
    later = [asyncio.create_task(desk.ask(key % 3)) for key in range(100)]
    gone = asyncio.create_task(desk.ask(1))
    await asyncio.sleep(0)
    gone.cancel()
    go_on.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}
    assert looks == [[0], [0, 1, 2]]


async def test_a_look_that_fails_fails_for_those_who_asked_and_the_next_is_fresh() -> None:
    def look(keys: Sequence[str]) -> dict[str, str]:
        if "bad" in keys:
            raise LookupError("no such thing")
        return {key: key.upper() for key in keys}

    desk = Together(look)
    for answer in await asyncio.gather(desk.ask("bad"), desk.ask("bad"), return_exceptions=True):
        assert isinstance(answer, LookupError)
    with pytest.raises(LookupError):
        await desk.ask("bad")
    assert await desk.ask("good") == "GOOD"
