"""An agent that does something once per key, and may die at any moment: `... PORT FILE SEED SHARE`.

`POST /do` does the effect and answers `{"n": ...}`; a key that it knows gets an answer again, but whoever
pays twice by one key has paid twice, or a broken `once` would not show.  What it did is
in the file before it answers, so that what comes after `kill -9` knows it.  Of the keys a share is held after
the effect, the first time, until who waits was killed (`HOLD_S` at most).  `GET /held` tells how many are.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from .fault_plan import PAYS, chance

HOLD_S = 7.0  # within a step's time
WORK_S = 0.005


class Agent:
    def __init__(self, path: Path, seed: str, share: float) -> None:
        self.seed, self.share = seed, share
        self.known: set[str] = set()
        if path.exists():
            self.known = set(path.read_text().splitlines())
        self.file = path.open("a", buffering=1)
        self.held = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                lines = (line.partition(":") for line in head.split("\r\n")[1:])
                headers = {name.strip().lower(): value.strip() for name, _, value in lines}
                await reader.readexactly(int(headers.get("content-length", 0)))
                value = await self._answer(path, headers.get("idempotency-key", ""), reader)
                body = json.dumps(value).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                    % (len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, key: str, reader: asyncio.StreamReader) -> dict[str, int]:
        if path == "/held":
            return {"held": self.held}
        first = key not in self.known
        await asyncio.sleep(WORK_S)
        if key not in self.known or _pays(key):
            self.known.add(key)
            self.file.write(key + "\n")
        if first and chance(self.seed, operation=key) < self.share:
            await self._hold(reader)
        return {"n": len(self.known)}

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        """Until the other side is gone, or it was long enough."""
        self.held += 1
        until = asyncio.get_running_loop().time() + HOLD_S
        try:
            while asyncio.get_running_loop().time() < until and not reader.at_eof():  # noqa: ASYNC110 - has no event
                await asyncio.sleep(0.05)
        finally:
            self.held -= 1


def _pays(key: str) -> bool:
    """Whether the key, `<execution>:<block>:<item>:<sequence>`, is of an effect done at every call."""
    return key.rsplit(":", 3)[1:2] == [PAYS]


async def main(port: int, path: Path, seed: str, share: float) -> None:
    agent = Agent(path, seed, share)
    server = await asyncio.start_server(agent.serve, "127.0.0.1", port, backlog=1000)
    print(" ready.", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
