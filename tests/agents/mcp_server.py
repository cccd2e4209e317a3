"""A real MCP server with the tools that tests need: `mcp_server.py [--http PORT [--json] | --unlisted]`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import METHOD_NOT_FOUND

PROMISED: dict[str, dict[str, Any]] = {  # whatever they give
    "misfit": {"type": "object", "properties": {"days": {"type": "integer"}}},
    "pattern": {"type": "object", "properties": {"word": {"type": "string", "pattern": "^(a+)+$"}}},
    "bare": {"type": "object"},
}


class Counting(MCPServer):
    """Counts how often it was asked for its tools."""

    lists = 0

    async def _handle_list_tools(self, *given: Any) -> Any:
        self.lists += 1
        listed = await super()._handle_list_tools(*given)
        for tool in listed.tools:
            if tool.name in PROMISED:
                tool.output_schema = PROMISED[tool.name]
        return listed


class Unlisted(Counting):
    """As one whose tools the caller may not see."""

    async def _handle_list_tools(self, *given: Any) -> Any:
        raise MCPError(METHOD_NOT_FOUND, "Method not found")


server = (Unlisted if sys.argv[1:2] == ["--unlisted"] else Counting)("tests")


@server.tool()
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@server.tool()
def policy(country: str) -> dict[str, str]:
    """A structured answer."""
    return {"country": country, "days": "30"}


@server.tool(structured_output=False)
def greet(name: str) -> str:
    """A plain text."""
    return f"Hello, {name}."


@server.tool()
def misfit() -> dict[str, str]:
    """Gives what it does not promise."""
    return {"days": "thirty"}


@server.tool()
def pattern() -> dict[str, str]:
    """Gives what a backtracking engine would look at for years."""
    return {"word": "a" * 60 + "!"}


@server.tool(structured_output=False)
def bare() -> str:
    """Promises an object, and gives a text."""
    return "bare"


begun, released = asyncio.Event(), asyncio.Event()


@server.tool()
async def wait() -> str:
    """Answers when it is released."""
    begun.set()
    await released.wait()
    return "released"


@server.tool()
def release() -> str:
    """Let `wait` answer."""
    released.set()
    return "done"


@server.tool(structured_output=False)
async def large(size: int) -> str:
    """Once somebody waits, an answer of some size."""
    await begun.wait()
    return "x" * size


@server.tool()
def mutter(words: str) -> str:
    """Writes to stderr."""
    print(words, file=sys.stderr, flush=True)
    return "said"


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no such order")


@server.tool()
async def hang() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
async def count(to: int, ctx: Context) -> int:
    """Says how far it is."""
    for number in range(1, to + 1):
        await ctx.report_progress(number, to, f"at {number}")
    return to


@server.tool()
def die() -> str:
    """Takes the server down in the middle of a call."""
    os._exit(1)


@server.tool()
def pid() -> int:
    """Which process answers."""
    return os.getpid()


@server.tool()
def lists() -> int:
    """How often the tools were asked for."""
    return server.lists


@server.tool()
def relax() -> str:
    """From now on one may add what is no number, too."""
    server.remove_tool("add")
    server.add_tool(lambda a, b: f"{a}{b}", name="add", description="Anything.")
    return "relaxed"


@server.tool()
def environment() -> list[str]:
    """What the process was given."""
    return sorted(os.environ)


@server.tool()
def key(ctx: Context) -> str:
    """The idempotency key that came with the call."""
    meta = ctx.request_context.meta or {}
    return str(dict(meta).get("agentflow/idempotencyKey"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--http"]:
        server.run(
            "streamable-http", host="127.0.0.1", port=int(sys.argv[2]), json_response="--json" in sys.argv
        )
    else:
        server.run("stdio")
