"""The body limit as a server meets it, before Django."""

from __future__ import annotations

import json
from typing import Any

from asgiref.testing import ApplicationCommunicator

from agentflow.api.asgi import BodyLimit

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
