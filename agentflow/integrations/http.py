"""The one way out by HTTP: for API agents, and under the OpenAI and MCP clients.

httpx2 is what both of those are built on, so one transport holds all three to the same rules: allowed
addresses only (egress.py), certificates always checked, no proxies from the environment, a deadline for
the whole exchange instead of for each read, and no more bytes than the caller has room for, counted
after decompression.
"""

from __future__ import annotations

import functools
import socket
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anyio.to_thread
import httpcore2
import httpx2

from ..conf import MB
from ..workflow.failures import FailureKind
from .egress import EgressError, EgressPolicy, EgressRefused, Resolver, system_resolver

CONNECT_TIMEOUT_S = 10.0
RESPONSE_BYTES = 8 * MB
REDIRECTS = 5
KEEP_ALIVE_S = 5.0
URL_CHARS = 8192
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OnCancel = Callable[[Callable[[], None]], None]


class CallCancelled(EgressError):
    """Somebody stopped the call from outside."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__(FailureKind.TRANSIENT, "cancelled", "The call was cancelled.", outcome_unknown=sent)


class TimedOut(EgressError):
    """There was no whole answer by the deadline."""

    def __init__(self, timeout_s: float, *, sent: bool) -> None:
        message = f"No answer within {timeout_s:g} s."
        super().__init__(FailureKind.TRANSIENT, "timeout", message, outcome_unknown=sent)


class ConnectFailed(EgressError):
    """Nobody answers there; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.TRANSIENT, "connect_failed", message)


class TlsFailed(EgressError):
    """The certificate does not prove that it is the right server; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.CONFIGURATION, "tls_failed", message)


class ConnectionLost(EgressError):
    """The connection broke before the answer was whole."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(FailureKind.TRANSIENT, "connection_lost", message, outcome_unknown=sent)


class ResponseTooLarge(EgressError):
    """The answer is larger than anybody has room for; the rest was not read."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            FailureKind.AGENT,
            "response_too_large",
            f"The answer is larger than {max_bytes} bytes.",
            outcome_unknown=True,
        )


class BadResponse(EgressError):
    """The answer breaks HTTP, or is in an encoding that was not asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.AGENT, "bad_response", message, outcome_unknown=True)


class BadStatus(EgressError):
    """The server answered, and its status says no."""


# What the calling thread's exchange may still use.  The transports read it, because httpx2 has neither a
# total deadline nor a way to stop a read from another thread.
_watch: ContextVar[Watch | None] = ContextVar("agentflow_http_watch", default=None)


