"""`python -m tests.chaos.mcp_agent PORT ADDRESS`: an MCP server whose one tool does what `ADDRESS` does.

The ledger is behind that address: the key of a call is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

from mcp.server.mcpserver import Context, MCPServer

from agentflow.integrations.mcp import META_KEY
from config.engines import launched
from tests.service import ROOT, free_port
from tests.waiting import until


def main(port: int, address: str) -> None:
    server = MCPServer("chaos")

    @server.tool()
    async def book(ctx: Context) -> str:
        """Do it once for each key."""
        meta = dict(ctx.request_context.meta or {})
        return await asyncio.to_thread(_post, address, str(meta.get(META_KEY)))

    server.run("streamable-http", host="127.0.0.1", port=port)


def _post(address: str, key: str) -> str:
    request = urllib.request.Request(address, b"{}", {"Idempotency-Key": key}, method="POST")
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(reply.read().decode())


@contextlib.contextmanager
def mcp_agent(address: str) -> Iterator[str]:
    """A process of its own; gives `host:port`."""
    port = free_port()
    process = subprocess.Popen(
        launched(
            [sys.executable, "-m", "tests.chaos.mcp_agent", str(port), address], death_signal=signal.SIGKILL
        ),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _listens(port), why="the MCP server to listen")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
