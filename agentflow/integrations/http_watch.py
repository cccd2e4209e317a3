"""One exchange's deadline, room and cancel, whichever library makes it: it belongs to the calling thread."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ..conf import MB
from . import waiting
from .egress import EgressError, EgressRefused
from .http_failures import BadResponse, CallCancelled, ConnectFailed, ConnectionLost, TimedOut, TlsFailed

RESPONSE_BYTES = 8 * MB
OnCancel = Callable[[Callable[[], None]], None]

# What the calling thread's exchange may still use.  The transports read it, because httpx2 has neither a
# total deadline nor a way to stop a read from another thread.
current_watch: ContextVar[Watch | None] = ContextVar("agentflow_http_watch", default=None)


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
    token = current_watch.set(watch)
    try:
        with waiting.outside():
            yield watch
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise translated(error, watch) from error
    finally:
        current_watch.reset(token)
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
