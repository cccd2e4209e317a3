"""What an API agent may say of its calls: who calls, what of the answer counts, pages, and statuses."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from agentflow.agents.invocation import api_auth
from agentflow.governance.models import Workspace
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from tests.factories.agents import AgentFactory
from tests.factories.governance import client_of, member
from tests.servers import Exchange, HttpServer

from .conftest import Invoke, failure_of, output_of
from .test_secrets import keep

SECRET = "canary/0123456789"
OAUTH: JSONObject = {"type": "oauth2", "clientId": "me", "clientSecret": "${secrets.KEY}", "scope": "read"}


@pytest.fixture(autouse=True)
def _no_tokens() -> Iterator[None]:
    api_auth.forget_tokens()
    yield
    api_auth.forget_tokens()


@pytest.fixture
def agent(workspace: Workspace, server: HttpServer) -> Callable[..., None]:
    keep(workspace, value=SECRET)

    def made(**configuration: Any) -> None:
        configuration = {"url": server.url("/"), **configuration}
        AgentFactory.create(workspace=workspace, agent_id="api", configuration=configuration)

    return made


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "header", "name": "X-Key", "value": "k ${secrets.KEY}"}, "x-key", f"k {SECRET}"),
        ({"type": "bearer", "token": "${secrets.KEY}"}, "authorization", f"Bearer {SECRET}"),
        (
            {"type": "basic", "username": "me", "password": "${secrets.KEY}"},
            "authorization",
            "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode(),
        ),
    ],
)
def test_the_agents_word_for_who_calls_wins(
    call: Invoke, server: HttpServer, agent: Callable[..., None], auth: Any, header: str, value: str
) -> None:
    server.on("/", lambda exchange: exchange.json(dict(exchange.headers)))
    agent(auth=auth)
    of_block = {"auth": {"type": "bearer", "token": "other"}, "headers": {header: "other"}}
    output = output_of(call("api", configuration=of_block))
    assert server.seen[0].headers[header] == value
    assert SECRET not in json.dumps(output)
    assert base64.b64encode(f"me:{SECRET}".encode()).decode()[4:-2] not in json.dumps(output)


def token_server(server: HttpServer, **answer: Any) -> list[Exchange]:
    """Gives out token-1, token-2, ...; the last is good."""
    asked: list[Exchange] = []
    lock = threading.Lock()

    def give(exchange: Exchange) -> None:
        with lock:
            asked.append(exchange)
            token = f"token-canary-{len(asked)}"
        exchange.json({"access_token": token, "token_type": "Bearer", "expires_in": 3600, **answer})

    def guarded(exchange: Exchange) -> None:
        if exchange.headers.get("authorization") == f"Bearer token-canary-{len(asked)}":
            exchange.json({"with": exchange.headers["authorization"]})
        else:
            exchange.reply(b"who?", 401)

    server.on("/token", give)
    server.on("/", guarded)
    return asked


def test_a_token_is_fetched_once_for_many_calls_and_never_shown(
    call: Invoke, server: HttpServer, agent: Callable[..., None]
) -> None:
    asked = token_server(server)
    agent(auth={**OAUTH, "tokenUrl": server.url("/token")})
    assert output_of(call("api")) == {"with": "Bearer ********"}
    assert output_of(call("api")) == {"with": "Bearer ********"}
    (exchange,) = asked
    assert exchange.body == b"grant_type=client_credentials&scope=read"
    assert base64.b64decode(exchange.headers["authorization"][6:]) == b"me:canary%2F0123456789"


def test_threads_wait_for_one_token(workspace: Workspace, server: HttpServer, call: Invoke) -> None:
    asked = token_server(server)
    from agentflow.integrations.egress import EgressPolicy

    auth = {**OAUTH, "clientSecret": SECRET, "tokenUrl": server.url("/token")}

    def headers(_: int) -> dict[str, str]:
        return api_auth.access(
            auth,
            workspace_id=workspace.pk,
            policy=EgressPolicy((server.allowed,)),
            timeout_s=5,
            on_cancel=None,
            hide=lambda token: None,
        ).headers

    with ThreadPoolExecutor(8) as threads:
        assert {each["authorization"] for each in threads.map(headers, range(16))} == {
            "Bearer token-canary-1"
        }
    assert len(asked) == 1


def test_a_refused_token_is_fetched_anew_once(
    call: Invoke, server: HttpServer, agent: Callable[..., None]
) -> None:
    asked = token_server(server)
    agent(auth={**OAUTH, "tokenUrl": server.url("/token"), "clientAuth": "body"})
    output_of(call("api"))
    assert b"client_secret=canary%2F0123456789" in asked[0].body
    asked.append(asked[0])  # the server has forgotten token 1
    assert output_of(call("api")) == {"with": "Bearer ********"}
    server.on("/", lambda exchange: exchange.reply(b"never", 401))
    before = len(asked)
    failure = failure_of(call("api"))
    assert (failure.code, failure.outcome_unknown) == ("http_401", False)
    assert len(asked) == before + 1


def test_a_token_that_ends_soon_is_not_kept_beyond(
    call: Invoke, server: HttpServer, agent: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = token_server(server, expires_in=100)
    agent(auth={**OAUTH, "tokenUrl": server.url("/token")})
    output_of(call("api"))
    for kept in api_auth._tokens.values():
        assert 60 < kept.until - time.monotonic() <= 70
        kept.until = 0
    output_of(call("api"))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, b'{"error": "invalid_client", "echo": "canary/0123456789"}', "configuration", "http_400"),
        (503, b"busy", "transient", "http_503"),
        (200, b"<html>", "agent", "bad_token"),
        (200, b'{"access_token": "a\\nb"}', "agent", "bad_token"),
        (200, b'{"access_token": "abc", "token_type": "mac"}', "agent", "bad_token"),
        (200, b"[1]", "agent", "bad_token"),
        (200, b"x" * 70_000, "agent", "response_too_large"),
    ],
)
def test_without_a_token_nothing_is_called(
    call: Invoke,
    server: HttpServer,
    agent: Callable[..., None],
    status: int,
    body: bytes,
    kind: str,
    code: str,
) -> None:
    server.on("/token", lambda exchange: exchange.reply(body, status))
    agent(auth={**OAUTH, "tokenUrl": server.url("/token")}, method="POST")
    failure = failure_of(call("api"))
    assert (failure.kind, failure.code, failure.outcome_unknown) == (kind, code, False)
    assert "canary" not in json.dumps(failure.as_json())
    assert [seen.path for seen in server.seen] == ["/token"]


def test_a_token_server_inside_is_not_reached(
    call: Invoke, server: HttpServer, agent: Callable[..., None]
) -> None:
    agent(auth={**OAUTH, "tokenUrl": "http://127.0.0.1:9/token"})
    assert failure_of(call("api")).code == "egress_refused"


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ({"pointer": "/data/items/1/a~1b"}, 2),
        ({"pointer": ""}, {"data": {"items": [{}, {"a/b": 2}]}}),
        ({"select": "response.data.items.size() + status"}, 202),
        ({"select": "response.nothing"}, "response_path_missing"),
        ({"pointer": "/data/gone"}, "response_path_missing"),
        ({"select": "1 +"}, "bad_configuration"),
    ],
)
def test_a_part_of_the_answer_is_chosen(call: Invoke, server: HttpServer, response: Any, wanted: Any) -> None:
    server.on("/", lambda exchange: exchange.json({"data": {"items": [{}, {"a/b": 2}]}}))
    outcome = call(None, tool_type="API", configuration={"url": server.url("/"), "response": response})
    if isinstance(wanted, str):
        assert failure_of(outcome).code == wanted
    else:
        assert output_of(outcome) == wanted


# -- pages -------------------------------------------------------------------------

PAGES = [[1, 2], [3, 4], [5]]


def numbered(exchange: Exchange) -> None:
    from urllib.parse import parse_qs, urlsplit

    number = int(parse_qs(urlsplit(exchange.path).query)["p"][0])
    exchange.json({"items": PAGES[number] if number < len(PAGES) else []})


def with_cursor(exchange: Exchange) -> None:
    number = int(exchange.path.partition("after=")[2] or 0)
    following = number + 1 if number + 1 < len(PAGES) else None
    exchange.json({"items": PAGES[number], "meta": {"next": following}})


def linked(exchange: Exchange) -> None:
    number = int(exchange.path.partition("n=")[2] or 0)
    link = f'</?n={number + 1}>; title="a, b"; rel="next last", </?n=0>; rel="first"'
    if number + 1 < len(PAGES):
        exchange.json({"items": PAGES[number]}, link=link)
    else:
        exchange.json({"items": PAGES[number]})


def paged(server: HttpServer, respond: Callable[[Exchange], None], **rule: Any) -> JSONObject:
    server.on("/", respond)
    rule = {"items": "/items", "maxPages": 10, **rule}
    return {"tool_type": "API", "configuration": {"url": server.url("/"), "pagination": rule}}


BY_PAGE = {"type": "page", "parameter": "p", "start": 0}
LINKS = {"type": "link", "items": ""}
BY_CURSOR = {"type": "cursor", "parameter": "after", "next": "/meta/next"}


@pytest.mark.parametrize(
    ("respond", "rule"), [(numbered, BY_PAGE), (with_cursor, BY_CURSOR), (linked, {"type": "link"})]
)
def test_pages_are_put_together(
    call: Invoke, server: HttpServer, respond: Callable[[Exchange], None], rule: Any
) -> None:
    assert output_of(call(None, **paged(server, respond, **rule))) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("respond", "rule", "code"),
    [
        (numbered, {**BY_PAGE, "maxPages": 2}, "too_many_pages"),
        (lambda e: e.json({"items": [1], "meta": {"next": "same"}}), BY_CURSOR, "pages_repeat"),
        (lambda e: e.json({"items": [1]}, link="<http://127.0.0.1:1/>; rel=next"), {"type": "link"},
         "pages_lead_elsewhere"),
        (lambda e: e.json({"other": 1}), BY_PAGE, "response_path_missing"),
        (lambda e: e.json({"items": ["x" * 3_000_000]}), BY_PAGE, "response_too_large"),
        (numbered, {"type": "link", "maxPages": 0}, "bad_configuration"),
    ],
)  # fmt: skip
def test_part_of_a_list_is_no_list(
    call: Invoke, server: HttpServer, respond: Callable[[Exchange], None], rule: Any, code: str
) -> None:
    assert failure_of(call(None, **paged(server, respond, **rule))).code == code


# -- what a status means -------------------------------------------------------------


def test_the_agents_table_says_what_a_status_means(call: Invoke, server: HttpServer) -> None:
    table = {"404": "agent", "409": "transient", "5xx": "critical", "503": "transient"}
    configuration = {"url": server.url("/"), "failures": table}
    for status, kind, wait in ((404, "agent", None), (409, "transient", 7.0), (500, "critical", None),
                               (503, "transient", 7.0), (403, "configuration", None)):  # fmt: skip
        server.on("/", partial(Exchange.reply, status=status, retry_after="7"))
        failure = failure_of(call(None, tool_type="API", configuration=configuration))
        assert (failure.kind, failure.code, failure.retry_after_s) == (kind, f"http_{status}", wait)


def test_the_idempotency_key_travels_under_the_name_the_other_side_knows(
    call: Invoke, server: HttpServer
) -> None:
    server.on("/", lambda exchange: exchange.json(1))
    configuration = {"url": server.url("/"), "idempotencyHeader": "X-Request-Id"}
    call(None, tool_type="API", configuration=configuration)
    assert server.seen[0].headers["x-request-id"] == "key-1"
    assert "idempotency-key" not in server.seen[0].headers


@pytest.mark.parametrize(
    ("configuration", "pointer", "code"),
    [
        ({"method": "TRACE"}, "/method", "bad_value"),
        ({"query": []}, "/query", "wrong_type"),
        ({"bodyType": "xml"}, "/bodyType", "bad_value"),
        ({"successStatuses": ["404"]}, "/successStatuses", "wrong_type"),
        ({"auth": {"type": "ntlm"}}, "/auth/type", "bad_value"),
        ({"auth": {"type": "bearer", "token": "clear"}}, "/auth/token", "secret_in_clear"),
        ({"auth": {"type": "bearer"}}, "/auth/token", "required"),
        ({"auth": {"type": "bearer", "token": "${secrets.A}", "x": 1}}, "/auth/x", "unknown_field"),
        ({"auth": {**OAUTH, "tokenUrl": "ftp://a.example"}}, "/auth/tokenUrl", "bad_address"),
        ({"auth": {"type": "header", "name": "Host", "value": "${secrets.A}"}}, "/auth/name", "bad_value"),
        ({"response": {"pointer": "data"}}, "/response/pointer", "bad_pointer"),
        ({"response": {"select": "input.a"}}, "/response/select", "unknown_name"),
        ({"response": {"path": "a", "pointer": "/a"}}, "/response", "ambiguous"),
        ({"pagination": {"type": "page", "items": "", "maxPages": 5}}, "/pagination/parameter", "required"),
        ({"pagination": {**BY_PAGE, "items": "", "maxPages": 0}}, "/pagination/maxPages", "bad_value"),
        ({"method": "PUT", "pagination": {**LINKS, "maxPages": 5}}, "/method", "bad_value"),
        ({"failures": {"999": "agent"}}, "/failures/999", "bad_name"),
        ({"failures": {"404": "fatal"}}, "/failures/404", "bad_value"),
        ({"idempotencyHeader": "X A"}, "/idempotencyHeader", "bad_value"),
        ({"verify": False}, "/verify", "unknown_field"),
    ],
)  # fmt: skip
def test_what_cannot_be_registered_is_pointed_at(
    workspace: Workspace, configuration: JSONObject, pointer: str, code: str
) -> None:
    configuration = {"url": "https://api.example/", **configuration}
    sent = {"agentId": "a", "name": "A", "toolType": "API", "configuration": configuration}
    refused = client_of(member(workspace, Role.OPERATOR)).post("/api/v1/agents", sent, format="json")
    found = [(issue["pointer"], issue["code"]) for issue in refused.json()["issues"]]
    assert found == [(f"/configuration{pointer}", code)]


def test_a_misspelt_field_names_the_right_one_and_what_was_stored_goes_on(
    workspace: Workspace, server: HttpServer, call: Invoke
) -> None:
    client = client_of(member(workspace, Role.OPERATOR))
    misspelt = {"url": "https://a.example/", "succesStatuses": [404]}
    sent = {"agentId": "a", "name": "A", "toolType": "API", "configuration": misspelt}
    refused = client.post("/api/v1/agents", sent, format="json")
    issue = refused.json()["issues"][0]
    assert (refused.status_code, issue["code"]) == (400, "unknown_field")
    assert issue["remedy"] == "Write 'successStatuses'."
    old = {"url": server.url("/"), "retries": 3}
    stored = AgentFactory.create(workspace=workspace, agent_id="old", configuration=old)
    server.on("/", lambda exchange: exchange.json(1))
    assert output_of(call("old")) == 1
    address = f"/api/v1/agents/{stored.pk}"
    assert client.patch(address, {"name": "Old"}, format="json").status_code == 200
    changed = client.patch(address, {"configuration": {**old, "retries": 4}}, format="json")
    assert changed.json()["issues"][0]["pointer"] == "/configuration/retries"
