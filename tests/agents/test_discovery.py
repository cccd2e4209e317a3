"""What each kind of source lists, and that its agents can be called as it says."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentflow.agents import discovery
from agentflow.agents.calls import Call, CancelToken
from agentflow.agents.discovery import BadDocument, Found, Listing, Place, openapi
from agentflow.agents.invocation import invoke
from agentflow.agents.models import Agent
from agentflow.governance.models import Workspace
from agentflow.integrations.egress import EgressError, EgressPolicy
from agentflow.integrations.http_failures import TimedOut
from tests.servers import Exchange, HttpServer
from tests.waiting import PATIENCE_S

from .conftest import Invoke, failure_of, output_of

pytestmark = pytest.mark.django_db
SECRET = {"Authorization": "Bearer canary"}


@pytest.fixture
def look(server: HttpServer) -> Callable[..., Listing]:
    def looked(kind: str, path: str = "", **fields: Any) -> Listing:
        fields["sent"] = fields.get("headers", {})
        url = server.url(path) if path else ""
        return discovery.look(kind, Place(url=url, policy=EgressPolicy((server.allowed,)), **fields))

    return looked


def reply(answer: Any, exchange: Exchange) -> None:
    exchange.json(answer)


def keep(workspace: Workspace, found: Found, **fields: Any) -> None:
    Agent.objects.create(
        workspace=workspace,
        agent_id="found",
        name=found.name,
        tool_type=found.tool_type,
        configuration=found.configuration,
        input_schema=found.input_schema,
        output_schema=found.output_schema,
        **fields,
    )


# -- OpenAPI -------------------------------------------------------------------

SHOP: dict[str, Any] = {
    "openapi": "3.0.3",
    "servers": [{"url": "/v1"}],
    "paths": {
        "/orders/{id}": {
            "parameters": [{"$ref": "#/components/parameters/id"}],
            "get": {
                "operationId": "getOrder",
                "summary": "An order",
                "tags": ["crm"],
                "parameters": [
                    {"name": "with", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "limit", "in": "query", "schema": {"type": "integer"}},
                ],
                "responses": {
                    "200": {
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}
                    },
                    "404": {"description": "none"},
                },
            },
            "put": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                },
                "responses": {"204": {"description": "done"}},
            },
        },
        "/upload": {"post": {"operationId": "upload", "requestBody": {"content": {"image/png": {}}}}},
        "/signed": {
            "get": {
                "operationId": "signed",
                "parameters": [{"name": "X-Key", "in": "header", "required": True}],
            }
        },
        "/round": {"get": {"operationId": "round", "parameters": [{"$ref": "#/components/parameters/a"}]}},
        "/away": {
            "get": {
                "operationId": "away",
                "parameters": [{"name": "q", "in": "query", "schema": {"$ref": "http://10.0.0.1/s.json"}}],
            }
        },
    },
    "components": {
        "parameters": {
            "id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
            "a": {"$ref": "#/components/parameters/b"},
            "b": {"$ref": "#/components/parameters/a"},
        },
        "schemas": {
            "Order": {
                "type": "object",
                "properties": {
                    "total": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
                    "note": {"type": "string", "nullable": True},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
                },
            }
        },
    },
}


def test_operations_become_agents_that_can_be_called(
    server: HttpServer, look: Callable[..., Listing], workspace: Workspace, call: Invoke
) -> None:
    server.on("/api.json", lambda e: e.json(SHOP))
    listing = look("openapi", "/api.json", headers=SECRET)
    assert [found.key for found in listing.found] == ["getOrder", "PUT /orders/{id}"]
    assert {skipped.key: skipped.code for skipped in listing.skipped} == {
        "upload": "bad_operation",
        "signed": "bad_operation",
        "round": "bad_reference",
        "away": "bad_reference",
    }
    get, put = listing.found
    assert (get.name, get.capabilities) == ("An order", ({"name": "getOrder", "tags": ["crm"]},))
    server.on("/v1/orders/7", lambda e: e.json({"total": 5, "note": None, "parts": [{"total": 1}]}))
    keep(workspace, get)
    assert output_of(call("found", {"id": "7", "with": ["a", "{id}"]})) == {
        "total": 5,
        "note": None,
        "parts": [{"total": 1}],
    }
    seen = server.seen[-1]
    assert seen.path == "/v1/orders/7?with=a&with=%7Bid%7D"
    assert seen.headers["authorization"] == "Bearer canary"
    assert failure_of(call("found", {"limit": 1})).code == "input_schema_mismatch"
    server.on("/v1/orders/7", lambda e: e.json({"total": 5, "parts": [{"total": 0}]}))
    assert failure_of(call("found", {"id": "7"})).code == "output_schema_mismatch"

    Agent.objects.all().delete()
    keep(workspace, put)
    from agentflow.agents import registry

    registry.forget()
    server.on("/v1/orders/7", lambda e: e.reply(b"", 204))
    assert output_of(call("found", {"id": "7", "body": {"total": 3}})) is None
    assert json.loads(server.seen[-1].body) == {"total": 3}


def test_operations_are_chosen_by_name_or_path(server: HttpServer, look: Callable[..., Listing]) -> None:
    server.on("/api.json", lambda e: e.json(SHOP))
    chosen = {"operations": ["PUT /orders/{id}"], "baseUrl": "https://shop.example/v2/"}
    listing = look("openapi", "/api.json", headers=SECRET, configuration=chosen)
    (found,) = listing.found
    assert found.configuration["url"] == "https://shop.example/v2/orders/{id}"
    assert found.configuration["headers"] == {}  # they are for the server of the document
    assert listing.skipped == ()


def test_a_source_is_not_given_secrets_by_naming_them(
    server: HttpServer, look: Callable[..., Listing]
) -> None:
    paths = {
        f"/{{id}}?{word}": {"get": {"operationId": word}}
        for word in ("fine", "${secrets.KEY}", "${secrets.}")
    }
    server.on("/api.json", lambda e: e.json({"openapi": "3.1.0", "paths": paths}))
    listing = look("openapi", "/api.json")
    assert [found.key for found in listing.found] == ["fine"]
    assert {skipped.code for skipped in listing.skipped} == {"secret_not_allowed"}


def test_no_more_of_a_schema_is_rewritten_than_can_be_kept(
    server: HttpServer, look: Callable[..., Listing]
) -> None:
    large = {"enum": ["x" * 1000] * 100, "not": {"$ref": "#/components/schemas/Gone"}}
    answer = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Large"}}}}
    document = {
        "openapi": "3.1.0",
        "paths": {"/large": {"get": {"operationId": "large", "responses": {"200": answer}}}},
        "components": {"schemas": {"Large": large}},
    }
    server.on("/api.json", lambda e: e.json(document))
    assert [(each.key, each.code) for each in look("openapi", "/api.json").skipped] == [
        ("large", "schema_too_large")
    ]


def test_reading_the_operations_ends_in_time_too(server: HttpServer) -> None:
    class Ending(Place):
        __slots__ = ()
        asked: ClassVar[list[float]] = []

        def seconds(self, at_most: float = 20.0) -> float:
            self.asked.append(at_most)
            if len(self.asked) > 3:
                raise TimedOut(1, sent=False)
            return at_most

    server.on("/api.json", lambda e: e.json(SHOP))
    with pytest.raises(TimedOut):
        openapi.look(Ending(url=server.url("/api.json"), policy=EgressPolicy((server.allowed,))))


def test_yaml_is_read_as_plain_json(server: HttpServer, look: Callable[..., Listing]) -> None:
    text = b"openapi: 3.1.0\ninfo: {version: 2024-01-01}\npaths:\n  /a:\n    get: {operationId: a}\n"
    server.on("/api.yaml", lambda e: e.reply(text))
    assert [found.key for found in look("openapi", "/api.yaml").found] == ["a"]


BOMB = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 122))


@pytest.mark.parametrize(
    "text",
    [
        b"swagger: '2.0'",
        b"openapi: 3.0.0",
        b"openapi: 3.0.0\npaths: []",
        BOMB,
        b"- " * 5000 + b"x",
        b"openapi: !!python/object/apply:os.system ['true']",
        b"a: .nan",
        b"a: [",
        b"",
        b"\x00",
    ],
)
def test_what_is_no_document(server: HttpServer, look: Callable[..., Listing], text: bytes) -> None:
    server.on("/api", lambda e: e.reply(text))
    with pytest.raises(BadDocument):
        look("openapi", "/api")


# -- MCP -----------------------------------------------------------------------


def test_tools_of_a_server_become_agents(
    look: Callable[..., Listing], settings: Any, workspace: Workspace, call: Invoke
) -> None:
    command = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]
    settings.AGENTFLOW_MCP_STDIO = {"listed": {"command": command}}
    listing = look("mcp", server="listed")
    found = {each.key: each for each in listing.found}
    assert {"add", "policy", "greet", "fail"} <= found.keys()
    add = found["add"]
    assert (add.description, add.tool_type) == ("The sum.", "MCP")
    assert add.input_schema is not None
    assert set(add.input_schema["required"]) == {"a", "b"}
    assert "annotations" not in add.configuration  # only an operator's word makes a call repeatable
    keep(workspace, add)
    assert output_of(call("found", {"a": 1, "b": 2})) == {"result": 3}
    assert failure_of(call("found", {"a": 1})).code == "input_schema_mismatch"
    with pytest.raises(EgressError, match="none"):
        look("mcp", server="none")


# -- A2A -----------------------------------------------------------------------


class Peer:
    """An A2A agent: a card, and tasks that go through the states they are given."""

    def __init__(self, server: HttpServer, version: str) -> None:
        self.server, self.version = server, version
        self.states: list[str] = ["completed"]
        self.asked: list[dict[str, Any]] = []
        self.methods: list[str] = []
        self.polled = threading.Event()
        server.on("/.well-known/agent-card.json", lambda e: e.json(self.card()))
        server.on("/rpc", self.rpc)

    def card(self) -> dict[str, Any]:
        skill = {"id": "translate", "name": "Translate", "description": "Texts", "tags": ["text"]}
        card: dict[str, Any] = {"name": "Peer", "description": "Helps", "skills": [skill]}
        if self.version == "0.3":
            return {**card, "url": self.server.url("/rpc"), "protocolVersion": "0.3.0"}
        offered = {"url": self.server.url("/rpc"), "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        return {**card, "supportedInterfaces": [{**offered, "protocolBinding": "GRPC"}, offered]}

    def rpc(self, exchange: Exchange) -> None:
        request = json.loads(exchange.body)
        self.asked.append(request)
        self.methods.append(request["method"])
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if len(self.methods) > 2:
            self.polled.set()
        new = self.version == "1.0"
        parts = [{"text": "Bonjour"}, {"data": {"n": 1}}] if new else [{"kind": "text", "text": "Bonjour"}]
        task = {
            "id": "t1",
            "status": {"state": f"TASK_STATE_{state.upper().replace('-', '_')}" if new else state},
            "artifacts": [{"parts": parts}] if state == "completed" else [],
        }
        result = {"task": task} if request["method"] == "SendMessage" else task
        exchange.json({"jsonrpc": "2.0", "id": request["id"], "result": result})


@pytest.fixture(params=["1.0", "0.3"])
def peer(request: pytest.FixtureRequest, server: HttpServer) -> Peer:
    return Peer(server, request.param)


@pytest.fixture
def known(peer: Peer, look: Callable[..., Listing], workspace: Workspace) -> Peer:
    (found,) = look("a2a", "/", headers=SECRET).found
    assert found.capabilities == ({"name": "translate", "description": "Texts", "tags": ["text"]},)
    keep(workspace, found)
    return peer


def test_a_task_is_followed_to_its_end(known: Peer, call: Invoke) -> None:
    known.states = ["submitted", "working", "completed"]
    output: Any = output_of(call("found", {"text": "Hello"}))
    assert (output["state"], output["text"], output["taskId"]) == ("completed", "Bonjour", "t1")
    assert output["data"] == ([{"n": 1}] if known.version == "1.0" else [])
    message = known.asked[0]["params"]["message"]
    assert message["messageId"] == "key-1"
    assert message["parts"][0]["data"] == {"text": "Hello"}
    assert known.server.seen[-1].headers["authorization"] == "Bearer canary"
    names = ["SendMessage", "GetTask"] if known.version == "1.0" else ["message/send", "tasks/get"]
    assert known.methods == [names[0], names[1], names[1]]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("failed", "a2a_failed"),
        ("rejected", "a2a_rejected"),
        ("canceled", "a2a_canceled"),
        ("input-required", "a2a_input_required"),
        ("dreaming", "a2a_bad_answer"),
    ],
)
def test_each_bad_end_has_its_name(known: Peer, call: Invoke, state: str, code: str) -> None:
    known.states = [state]
    assert failure_of(call("found", "Hello")).code == code


def test_nobody_waits_past_the_deadline_and_the_agent_is_told(known: Peer, call: Invoke) -> None:
    known.states = ["working"]
    failure = failure_of(call("found", "Hello", timeout_s=0.4))
    assert (failure.code, failure.outcome_unknown) == ("timeout", True)
    assert known.methods[-1] in {"CancelTask", "tasks/cancel"}


def test_a_cancel_reaches_the_agent(known: Peer, make_call: Callable[..., Call]) -> None:
    known.states = ["working"]
    token = CancelToken()

    def cancel() -> None:
        known.polled.wait(PATIENCE_S)
        token.cancel("stop")

    threading.Thread(target=cancel, daemon=True).start()
    assert failure_of(invoke(make_call("found", "Hello", cancel=token))).code == "cancelled"
    assert known.methods[-1] in {"CancelTask", "tasks/cancel"}


def test_refusals_and_garbage_are_told_apart(known: Peer, call: Invoke) -> None:
    for answer, code in (
        ({"error": {"code": -32602, "message": "no"}}, "a2a_refused"),
        ({"error": {"code": -32603, "message": "broken"}}, "a2a_error"),
        ({"result": 1}, "bad_response"),
        ({"result": {}}, "a2a_bad_answer"),
        ([], "bad_response"),
    ):
        known.server.on("/rpc", partial(reply, answer))
        assert failure_of(call("found", "Hello")).code == code
    known.server.on("/rpc", lambda e: e.reply(b"<html>"))
    assert failure_of(call("found", "Hello")).code == "bad_response"


@pytest.mark.parametrize(
    "card",
    [
        {},
        [],
        {"name": "x"},
        {"name": "x", "url": "file:///etc/passwd"},
        {"name": "x", "supportedInterfaces": [{"url": "http://x", "protocolBinding": "GRPC"}]},
        {"name": "x", "url": "http://x", "skills": "none"},
        {"name": "x", "url": "http://x", "skills": [{"id": "a"}] * 501},
    ],
)
def test_what_is_no_card(server: HttpServer, look: Callable[..., Listing], card: Any) -> None:
    server.on("/.well-known/agent-card.json", lambda e: e.json(card))
    with pytest.raises(BadDocument):
        look("a2a", "/")


def test_a_card_that_points_elsewhere_gets_no_secret(
    server: HttpServer, look: Callable[..., Listing]
) -> None:
    server.on("/.well-known/agent-card.json", lambda e: e.json({"name": "x", "url": "https://thief.example"}))
    (found,) = look("a2a", "/", headers=SECRET).found
    assert found.configuration["headers"] == {}


# -- Agent Service -------------------------------------------------------------


def test_an_agent_of_an_agent_service_is_executed(
    server: HttpServer, workspace: Workspace, call: Invoke
) -> None:
    answers = [{"status": "running"}, {"status": "completed", "output": {"n": 2}}]
    server.on("/agents/a%20b/execute", lambda e: e.json({"status": "started", "executionId": "x/1"}, 202))
    server.on("/executions/x%2F1", lambda e: e.json(answers.pop(0) if len(answers) > 1 else answers[0]))
    found = Found("a b", "A", "AgentService", {"url": server.url(""), "agent": "a b"})
    keep(workspace, found)
    assert output_of(call("found", {"n": 1})) == {"n": 2}
    first = server.seen[0]
    assert json.loads(first.body) == {"input": {"n": 1}, "blockId": "block", "idempotencyKey": "key-1"}
    assert first.headers["idempotency-key"] == "key-1"
    for answer, code in (
        ({"status": "failed", "error": {"message": "no"}}, "agent_service_failed"),
        ({"status": "odd"}, "agent_service_bad_answer"),
        ({"status": "running"}, "agent_service_bad_answer"),
        ("text", "agent_service_bad_answer"),
    ):
        server.on("/agents/a%20b/execute", partial(reply, answer))
        assert failure_of(call("found", {})).code == code


def test_all_requests_of_one_look_share_its_time(server: HttpServer, look: Callable[..., Listing]) -> None:
    server.on("/agents", lambda e: e.json([{"id": "a"}, {"id": "b"}]))
    server.on("/agents/a/capabilities", server.hold)
    with pytest.raises(TimedOut):
        look("agent_service", "/", ends_at=time.monotonic() + 0.3)
    server.on("/agents/a/capabilities", lambda e: e.json([]))
    with pytest.raises(TimedOut):
        look("agent_service", "/", ends_at=time.monotonic())
