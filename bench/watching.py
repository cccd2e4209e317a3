"""The other ends of many sockets: `python -m bench.watching PORT FILE`, told what to do line by line.

    [7, 8, 7]                                  who opens a socket each; answered by `connected`
    {"wanted": {"<id>": 7}, "latest_s": 60}    wait until each has heard of these; answered by `done`

Into FILE goes a line for each socket: `{"<approval id>": <when it heard of its answer>, ...}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

AT_ONCE = 20  # connecting
OPENED_S = 60.0


async def main(port: int, out: Path) -> None:
    people: list[int] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    heard: list[dict[str, float]] = [{} for _ in people]
    gate, opened = asyncio.Semaphore(AT_ONCE), [asyncio.Event() for _ in people]
    watchers = [
        asyncio.create_task(watch(port, person, heard[at], gate, opened[at]))
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
        while time.monotonic() < until and not missing <= heard[at].keys():  # noqa: ASYNC110  # of 2,000
            await asyncio.sleep(0.1)
    for watcher in watchers:
        watcher.cancel()
    await asyncio.to_thread(out.write_text, "".join(json.dumps(one) + "\n" for one in heard))
    print("done", flush=True)


async def watch(
    port: int, person: int, heard: dict[str, float], gate: asyncio.Semaphore, opened: asyncio.Event
) -> None:
    """One socket; comes back with its cursor, as the pages do."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    cursor = ""
    while True:
        async with gate:
            ticket = await asyncio.to_thread(_ticket, person)
            address = f"ws://127.0.0.1:{port}/ws/approvals?ticket={ticket}"
            socket = await connect(f"{address}&cursor={cursor}" if cursor else address, open_timeout=OPENED_S)
            if not cursor:
                cursor = json.loads(await socket.recv())["cursor"]
        opened.set()
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                message = json.loads(text)
                cursor = message["cursor"]
                if message["type"] == "approval_responded":
                    heard.setdefault(message["approvalId"], time.time())


def _ticket(person: int) -> str:
    from django.db import connection

    from agentflow.api import tickets
    from agentflow.governance.models import User

    try:
        return tickets.issue(User.objects.get(pk=person))
    finally:
        connection.close()


if __name__ == "__main__":
    import django

    django.setup()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
