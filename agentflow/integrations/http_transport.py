"""Transports for httpx2, which the OpenAI and MCP clients are built on too: one set of rules for all three.

Allowed addresses only (egress.py), certificates always checked, a deadline for the whole exchange
instead of for each read, and no more bytes than the caller has room for, counted after decompression.
"""

from __future__ import annotations

import functools
import logging
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import anyio.to_thread
import httpcore2
import httpx2

from .egress import EgressError, EgressPolicy, EgressRefused, Resolver, system_resolver
from .http_failures import BadResponse, ConnectFailed, ResponseTooLarge
from .http_watch import RESPONSE_BYTES, current_watch

# They write whole addresses, and an address may hold a secret.
for _name in ("httpx2", "httpx", "httpcore2", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 5.0
CONNECTIONS = 300  # of one pool: a worker's callers, and its own threads
KEPT_CONNECTIONS = 200


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes end at the watch's deadline."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def _timeout(self, timeout: float | None) -> float | None:
        watch = current_watch.get()
        if watch is None:
            return timeout
        watch.using(self._stream.get_extra_info("socket"))
        return watch.remaining()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._timeout(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        limit = self._timeout(timeout)
        watch = current_watch.get()
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
        watch = current_watch.get()
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


class UnreadableAnswer(httpx2.StreamError):
    """The answer breaks our rules.  The MCP SDK ends one request for it, and for any other kind a session."""


class _AsyncBody(httpx2.AsyncByteStream):
    def __init__(self, response: httpx2.Response, max_bytes: int | None) -> None:
        self._response = response
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream = self._response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        try:
            room = _Room(self._response, self._max_bytes)
            async for data in stream:
                for part in room.take(data):
                    yield part
        except EgressError as error:
            raise UnreadableAnswer(error.failure.message) from error

    async def aclose(self) -> None:
        await self._response.aclose()


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
            max_connections=CONNECTIONS,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=_Backend(policy, resolver),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        _check_url(request.url)
        response = super().handle_request(request)
        watch = current_watch.get()
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
            max_connections=CONNECTIONS,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=_AsyncBackend(policy, resolver),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        _check_url(request.url)
        response = await super().handle_async_request(request)
        streams = response.headers.get("content-type", "").startswith("text/event-stream")
        return _unpacked(response, _AsyncBody(response, None if streams else RESPONSE_BYTES))


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context(verify=True, trust_env=False)
