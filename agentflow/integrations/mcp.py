"""Calls tools of MCP servers and keeps the sessions, one event loop and pool per worker process.

Starting a stdio server costs a second or two, so a session serves many calls from all threads and is
opened anew when its server is gone.  stdio commands come from the settings alone, with an environment of
their own; HTTP servers are reached through the egress transport.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx2
from django.conf import settings

from ..types import JSONObject, JSONValue
from ..workflow import json_schema
from . import http_failures, http_transport, mcp_failures, waiting
from .egress import EgressPolicy
from .http_watch import RESPONSE_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import mcp
    from mcp.client import Transport
    from mcp_types import CallToolResult, RequestParamsMeta

log = logging.getLogger(__name__)
# The SDK quotes messages and answers, and those may hold secrets.
for _name in ("mcp", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

IDLE_S = 600.0  # a session unused for so long is closed
SWEEP_S = 30.0  # between two looks for such
FRESH_S = 1.0  # one used less long ago is taken to be alive
LIST_S = 5.0
LIST_PAGES = 50  # a server whose list never ends
CLOSE_S = 6.0
SESSIONS = 64
PROGRESS_LINES = 200  # of one call
LISTED = 1000  # tools whose schemas a session keeps
META_KEY = "agentflow/idempotencyKey"


@dataclass(frozen=True, slots=True)
class Server:
    """Which server: a stdio server by its name in the settings, or an address with its headers."""

    name: str = ""
    url: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    policy: EgressPolicy = field(default_factory=EgressPolicy)

    @property
    def label(self) -> str:
        return self.name or str(httpx2.URL(self.url).copy_with(query=None, userinfo=b""))


def call_tool(
    server: Server,
    tool: str,
    arguments: JSONObject,
    *,
    timeout_s: float,
    idempotency_key: str,
    repeatable: bool = False,
    on_cancel: Callable[[Callable[[], None]], Any] | None = None,
    on_progress: Callable[[str], Any] | None = None,
) -> JSONValue:
    """Call one tool once and give back its structured content, or else its text.

    Arguments are held against the schema that the server gave for the tool, before the call.  Before what is
    not `repeatable` a session that was idle is asked whether its server is still there; else a call that
    finds it gone is made again in a new one.  `on_progress` is called in this thread with what the server
    says of its progress.

    Raises:
        EgressError: as the kind of what went wrong.
    """
    if server.name and server.name not in settings.AGENTFLOW_MCP_STDIO:
        raise mcp_failures.UnknownServer(server.name)
    sent = threading.Event()
    said = _Said()
    call = _pool().call(
        server,
        tool,
        arguments,
        timeout_s=timeout_s,
        key=idempotency_key,
        repeatable=repeatable,
        sent=sent,
        said=said,
    )
    call.add_done_callback(lambda _: said.lines.put(None))
    if on_cancel:
        on_cancel(functools.partial(_abandon, call))
    until = time.monotonic() + timeout_s + 2 * CLOSE_S
    try:
        # The loop's own timeout fires first; this one is for a loop that is stuck.
        with waiting.outside():
            said.tell(on_progress, until)
            result = call.result(max(until - time.monotonic(), 0))
        return _value(result)
    except (concurrent.futures.CancelledError, asyncio.CancelledError):
        raise http_failures.CallCancelled(sent=sent.is_set()) from None
    except TimeoutError:
        call.cancel()
        raise http_failures.TimedOut(timeout_s, sent=sent.is_set()) from None


class _Said:
    """What a server says while it works, handed from the loop to the thread that waits for the call."""

    def __init__(self) -> None:
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._told = 0

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        if self._told < PROGRESS_LINES:
            self._told += 1
            of = f" of {total:g}" if total is not None else ""
            self.lines.put(f"Progress: {progress:g}{of}" + (f": {message[:500]}" if message else ""))

    def tell(self, on_progress: Callable[[str], Any] | None, until: float) -> None:
        """Pass on each line until the call is done, or it is `until`."""
        try:
            while (line := self.lines.get(timeout=max(until - time.monotonic(), 0.001))) is not None:
                if on_progress:
                    with waiting.inside():
                        on_progress(line)
        except queue.Empty:
            return


def list_tools(server: Server, *, timeout_s: float, at_most: int) -> list[JSONObject]:
    """The tools of a server as it describes them, page by page, no more than `at_most`.

    Raises:
        EgressError: as the kind of what went wrong.
    """
    if server.name and server.name not in settings.AGENTFLOW_MCP_STDIO:
        raise mcp_failures.UnknownServer(server.name)
    listing = _pool().list_tools(server, timeout_s=timeout_s, at_most=at_most)
    try:
        return listing.result(timeout_s + 2 * CLOSE_S)
    except TimeoutError:
        listing.cancel()
        raise http_failures.TimedOut(timeout_s, sent=False) from None


def _abandon(call: concurrent.futures.Future[CallToolResult]) -> None:
    call.cancel()


def _value(result: CallToolResult) -> JSONValue:
    contents = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]
    texts = [block["text"] for block in contents if block.get("type") == "text"]
    if result.is_error:
        raise mcp_failures.ToolFailed("\n".join(texts))
    if result.structured_content is not None:
        return result.structured_content
    if len(texts) == len(contents):
        return texts[0] if len(texts) == 1 else texts
    return contents


@dataclass(frozen=True, slots=True)
class _Schemas:
    """What a tool takes, and what it promises to give."""

    input: JSONObject
    output: JSONObject | None


@dataclass
class _Session:
    """One open connection.  Its owner task alone enters and leaves the client, as anyio demands."""

    owner: asyncio.Task[None]
    client: asyncio.Future[mcp.Client]
    leave: asyncio.Event
    used_at: float = field(default_factory=time.monotonic)
    calls: int = 0  # under way
    schemas: dict[str, _Schemas] | None = None  # of its tools, once they were asked for

    @contextmanager
    def used(self) -> Iterator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self.used_at = time.monotonic()

    @property
    def rested(self) -> bool:
        """Open, but not heard of lately."""
        return not self.gone and self.client.done() and time.monotonic() - self.used_at > FRESH_S

    @property
    def gone(self) -> bool:
        return self.owner.done() or self.leave.is_set()


class _Pool:
    """The sessions of this process, and the loop they live in."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._sessions: dict[Server, _Session] = {}
        self._loop.call_soon(self._sweep)
        threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True).start()
        atexit.register(self._close)

    def call(
        self,
        server: Server,
        tool: str,
        arguments: JSONObject,
        *,
        timeout_s: float,
        key: str,
        repeatable: bool,
        sent: threading.Event,
        said: _Said,
    ) -> concurrent.futures.Future[CallToolResult]:
        work = self._call(server, tool, arguments, timeout_s, key, repeatable, sent, said)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _call(
        self,
        server: Server,
        tool: str,
        arguments: JSONObject,
        timeout_s: float,
        key: str,
        repeatable: bool,
        sent: threading.Event,
        said: _Said,
    ) -> CallToolResult:
        async with asyncio.timeout(timeout_s):
            held = self._sessions.get(server)
            rested = held is not None and held.rested
            if repeatable and rested:
                try:
                    return await self._call_in(
                        await self._session(server, look=False), server, tool, arguments, key, sent, said
                    )
                except http_failures.ConnectionLost:
                    log.debug("MCP session with %s was gone: one more", server.label)
            session = await self._session(server)
            return await self._call_in(session, server, tool, arguments, key, sent, said)

    async def _call_in(
        self,
        session: _Session,
        server: Server,
        tool: str,
        arguments: JSONObject,
        key: str,
        sent: threading.Event,
        said: _Said,
    ) -> CallToolResult:
        with session.used():
            client = await asyncio.shield(session.client)
            session.used_at = time.monotonic()
            try:
                await self._check(server, session, client, tool, arguments)
                sent.set()
                meta = cast("RequestParamsMeta", {META_KEY: key})
                result = await client.call_tool(tool, arguments, meta=meta, progress_callback=said.progress)
                await self._check_result(session, tool, result)
                return result
            except Exception as error:
                failure = mcp_failures.translated(error, server.label, sent=sent.is_set())
                if failure.failure.code == "connection_lost":
                    self._drop(server, session)
                raise failure from error

    async def _check(
        self, server: Server, session: _Session, client: mcp.Client, tool: str, arguments: JSONObject
    ) -> None:
        """Hold arguments against the tool's own schema; one list serves a session while its calls fit."""
        known = session.schemas is not None
        issues = _issues(session.schemas or {}, tool, arguments)
        if not known or issues:  # the tool may be another by now
            listed = await _listed(server, client, LISTED)
            session.schemas = {
                each["name"]: _Schemas(each["inputSchema"], each.get("outputSchema")) for each in listed
            }
            issues = _issues(session.schemas, tool, arguments)
        if issues:
            raise mcp_failures.BadArguments(issues)

    async def _check_result(self, session: _Session, tool: str, result: CallToolResult) -> None:
        """Hold what came against the tool's own schema, beside the loop, for it may be large."""
        schemas = (session.schemas or {}).get(tool)
        if schemas is None or schemas.output is None or result.is_error:
            return
        if result.structured_content is None and "structured_content" not in result.model_fields_set:
            raise mcp_failures.BadResult("It has an outputSchema, and gave no structured content.")
        issues = await asyncio.to_thread(_unfit, result.structured_content, schemas.output)
        if issues:
            raise mcp_failures.BadResult(f"result{issues[0]['pointer']}: {issues[0]['message']}", issues)

    def list_tools(
        self, server: Server, *, timeout_s: float, at_most: int
    ) -> concurrent.futures.Future[list[JSONObject]]:
        return asyncio.run_coroutine_threadsafe(self._list_tools(server, timeout_s, at_most), self._loop)

    async def _list_tools(self, server: Server, timeout_s: float, at_most: int) -> list[JSONObject]:
        async with asyncio.timeout(timeout_s):
            session = await self._session(server)
            with session.used():
                client = await asyncio.shield(session.client)
                try:
                    return await _listed(server, client, at_most)
                except Exception as error:
                    failure = mcp_failures.translated(error, server.label, sent=False)
                    if failure.failure.code == "connection_lost":
                        self._drop(server, session)
                    raise failure from error

    async def _session(self, server: Server, *, look: bool = True) -> _Session:
        """An open session that answered lately, or a new one.  Without a `look` an idle one is not asked."""
        self._close_idle(keep=SESSIONS - 1)
        held = self._sessions.get(server)
        if look and held and held.rested and not await _answers(held.client.result()):
            self._drop(server, held)
        held = self._sessions.get(server)
        if held is None or held.gone:
            held = self._sessions[server] = self._open(server)
        return held

    def _open(self, server: Server) -> _Session:
        client: asyncio.Future[mcp.Client] = self._loop.create_future()
        # Nobody may be left to wait for it; its error is no news then.
        client.add_done_callback(lambda done: done.cancelled() or done.exception())
        leave = asyncio.Event()
        return _Session(self._loop.create_task(_own(server, client, leave)), client, leave)

    def _drop(self, server: Server, session: _Session) -> None:
        session.leave.set()
        if self._sessions.get(server) is session:
            del self._sessions[server]

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_S, self._sweep)
        self._close_idle(keep=SESSIONS)

    def _close_idle(self, *, keep: int) -> None:
        now = time.monotonic()
        oldest_first = sorted(self._sessions.items(), key=lambda item: item[1].used_at)
        for number, (server, session) in enumerate(oldest_first):
            unused = not session.calls and now - session.used_at > IDLE_S
            surplus = not session.calls and number < len(oldest_first) - keep
            if session.gone or unused or surplus:
                self._drop(server, session)

    def _close(self) -> None:
        """Let the servers go in order when the process ends."""
        if self.pid != os.getpid():
            return

        async def leave() -> None:
            owners = [session.owner for session in self._sessions.values()]
            for session in self._sessions.values():
                session.leave.set()
            if owners:
                await asyncio.wait(owners, timeout=CLOSE_S)

        try:
            asyncio.run_coroutine_threadsafe(leave(), self._loop).result(CLOSE_S + 1)
        except (TimeoutError, RuntimeError):
            log.warning("MCP sessions did not close in time")


