"""How a request enters: in one thread, and with bounds on its body that hold before any of it is kept."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponseBase

from ..conf import LIMITS
from . import problems

Scope: TypeAlias = dict[str, Any]
Message: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


THREADS_KEPT = 64
_idle: deque[ThreadPoolExecutor] = deque()


class OneThread(ASGIHandler):
    """Django's entry, with all middleware and the view called in the request's thread at once.

    As Django has it, each hook of each middleware that could be asynchronous is brought to the thread by
    itself, which costs more than all that they do, and each request begins a thread anew.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        thread = _idle.pop() if _idle else ThreadPoolExecutor(1, thread_name_prefix="request")
        try:
            async with ThreadSensitiveContext(executor=thread):
                await self.handle(scope, receive, send)
        finally:
            if len(_idle) < THREADS_KEPT:
                thread.submit(_idle.append, thread)  # by itself: it may still work for a client that hung up
            else:
                thread.shutdown(wait=False)

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)


class BodyLimit:
    """Refuses a body above `limit` bytes with 413, by its declared length or while it arrives.

    Django spools a request to disk before any view runs, so a limit in a view comes too late.  A
    chunked body is gathered here and its length declared, because DRF takes a body of no declared
    length for an empty one.  Narrower limits are the parser's.
    """

    def __init__(self, application: Application, limit: int = LIMITS.template_body_bytes) -> None:
        self.application = application
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        headers = dict(scope.get("headers", []))
        declared = headers.get(b"content-length")
        if declared is not None:
            if not declared.isdigit() or len(declared) > 18:
                await self._refuse(send, 400, "bad_request", "Content-Length is not a number.")
                return
            if int(declared) > self.limit:
                await self._too_large(send)
                return
            await self.application(scope, receive, send)  # servers hold a body to its declared length
            return
        if b"transfer-encoding" not in headers:
            await self.application(scope, receive, send)
            return
        body = await self._gather(receive)
        if body is None:
            await self._too_large(send)
            return
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name != b"transfer-encoding"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.application(scope, _Replay(body, receive), send)

    async def _gather(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self.limit:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _too_large(self, send: Send) -> None:
        await self._refuse(
            send, 413, "body_too_large", f"The body is larger than the {self.limit} bytes allowed here."
        )

    async def _refuse(self, send: Send, status: int, code: str, detail: str) -> None:
        body = json.dumps(problems.problem(status, code, detail)).encode()
        headers = [
            (b"content-type", problems.CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # the rest of the body is not read
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Replay:
    """A gathered body as one message; what comes after it comes from the client again."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}
