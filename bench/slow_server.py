"""A server that answers after a second (`/now`: at once), and tells how many it had at once: `... PORT`."""

from __future__ import annotations

import asyncio
import json
import sys

SECONDS = 1.0


class Server:
    def __init__(self) -> None:
        self.here = self.most = self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                value = await self._answer(head.split(b" ", 2)[1].decode())
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

    async def _answer(self, path: str) -> dict[str, int]:
        if path == "/counts":
            counts = {"here": self.here, "most": self.most, "served": self.served}
            self.most = self.here
            return counts
        if path == "/now":
            return {"served": self.served}
        self.here += 1
        self.most = max(self.most, self.here)
        await asyncio.sleep(SECONDS)
        self.here -= 1
        self.served += 1
        return {"served": self.served}


async def main(port: int) -> None:
    server = await asyncio.start_server(Server().serve, "127.0.0.1", port, backlog=1000)
    print(" ready.", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
