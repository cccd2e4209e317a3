"""The other ends of many sockets: `python -m bench.watching PORT FILE`, told what to do line by line.

    [7, 8, 7]                                  who opens a socket each; answered by `connected`
    {"wanted": {"<id>": 7}, "latest_s": 60}    wait until each has heard of these; answered by `done`

Into FILE goes a line for each socket: `{"heard": {"<approval id>": <when it heard of its answer>, ...},
"wrong": <messages that came twice or out of order>, "came_back": <times>}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

AT_ONCE = 20  # connecting
TICKETS = ThreadPoolExecutor(2)
OPENED_S = 60.0


@dataclass(slots=True)
class Found:
    """What one socket saw."""

    heard: dict[str, float] = field(default_factory=dict)
    wrong: int = 0
    came_back: int = 0


async def main(port: int, out: Path) -> None:
    people: list[int] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    found = [Found() for _ in people]
    gate, opened = asyncio.Semaphore(AT_ONCE), [asyncio.Event() for _ in people]
    watchers = [
        asyncio.create_task(watch(port, person, found[at], gate, opened[at]))
        for at, person in enumerate(people)
    ]
    for event in opened:
        await event.wait()
    print("connected", flush=True)
    order: dict[str, Any] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    wanted: dict[int, set[str]] = {}
    for approval, person in order["wanted"].items():
        wanted.setdefault(person, set()).add(approval)
    until = time.monotonic() + order["latest_s"]
    for at, person in enumerate(people):
        missing = wanted.get(person, set())
        while time.monotonic() < until and not missing <= found[at].heard.keys():  # noqa: ASYNC110  # of 2,000
            await asyncio.sleep(0.1)
    for watcher in watchers:
        watcher.cancel()
    await asyncio.to_thread(out.write_text, "".join(json.dumps(asdict(one)) + "\n" for one in found))
    print("done", flush=True)


async def watch(port: int, person: int, found: Found, gate: asyncio.Semaphore, opened: asyncio.Event) -> None:
    """One socket; comes back with its cursor, as the pages do."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    cursor, place = "", (0, 0)
    while True:
        async with gate:
            ticket = await asyncio.get_running_loop().run_in_executor(TICKETS, _ticket, person)
            address = f"ws://127.0.0.1:{port}/ws/approvals?ticket={ticket}"
            socket = await connect(f"{address}&cursor={cursor}" if cursor else address, open_timeout=OPENED_S)
            if not cursor:
                cursor = json.loads(await socket.recv())["cursor"]
                place = _place(cursor)
        opened.set()
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                now, message = time.time(), json.loads(text)
                cursor = message["cursor"]
                found.wrong += _place(cursor) <= place
                place = _place(cursor)
                if message["type"] == "approval_responded":
                    found.heard.setdefault(message["approvalId"], now)
        found.came_back += 1


def _place(cursor: str) -> tuple[int, int]:
    """Clients need not look into a cursor; who measures does."""
    xid, _, number = cursor.partition("-")
    return int(xid), int(number)


def _ticket(person: int) -> str:
    from agentflow.api import tickets
    from agentflow.governance.models import User

    return tickets.issue(User.objects.get(pk=person))


if __name__ == "__main__":
    import django
    import uvloop

    django.setup()
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