def _issues(schemas: dict[str, _Schemas], tool: str, arguments: JSONObject) -> list[JSONObject]:
    """None for a tool that is not listed, or is new: the server will say."""
    known = schemas.get(tool)
    return _unfit(arguments, known.input) if known is not None else []


def _unfit(value: JSONValue, schema: JSONObject) -> list[JSONObject]:
    """None where the schema cannot be used."""
    try:
        return json_schema.issues(value, schema)
    except json_schema.UnusableSchema:
        return []


_pools: list[_Pool] = []
_pools_lock = threading.Lock()


def _pool() -> _Pool:
    """This process's pool; a forked child makes its own."""
    with _pools_lock:
        if not _pools or _pools[-1].pid != os.getpid():
            _pools[:] = [_Pool()]
        return _pools[-1]


async def _own(server: Server, opened: asyncio.Future[mcp.Client], leave: asyncio.Event) -> None:
    try:
        async with _client(server) as client:
            opened.set_result(client)
            await leave.wait()
    except Exception as error:  # noqa: BLE001 - handed to whoever waits for the session
        if opened.done():
            log.info("MCP session with %s ended: %s", server.label, mcp_failures.innermost(error))
            return
        command = settings.AGENTFLOW_MCP_STDIO[server.name]["command"][0] if server.name else ""
        opened.set_exception(mcp_failures.not_opened(error, label=server.label, command=command))
    finally:
        if not opened.done():
            opened.cancel()


