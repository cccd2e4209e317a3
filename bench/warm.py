"""What a warm call costs over the bare client's: both to the same server, in turns, in this process."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import mcp

ROUNDS, WARM_UP = 400, 40
AIM_MS = 3.0
ARGUMENTS = {"text": "hello"}

Taken = tuple[float, float]  # seconds by the clock, and of this process's processors
Measured = Callable[[], Taken]


@dataclass
class Pair:
    """The bare client's call, and the same made as a block's."""

    name: str
    bare: list[Taken] = field(default_factory=list)
    ours: list[Taken] = field(default_factory=list)

    def measure(self, bare: Measured, ours: Measured) -> None:
        for number in range(WARM_UP + ROUNDS):
            # Each is first as often as the other, so that neither has the warmer caches.
            first, second = (bare, ours) if number % 2 else (ours, bare)
            one, other = first(), second()
            if number >= WARM_UP:
                self.bare.append(one if first is bare else other)
                self.ours.append(one if first is ours else other)

    def added_ms(self) -> float:
        pairs = zip(self.bare, self.ours, strict=True)
        return statistics.median(ours[0] - bare[0] for bare, ours in pairs) * 1000

    def row(self) -> str:
        cells = [
            f"{statistics.median(each[0] for each in some) * 1000:.2f} ms" for some in (self.bare, self.ours)
        ]
        processor = [sum(each[1] for each in some) / ROUNDS * 1000 for some in (self.bare, self.ours)]
        met = "met" if self.added_ms() < AIM_MS else "missed"
        cells += [f"{self.added_ms():.2f} ms", met, *(f"{each:.2f} ms" for each in processor)]
        return f"| {self.name} | {' | '.join(cells)} |"


def measure(*, workspace: Any, port: int, mcp_port: int) -> list[Pair]:
    """Of an HTTP call, and of an MCP tool over stdio and over HTTP."""
    url, mcp_url = f"http://127.0.0.1:{port}/now", f"http://127.0.0.1:{mcp_port}/mcp"
    agents = {
        "http": ("API", {"method": "GET", "url": url}),
        "stdio": ("MCP", {"server": "echo", "tool": "echo"}),
        "streamable": ("MCP", {"url": mcp_url, "tool": "echo"}),
    }
    _register(workspace, agents)
    http = Pair("HTTP")
    with httpx2.Client() as client:
        http.measure(_timed(lambda: client.get(url).raise_for_status().json()), _called(workspace, "http"))
    pairs = [http]
    for name, title in (("stdio", "MCP over stdio"), ("streamable", "MCP over HTTP")):
        pair = Pair(title)
        with _bare(mcp_url if name == "streamable" else "") as bare:
            pair.measure(bare, _called(workspace, name))
        pairs.append(pair)
    return pairs


def _register(workspace: Any, agents: dict[str, tuple[str, dict[str, Any]]]) -> None:
    from agentflow.agents.models import Agent

    for agent_id, (tool_type, configuration) in agents.items():
        Agent.objects.create(
            workspace=workspace,
            agent_id=agent_id,
            name=agent_id,
            tool_type=tool_type,
            configuration=configuration,
            effect="pure",
        )


def _timed(call: Callable[[], Any]) -> Measured:
    def measured() -> Taken:
        clock, processor = time.perf_counter(), time.process_time()
        call()
        return time.perf_counter() - clock, time.process_time() - processor

    return measured


def _called(workspace: Any, agent_id: str) -> Measured:
    """As a walker calls: with the agent looked up, its circuit, its secrets, and the answer checked."""
    from agentflow.agents.calls import Call, Completed
    from agentflow.agents.invocation import invoke

    execution_id = uuid4()

    def call() -> None:
        outcome = invoke(
            Call(
                workspace_id=workspace.pk,
                execution_id=execution_id,
                block_id="b",
                attempt=1,
                agent_id=agent_id,
                tool_type=None,
                configuration={},
                input=ARGUMENTS,
                timeout_s=30.0,
                idempotency_key="k",
            )
        )
        assert isinstance(outcome, Completed), outcome

    return _timed(call)


@contextmanager
def _bare(url: str) -> Iterator[Measured]:
    """A client session of the MCP library's own, called in its loop: no thread is changed for a call."""
    loop = asyncio.new_event_loop()
    opened: asyncio.Future[mcp.Client] = loop.create_future()
    leave = asyncio.Event()

    async def own() -> None:  # enters and leaves in one task, as anyio demands
        async with _client(url) as client:
            opened.set_result(client)
            await leave.wait()

    owner = loop.create_task(own())
    client = loop.run_until_complete(asyncio.wait_for(opened, 60))
    try:
        yield _timed(lambda: loop.run_until_complete(client.call_tool("echo", ARGUMENTS)))
    finally:
        leave.set()
        loop.run_until_complete(owner)
        loop.close()


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[mcp.Client]:
    import mcp
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    server = mcp.StdioServerParameters(command=sys.executable, args=["-m", "bench.echo_mcp"])
    transport = streamable_http_client(url) if url else stdio_client(server)
    async with mcp.Client(transport, cache=None) as client:
        yield client


def table(pairs: list[Pair]) -> str:
    head = (
        f"Warm calls, one after the other: medians of {ROUNDS} pairs; aim: under {AIM_MS:g} ms added."
        " Processor time is of the calling process, on average.\n\n"
        "| | bare client | ours | added (median of pairs) | aim | processor, bare | processor, ours |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(pair.row() for pair in pairs) + "\n"
