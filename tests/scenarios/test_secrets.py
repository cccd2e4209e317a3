"""A canary goes through every kind of call that brings it back, and is then looked for everywhere."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.conf import settings
from django.db import connection
from websockets.exceptions import ConnectionClosed

from agentflow.agents.models import Script
from agentflow.governance.models import Workspace
from tests.llm import completion
from tests.outside import Client, make_client
from tests.scenarios.agents import template
from tests.servers import Exchange, HttpServer
from tests.service import Service, free_port
from tests.waiting import until

CANARY = 'can-ary/"4f9+a1'
MCP_SERVER = Path(__file__).parents[1] / "agents" / "mcp_server.py"
FORMS = {
    form
    for text in (CANARY, json.dumps(CANARY)[1:-1])
    for form in (
        text,
        json.dumps(text)[1:-1],
        quote(text, safe=""),
        quote(text),
        base64.b64encode(text.encode()).decode()[:-2],
        base64.b64encode(f"me:{text}".encode()).decode()[4:-2],
    )
}
SCRIPT = """
import base64, json, os, sys
key = os.environ["KEY"]
print("the key is", key, file=sys.stderr)
print(json.dumps({key: [key, base64.b64encode(key.encode()).decode()]}))
"""


@pytest.fixture
def mcp_port() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(MCP_SERVER), "--http", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def test_a_secret_is_nowhere_but_sealed(service: Service, server: HttpServer, mcp_port: int) -> None:
    client = make_client(service, egress_allow=[server.allowed, f"127.0.0.1:{mcp_port}"])
    set_up(client, server, mcp_port)
    names = ["api", "script", "mcp", "llm", "refused", "late"]
    heard: list[str] = []
    execution_id = client.run(template(*({"blockId": name, "agentId": name} for name in names)))
    threading.Thread(target=listen, args=(client, execution_id, heard), daemon=True).start()
    called = {"completed", "failed", "waiting_human"}
    until(lambda: set(client.statuses(execution_id).values()) <= called, why="all to be called")

    blocks_now = client.blocks(execution_id)
    for name in ("api", "script", "mcp", "llm", "late"):
        assert "********" in json.dumps(blocks_now[name]["output"]), name
    until(lambda: any("********" in line for line in heard), why="the socket to tell of it")
    assert "********" in json.dumps(client.block(execution_id, "refused"))
    answers = [
        client.get(path)
        for path in (
            f"/executions/{execution_id}",
            f"/executions/{execution_id}/logs?limit=500",
            f"/executions/{execution_id}/explain",
            f"/executions/{execution_id}/history",
            "/secrets",
            "/agents",
            *(f"/executions/{execution_id}/blocks/{name}" for name in names),
        )
        if client.call("GET", path).status == 200
    ]
    logs = [child.log.read_text(errors="replace") for child in service.children.values()]
    places = {
        "REST": json.dumps(answers, ensure_ascii=False),
        "WebSocket": "\n".join(heard),
        "logs": "\n".join(logs),
        "database": database(),
        "Valkey": valkey(),
    }
    assert all(places.values())
    hits = {(place, form) for place, text in places.items() for form in FORMS if form in text}
    assert hits == set()
    seen = [exchange for exchange in server.seen if CANARY in exchange.body.decode() + str(exchange.headers)]
    assert seen, "the servers were sent nothing: the test proves nothing"


def set_up(client: Client, server: HttpServer, mcp_port: int) -> None:
    workspace: Workspace = client.workspace
    assert client.call("PUT", "/secrets/CANARY", {"value": CANARY}).status == 201
    script = Script.objects.create(workspace=workspace, name="tells", source=SCRIPT)
    server.on("/api", echo)
    server.on("/refused", lambda exchange: exchange.reply(b"x" * 480 + echoed(exchange), 418))
    server.on("/v1/chat/completions", tell)
    reference = "${secrets.CANARY}"
    given = {"method": "POST", "body": {"key": reference}, "headers": {"X-Api-Key": reference}}
    for name, tool_type, configuration in (
        ("api", "API", {"url": server.url("/api"), "query": {"k": reference}, **given}),
        ("refused", "API", {"url": server.url("/refused"), **given}),
        ("late", "API", {"url": server.url("/late"), "callback": {"timeout": 60_000}, **given}),
        ("script", "Script", {"script": script.name, "environment": {"KEY": reference}}),
        (
            "mcp",
            "MCP",
            {"url": f"http://127.0.0.1:{mcp_port}/mcp", "tool": "greet", "arguments": {"name": reference}},
        ),
        (
            "llm",
            "LLM",
            {"baseUrl": server.url("/v1"), "apiKey": reference, "model": "small", "prompt": "Which key?"},
        ),
    ):
        fields = {"agentId": name, "name": name, "toolType": tool_type, "configuration": configuration}
        client.post("/agents", {**fields, "workspaceId": str(workspace.pk)})
    server.on("/late", bring)


def echoed(exchange: Exchange) -> bytes:
    key = exchange.headers.get("x-api-key", "")
    told = [
        key,
        base64.b64encode(f"me:{key}".encode()).decode(),
        quote(key),
        exchange.path,
        exchange.body.decode(),
    ]
    return json.dumps(told).encode()


def echo(exchange: Exchange) -> None:
    exchange.reply(echoed(exchange), content_type="application/json")


def tell(exchange: Exchange) -> None:
    exchange.json(completion("It is " + exchange.headers["authorization"]))


def bring(exchange: Exchange) -> None:
    brought = {"output": {"late": echoed(exchange).decode()}}
    request = urllib.request.Request(
        exchange.headers["callback-url"],
        json.dumps(brought).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    urllib.request.urlopen(request, timeout=30).close()
    exchange.reply(status=202)


def listen(client: Client, execution_id: str, heard: list[str]) -> None:
    path = f"/ws/executions/{execution_id}"
    with contextlib.suppress(ConnectionClosed), client.socket(path, cursor="0-0") as socket:
        heard.extend(str(message) for message in socket)


def database() -> str:
    """Every row of every table, as text."""
    found: list[str] = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            found.extend(row[0] for row in cursor.fetchall())
            cursor.execute(f'SELECT row_to_json(t)::text FROM "{table}" t')
            found.extend(row[0] for row in cursor.fetchall())
    return "\n".join(found)


def valkey() -> str:
    found: list[Any] = []
    assert settings.TEST_ENGINES is not None
    for number in settings.REDIS_DATABASES.values():
        store = redis.Redis(unix_socket_path=str(settings.TEST_ENGINES.valkey_socket), db=number)
        found.extend((key, store.dump(key)) for key in store.scan_iter())
    return str(found)