@asynccontextmanager
async def _client(server: Server) -> AsyncIterator[mcp.Client]:
    import mcp
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if server.name:
        entry = settings.AGENTFLOW_MCP_STDIO[server.name]
        command, *arguments = entry["command"]
        parameters = mcp.StdioServerParameters(
            command=command, args=arguments, env=entry.get("env") or {}, cwd=entry.get("cwd")
        )
        # What a server says there may hold the secrets that it was called with.
        with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230 - it never waits
            async with _opened(stdio_client(parameters, errlog=nowhere)) as client:
                yield client
        return
    async with httpx2.AsyncClient(
        transport=http_transport.AsyncEgressTransport(server.policy),
        headers=dict(server.headers) | {"accept-encoding": "gzip"},
        trust_env=False,
        timeout=httpx2.Timeout(http_transport.CONNECT_TIMEOUT_S, read=None),
    ) as connection:
        transport = streamable_http_client(
            server.url, http_client=connection, max_sse_event_size=RESPONSE_BYTES
        )
        async with _opened(transport) as client:
            yield client


@asynccontextmanager
async def _opened(transport: Transport) -> AsyncIterator[mcp.Client]:
    import mcp

    async with mcp.Client(transport, cache=None) as client:
        # The SDK's own check runs a server's patterns with `re`, which may take for ever; see _check_result.
        client.session.validate_tool_result = _unchecked  # type: ignore[method-assign]
        yield client


async def _unchecked(name: str, result: CallToolResult) -> None:
    return


async def _listed(server: Server, client: mcp.Client, at_most: int) -> list[JSONObject]:
    """
    Raises:
        ListRefused: the server answers, and not with a list.
    """
    from mcp import MCPError

    try:
        return await _tools(client, at_most)
    except MCPError as error:
        if mcp_failures.gone(error) or mcp_failures.too_large(error):
            raise
        raise mcp_failures.ListRefused(server.label, error.message) from error


async def _tools(client: mcp.Client, at_most: int) -> list[JSONObject]:
    found: list[JSONObject] = []
    cursor: str | None = None
    for _ in range(LIST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor or len(found) >= at_most:
            break
    return found[:at_most]


async def _answers(client: mcp.Client) -> bool:
    from mcp import MCPError
    from mcp_types import CONNECTION_CLOSED

    try:
        async with asyncio.timeout(LIST_S):
            await client.list_tools()  # newer protocols have no ping
    except MCPError as error:
        return error.code != CONNECTION_CLOSED  # a refusal is an answer too
    except Exception as error:  # noqa: BLE001 - whatever it is, this session is of no more use
        log.debug("MCP server does not answer: %s", error)
        return False
    return True