@dataclass
class Watch:
    """One exchange: its deadline, its room, and the socket to cut when it is cancelled."""

    timeout_s: float
    max_bytes: int = RESPONSE_BYTES
    sent: bool = False
    cancelled: bool = False
    _socket: Any = None
    _deadline: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.timeout_s

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            TimedOut: none.
            CallCancelled: it was cancelled.
        """
        if self.cancelled:
            raise CallCancelled(sent=self.sent)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(self.timeout_s, sent=self.sent)
        return left

    def using(self, sock: Any) -> None:
        with self._lock:
            self._socket = sock

    def cancel(self) -> None:
        """Cut the connection under the thread that reads from it."""
        with self._lock:
            self.cancelled = True
            if self._socket is None:
                return
            with suppress(OSError):  # already closed
                # Not SSLSocket.shutdown: that takes the TLS object away from the reading thread.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@contextmanager
def watched(
    *, timeout_s: float, max_bytes: int = RESPONSE_BYTES, on_cancel: OnCancel | None = None
) -> Iterator[Watch]:
    """Hold every exchange of this thread inside the block to one deadline, one limit and one cancel.

    Raises:
        EgressError: as the kind of what went wrong; also for httpx2's own exceptions.
    """
    watch = Watch(timeout_s=timeout_s, max_bytes=max_bytes)
    if on_cancel:
        on_cancel(watch.cancel)
    token = _watch.set(watch)
    try:
        yield watch
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise translated(error, watch) from error
    finally:
        _watch.reset(token)
        watch.using(None)


def translated(error: Exception, watch: Watch) -> EgressError:
    """httpx2's exception as one of ours."""
    for cause in _causes(error):
        if isinstance(cause, EgressError):
            return cause
    if watch.cancelled:
        return CallCancelled(sent=watch.sent)
    # The OpenAI library wraps what the transport said.
    error = next((cause for cause in _causes(error) if isinstance(cause, httpx2.HTTPError)), error)
    said = str(error)[:300] or type(error).__name__
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return TlsFailed(said)
    match error:
        case httpx2.ConnectTimeout() | httpx2.ConnectError() | httpx2.PoolTimeout():
            return ConnectFailed(said)
        case httpx2.TimeoutException():
            return TimedOut(watch.timeout_s, sent=watch.sent)
        case httpx2.RemoteProtocolError() if "without sending" not in said and "incomplete" not in said:
            return BadResponse(said)
        case httpx2.DecodingError():
            return BadResponse(said)
        case httpx2.InvalidURL() | httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            return EgressRefused(said)
    return ConnectionLost(said, sent=watch.sent)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes end at the watch's deadline."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def _timeout(self, timeout: float | None) -> float | None:
        watch = _watch.get()
        if watch is None:
            return timeout
        watch.using(self._stream.get_extra_info("socket"))
        return watch.remaining()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._timeout(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        limit = self._timeout(timeout)
        watch = _watch.get()
        if watch:
            watch.sent = True
        self._stream.write(buffer, limit)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._timeout(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Connects to an address that was just checked.  TLS still checks the name, not the address."""

    def __init__(self, policy: EgressPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        watch = _watch.get()
        limit = min(watch.remaining() if watch else CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S)
        addresses = self._policy.addresses(host, port, resolver=self._resolver, timeout_s=limit)
        failed: Exception | None = None
        for address in addresses[:4]:
            limit = min(watch.remaining() if watch else CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S)
            try:
                return _Stream(
                    self._sockets.connect_tcp(str(address), port, limit, local_address, socket_options)
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise ConnectFailed(f"{host}:{port} does not answer: {failed}") from failed

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        raise EgressRefused("A unix socket is no destination.")


class _AsyncBackend(httpcore2.AsyncNetworkBackend):
    """The same for a client that runs in an event loop; deadlines are the loop's."""

    def __init__(self, policy: EgressPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        find = functools.partial(
            self._policy.addresses, host, port, resolver=self._resolver, timeout_s=CONNECT_TIMEOUT_S
        )
        addresses = await anyio.to_thread.run_sync(find, abandon_on_cancel=True)
        failed: Exception | None = None
        for address in addresses[:4]:
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, CONNECT_TIMEOUT_S, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise ConnectFailed(f"{host}:{port} does not answer: {failed}") from failed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise EgressRefused("A unix socket is no destination.")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Room:
    """Counts what comes in, and unpacks it no further than there is room."""

    def __init__(self, response: httpx2.Response, max_bytes: int | None) -> None:
        self._left = max_bytes
        self._max_bytes = max_bytes or 0
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
            raise BadResponse(f"The answer is encoded as {encoding[:40]}, which was not asked for.")
        self._unpacker = zlib.decompressobj(47) if encoding not in {"identity", ""} else None
        declared = response.headers.get("content-length", "")
        if max_bytes is not None and declared.isdigit() and int(declared) > max_bytes:
            raise ResponseTooLarge(max_bytes)

    def take(self, data: bytes) -> Iterator[bytes]:
        if self._unpacker is None:
            yield self._counted(data)
            return
        try:
            while data:
                yield self._counted(self._unpacker.decompress(data, 65536))
                data = self._unpacker.unconsumed_tail
        except zlib.error as error:
            raise BadResponse(f"The answer cannot be unpacked: {error}") from error

    def _counted(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ResponseTooLarge(self._max_bytes)
        return data


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, room: _Room) -> None:
        self._stream = stream
        self._room = room

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            yield from self._room.take(data)

    def close(self) -> None:
        self._stream.close()


class _AsyncBody(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, room: _Room) -> None:
        self._stream = stream
        self._room = room

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            for part in self._room.take(data):
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _unpacked(
    response: httpx2.Response, body: httpx2.SyncByteStream | httpx2.AsyncByteStream
) -> httpx2.Response:
    headers = [
        (name, value)
        for name, value in response.headers.raw
        if name.lower() not in {b"content-encoding", b"content-length"}
    ]
    return httpx2.Response(response.status_code, headers=headers, stream=body, extensions=response.extensions)


def _check_url(url: httpx2.URL) -> None:
    if url.scheme not in {"http", "https"}:
        raise EgressRefused(
            f"Only http and https are called, not {url.scheme[:20] or 'an address without a scheme'}."
        )
    if not url.host:
        raise EgressRefused("The address has no host.")
    if url.userinfo:
        raise EgressRefused("An address with a user name in it is refused; credentials belong in headers.")


class EgressTransport(httpx2.HTTPTransport):
    """For `httpx2.Client(transport=...)`, and so for libraries that take such a client."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver = system_resolver,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        context = verify if isinstance(verify, ssl.SSLContext) else _tls()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=_Backend(policy, resolver),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        _check_url(request.url)
        response = super().handle_request(request)
        watch = _watch.get()
        try:
            room = _Room(response, watch.max_bytes if watch else RESPONSE_BYTES)
        except EgressError:
            response.close()
            raise
        assert isinstance(response.stream, httpx2.SyncByteStream)
        return _unpacked(response, _Body(response.stream, room))


class AsyncEgressTransport(httpx2.AsyncHTTPTransport):
    """The same for `httpx2.AsyncClient`.

    An event stream may go on for ever, so only other bodies are counted.
    """

    def __init__(self, policy: EgressPolicy, *, resolver: Resolver = system_resolver) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_tls(),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=_AsyncBackend(policy, resolver),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        _check_url(request.url)
        response = await super().handle_async_request(request)
        streams = response.headers.get("content-type", "").startswith("text/event-stream")
        try:
            room = _Room(response, None if streams else RESPONSE_BYTES)
        except EgressError:
            await response.aclose()
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return _unpacked(response, _AsyncBody(response.stream, room))


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context(verify=True, trust_env=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: httpx2.Headers
    body: bytes
    url: str

    @property
    def content_type(self) -> str:
        return str(self.headers.get("content-type", "")).split(";")[0].strip().lower()


class HttpClient:
    """Calls one address at a time for one policy; safe to share between threads."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver = system_resolver,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.raw = httpx2.Client(
            transport=EgressTransport(policy, resolver=resolver, verify=verify),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(CONNECT_TIMEOUT_S, read=None, write=None),
            headers={"accept-encoding": "gzip", "user-agent": "agentflow"},
        )

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float,
        max_bytes: int = RESPONSE_BYTES,
        on_cancel: OnCancel | None = None,
    ) -> HttpResponse:
        """Send, follow redirects, and read the whole answer, whatever its status.

        Raises:
            EgressError: there is no whole answer.
        """
        if len(url) > URL_CHARS or any(char in url for char in "\\ \t\r\n"):
            raise EgressRefused("The address is too long, or has spaces or backslashes in it.")
        with watched(timeout_s=timeout_s, max_bytes=max_bytes, on_cancel=on_cancel):
            request = self.raw.build_request(method, url, headers=headers, content=content)
            for _ in range(REDIRECTS + 1):
                response = self.raw.send(request, stream=True)
                try:
                    following = _following(request, response)
                    if following is None:
                        return HttpResponse(
                            response.status_code, response.headers, response.read(), str(request.url)
                        )
                finally:
                    response.close()
                request = following
        raise EgressError(
            FailureKind.CONFIGURATION, "too_many_redirects", f"More than {REDIRECTS} redirects."
        )

    def close(self) -> None:
        self.raw.close()


def _following(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
    """The request a redirect asks for, or None when the answer stands as it is.

    What changes something is never sent to another origin, and no header of ours goes there but the
    harmless ones: `Authorization` is not the only one that carries a secret.
    """
    following = response.next_request
    if following is None:
        return None
    same = _origin(request.url) == _origin(following.url)
    if request.url.scheme == "https" and following.url.scheme != "https":
        raise EgressRefused("A redirect from https to http is not followed.")
    if not same and request.method not in SAFE_METHODS:
        raise EgressRefused(f"A redirect of {request.method} to another server is not followed.")
    if not same:
        kept = {"accept", "accept-encoding", "user-agent", "host", "accept-language"}
        for name in [name for name in following.headers if name.lower() not in kept]:
            del following.headers[name]
    return following


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return (url.scheme, url.host, url.port)


@functools.lru_cache(maxsize=64)
def client(policy: EgressPolicy) -> HttpClient:
    """This process's client for a policy, with its connections.

    One pool per policy: a connection that one workspace may use must not serve another.
    """
    return HttpClient(policy)


def check_status(status: int, headers: Any, *, method: str, body: bytes = b"") -> None:
    """Nothing, for a success; else the status as a failure that a retry rule can act on.

    Raises:
        BadStatus: status outside 200..299.
    """
    if 200 <= status < 300:
        return
    transient = status in {408, 425, 429} or (500 <= status < 600 and status not in {501, 505})
    raise BadStatus(
        FailureKind.TRANSIENT if transient else FailureKind.CONFIGURATION,
        f"http_{status}",
        f"The server answered {status}.",
        # 503 says that it did not begin; after the others nobody knows how far it came.
        outcome_unknown=status >= 500
        and status not in {501, 503, 505}
        and method.upper() not in SAFE_METHODS,
        retry_after_s=retry_after_s(headers.get("retry-after")) if transient else None,
        evidence={"status": status, "body": body[:500].decode("utf-8", "replace")},
    )


def retry_after_s(header: str | None) -> float | None:
    """`Retry-After` as seconds from now, at most a day; None when it says nothing we understand."""
    if not header:
        return None
    text = header.strip()
    if text.isdigit() and len(text) < 12:
        return min(float(text), 86400.0)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), 86400.0)
