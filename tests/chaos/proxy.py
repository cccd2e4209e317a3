"""The wire between the product and its engines, as a process of its own: `python -m tests.chaos.proxy`.

Two unix sockets in front of PostgreSQL's and Valkey's.  In passing, hints are doubled (one `LPUSH` with
the message twice) or lost (pushed to a list that nobody reads), which leaves the answers as they are.
Lines of JSON on stdin change how the wire behaves; a line on stdout answers each with the counts so far.

    {"delay": [0.1, 0.5], "reset": 0.01}    until the next line
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from executions.lanes import LANES, QUEUE

CONTROL = "control"  # as executions.dispatch has it, which the wire cannot load
HINTS = frozenset(name.encode() for name in (QUEUE, *LANES, CONTROL))
NOWHERE = b"chaos.dropped"
HIGH_WATER = 1 << 20


@dataclass
class Wire:
    """How bytes travel just now, and what was done to them."""

    chance: random.Random
    doubled: float
    dropped: float
    delay: tuple[float, float] = (0.0, 0.0)
    reset: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


class Hints:
    """Doubles and drops hints in a stream of Valkey commands."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._left = b""

    def __call__(self, data: bytes) -> bytes:
        self._left += data
        out = []
        while (command := parsed(self._left)) is not None:
            words, length = command
            out.append(self._changed(words, self._left[:length]))
            self._left = self._left[length:]
        return b"".join(out)

    def _changed(self, words: list[bytes], as_sent: bytes) -> bytes:
        if len(words) != 3 or words[0].upper() != b"LPUSH" or words[1] not in HINTS:
            return as_sent
        counts, dice = self._wire.counts, self._wire.chance.random()
        counts["hints"] += 1
        counts["on lanes"] += words[1].decode() in LANES
        if dice < self._wire.dropped:
            counts["dropped"] += 1
            return packed([words[0], NOWHERE, words[2]])
        if dice < self._wire.dropped + self._wire.doubled:
            counts["doubled"] += 1
            return packed([*words, words[2]])
        return as_sent


def parsed(data: bytes) -> tuple[list[bytes], int] | None:
    """The first command of a stream and its length; None while it is incomplete."""
    end = data.find(b"\r\n")
    if end < 0:
        return None
    if data[:1] != b"*":  # an inline command
        return data[:end].split(), end + 2
    at, words = end + 2, []
    for _ in range(int(data[1:end])):
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at + 1 : end])
        at = end + 2 + size + 2
        if len(data) < at:
            return None
        words.append(data[end + 2 : at - 2])
    return words, at


def packed(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Half(asyncio.Protocol):
    """One side of a connection; what arrives goes to the other side."""

    def __init__(self, wire: Wire, change: Hints | None = None) -> None:
        self._wire = wire
        self._change = change
        self._due = 0.0
        self._early: list[bytes] = []
        self.peer: Half | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.transport = transport

    def pair(self, peer: Half) -> None:
        self.peer, peer.peer = peer, self
        if peer.transport is None or peer.transport.is_closing():  # gone before it was known
            self.cut()
            return
        for data in self._early:
            self._pass(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early.append(data)
        else:
            self._pass(data)

    def _pass(self, data: bytes) -> None:
        if self._change is not None:
            data = self._change(data)
        if not data:
            return
        wire = self._wire
        if wire.reset and wire.chance.random() < wire.reset:
            wire.counts["resets"] += 1
            self.cut()
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if wire.delay[1]:
            wire.counts["delayed"] += 1
            self._due = max(self._due, now + wire.chance.uniform(*wire.delay))
        if self._due > now:
            loop.call_at(self._due, self._write, data)  # equal times run in the order they were given
            self._due += 1e-6
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        peer = self.peer
        if peer is not None and peer.transport is not None and not peer.transport.is_closing():
            peer.transport.write(data)

    def cut(self) -> None:
        for half in (self, self.peer):
            if half is not None and half.transport is not None:
                half.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()


class Front(Half):
    """The product's side: it reaches for the engine when somebody connects."""

    def __init__(self, wire: Wire, target: str, change: Hints | None) -> None:
        super().__init__(wire, change)
        self._target = target

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._reaching = asyncio.ensure_future(self._reach())

    async def _reach(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, back = await loop.create_unix_connection(lambda: Half(self._wire), self._target)
        except OSError:
            self.cut()
            return
        self.pair(back)


async def serve(wire: Wire, postgres: tuple[str, str], valkey: tuple[str, str]) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: Front(wire, postgres[1], None), postgres[0], backlog=200)
    await loop.create_unix_server(lambda: Front(wire, valkey[1], Hints(wire)), valkey[0], backlog=200)
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        said = json.loads(line)
        wire.delay = tuple(said.get("delay", (0.0, 0.0)))
        wire.reset = said.get("reset", 0.0)
        print(json.dumps(wire.counts), flush=True)


def main() -> None:
    how = json.loads(sys.argv[1])
    wire = Wire(random.Random(how["seed"]), how["doubled"], how["dropped"])
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(wire, how["postgres"], how["valkey"]))
    else:
        uvloop.run(serve(wire, how["postgres"], how["valkey"]))


if __name__ == "__main__":
    main()
