"""How a request enters, as a server meets it: its thread, and the limit of its body."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from asgiref.testing import ApplicationCommunicator
from django.core.signals import request_started

from agentflow.api.asgi import BodyLimit, OneThread

LIMIT = 1000


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    declared = dict(scope["headers"])[b"content-length"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{declared.decode()} {len(body)}".encode()})


async def answer(chunks: list[bytes], headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    client = ApplicationCommunicator(BodyLimit(echo, LIMIT), {"type": "http", "headers": headers})
    for index, chunk in enumerate(chunks):
        more = index + 1 < len(chunks)
        await client.send_input({"type": "http.request", "body": chunk, "more_body": more})
    start = await client.receive_output(5)
    body = await client.receive_output(5)
    return start["status"], body["body"]


CHUNKED = [(b"transfer-encoding", b"chunked")]


async def test_a_chunked_body_arrives_whole_and_declared() -> None:
    assert await answer([b"x" * 400, b"y" * 600], CHUNKED) == (200, b"1000 1000")


async def test_a_chunked_body_is_cut_off_where_it_goes_too_far() -> None:
    status, body = await answer([b"x" * 400] * 3 + [b"never read"], CHUNKED)
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")


async def test_a_body_declared_too_large_is_refused_before_it_is_read() -> None:
    status, body = await answer([], [(b"content-length", b"52428800")])
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")


async def test_a_length_that_is_none_is_refused() -> None:
    for length in (b"-5", b"1e3", b"9" * 40, b""):
        assert (await answer([b""], [(b"content-length", length)]))[0] == 400


async def get(path: str) -> int:
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    client = ApplicationCommunicator(OneThread(), scope)
    await client.send_input({"type": "http.request"})
    start = await client.receive_output(5)
    await client.receive_output(5)
    await client.wait()
    return int(start["status"])


async def test_a_request_is_brought_to_its_thread_once_and_before_and_after_it_by_signals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brought = []
    call = SyncToAsync.__call__

    async def note(self: Any, *args: Any, **more: Any) -> Any:
        brought.append(self.func)
        return await call(self, *args, **more)

    monkeypatch.setattr(SyncToAsync, "__call__", note)
    assert await get("/health") == 200
    assert len(brought) <= 3, brought


async def test_a_thread_serves_one_request_after_the_other() -> None:
    served: list[int] = []

    def note(**kwargs: Any) -> None:
        served.append(threading.get_ident())

    request_started.connect(note)
    try:
        for _ in range(5):
            assert await get("/health") == 200
    finally:
        request_started.disconnect(note)
    assert len(set(served)) <= 2  # the next may come before the thread says that it is free
