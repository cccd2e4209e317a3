from __future__ import annotations

import json

import pytest

from agentflow.agents.calls import AwaitCallback
from agentflow.conf import LIMITS
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject
from tests.factories.agents import AgentFactory
from tests.servers import Exchange, HttpServer

from .conftest import Invoke, failure_of, output_of


def api(server: HttpServer, **configuration: object) -> JSONObject:
    return {"tool_type": "API", "configuration": {"url": server.url("/"), **configuration}}


def test_a_request_is_made_from_the_input(call: Invoke, server: HttpServer) -> None:
    server.on("/orders/a%2Fb", lambda exchange: exchange.json({"data": {"items": [1, 2]}}))
    outcome = call(
        None,
        {"order": {"id": "a/b"}, "lang": "de&x=1", "n": 3},
        **api(
            server,
            url=server.url("/orders/{order.id}?lang={lang}"),
            method="POST",
            query={"n": "{n}", "tag": ["a", "b"]},
            headers={"X-Team": "refunds"},
            response={"path": "data.items"},
        ),
    )
    assert output_of(outcome) == [1, 2]
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/orders/a%2Fb?lang=de%26x%3D1&n=3&tag=a&tag=b")
    assert seen.headers["idempotency-key"] == "key-1"
    assert seen.headers["x-team"] == "refunds"
    assert json.loads(seen.body) == {"order": {"id": "a/b"}, "lang": "de&x=1", "n": 3}


def test_a_get_sends_no_body(call: Invoke, server: HttpServer) -> None:
    server.on("/", lambda exchange: exchange.json(1))
    assert output_of(call(None, {"a": 1}, **api(server))) == 1
    assert server.seen[0].body == b""


@pytest.mark.parametrize(
    ("body_type", "body", "sent", "content_type"),
    [
        ("json", {"a": "é"}, '{"a": "é"}'.encode(), "application/json"),
        ("form", {"a": "b c", "n": 1}, b"a=b+c&n=1", "application/x-www-form-urlencoded"),
        ("text", "hällo", "hällo".encode(), "text/plain; charset=utf-8"),
    ],
)
def test_bodies(
    call: Invoke, server: HttpServer, body_type: str, body: object, sent: bytes, content_type: str
) -> None:
    server.on("/", lambda exchange: exchange.reply(status=204))
    assert output_of(call(None, **api(server, method="PUT", bodyType=body_type, body=body))) is None
    assert (server.seen[0].body, server.seen[0].headers["content-type"]) == (sent, content_type)


@pytest.mark.parametrize(
    ("configuration", "code"),
    [
        ({"url": ""}, "bad_configuration"),
        ({"url": 3}, "bad_configuration"),
        ({"url": "/relative"}, "bad_configuration"),
        ({"url": "http://{host}/"}, "bad_configuration"),
        ({"url": "http://x.example/{missing}"}, "missing_input"),
        ({"url": "http://x.example/{up}/admin"}, "bad_url_value"),
        ({"url": "http://x.example/{obj}"}, "bad_url_value"),
        ({"method": "TRACE"}, "bad_configuration"),
        ({"headers": {"Host": "bank.example"}}, "bad_configuration"),
        ({"headers": {"Idempotency-Key": "mine"}}, "bad_configuration"),
        ({"headers": {"X-A": "b\r\nX-Evil: 1"}}, "bad_configuration"),
        ({"headers": {"X A": "b"}}, "bad_configuration"),
        ({"headers": ["a"]}, "bad_configuration"),
        ({"method": "POST", "bodyType": "xml"}, "bad_configuration"),
        ({"callback": True}, "bad_configuration"),
        ({"callback": []}, "bad_configuration"),
        ({"callback": {"timeout": 0}}, "bad_configuration"),
        ({"callback": {"timeout": True}}, "bad_configuration"),
        ({"callback": {"timeout": "60000"}}, "bad_configuration"),
        ({"callback": {"timeout": 6e4}}, "bad_configuration"),
        ({"callback": {"timeout": 366 * 86_400_000 + 1}}, "bad_configuration"),
        ({"callback": {"url": "https://evil.example/"}}, "bad_configuration"),
        ({"callback": {}}, "no_base_url"),
        ({"method": "POST", "bodyType": "form", "body": [1]}, "bad_configuration"),
        ({"url": "http://10.0.0.1/"}, "egress_refused"),
        ({"url": "http://localhost/"}, "egress_refused"),
    ],
)
def test_what_makes_no_request(
    call: Invoke, server: HttpServer, configuration: JSONObject, code: str
) -> None:
    outcome = call(None, {"up": "..", "obj": {}}, **api(server, **configuration))
    failure = failure_of(outcome)
    assert (failure.kind, failure.code) == ("configuration", code)
    assert server.seen == []


def test_a_header_of_the_authors_does_not_name_the_callback(call: Invoke, server: HttpServer) -> None:
    configuration = {"callback": {}, "headers": {"Callback-URL": "https://evil.example/"}}
    outcome = call(None, callback_url=lambda: "https://flow.example/c", **api(server, **configuration))
    assert failure_of(outcome).code == "bad_configuration"


def test_a_call_that_may_be_answered_later_tells_where(call: Invoke, server: HttpServer) -> None:
    server.on("/", lambda exchange: exchange.reply(status=202))
    configuration = {"callback": {"timeout": 1500}, "query": {"to": "{callbackUrl}"}}
    outcome = call(None, callback_url=lambda: "https://flow.example/c", **api(server, **configuration))
    assert outcome == AwaitCallback(1.5)
    assert server.seen[0].headers["callback-url"] == "https://flow.example/c"
    assert server.seen[0].path == "/?to=https%3A%2F%2Fflow.example%2Fc"


def test_another_port_of_an_allowed_host_is_refused(call: Invoke, server: HttpServer) -> None:
    failure = failure_of(call(None, **api(server, url=f"http://127.0.0.1:{server.port - 1}/")))
    assert failure.code == "egress_refused"


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"<html>oops", "application/json", "response_not_json"),
        (b"\xff\xfe\x00", "application/json", "response_not_json"),
        (b"[" * 100_000, "application/json", "response_not_json"),
        (b"\x00\x01", "application/octet-stream", "response_not_json"),
        (b"\x89PNG", "image/png", "response_not_json"),
        (b"{}", "", "response_not_json"),
        (b"[NaN]", "application/json", "output_not_json"),
        (b'"' + b"x" * LIMITS.blob_bytes + b'"', "application/json", "response_too_large"),
        (b"[" * 70 + b"]" * 70, "application/json", "output_too_deep"),
    ],
)
def test_garbage_is_a_failure_with_a_name(
    call: Invoke, server: HttpServer, body: bytes, content_type: str, code: str
) -> None:
    server.on("/", lambda exchange: exchange.reply(body, content_type=content_type))
    assert failure_of(call(None, **api(server))).code == code


def test_nul_in_an_answer_becomes_a_replacement_character(call: Invoke, server: HttpServer) -> None:
    server.on(
        "/", lambda exchange: exchange.reply(rb'{"a": "x\u0000\ud800"}', content_type="application/json")
    )
    assert output_of(call(None, **api(server))) == {"a": "x\ufffd\ufffd"}


def test_text_is_read_in_its_charset(call: Invoke, server: HttpServer) -> None:
    server.on("/", lambda exchange: exchange.reply(b"caf\xe9", content_type="text/plain; charset=latin-1"))
    server.on("/odd", lambda exchange: exchange.reply(b"cafe", content_type="text/plain; charset=rot13"))
    assert output_of(call(None, **api(server))) == "café"
    assert output_of(call(None, **api(server, url=server.url("/odd")))) == "cafe"


def test_a_busy_server_says_when_to_come_back(call: Invoke, server: HttpServer) -> None:
    server.on("/", lambda exchange: exchange.reply(b"busy \x00", 429, retry_after="7"))
    failure = failure_of(call(None, **api(server)))
    assert (failure.kind, failure.code, failure.retry_after_s) == ("transient", "http_429", 7)
    assert failure.evidence == {"status": 429, "body": "busy \ufffd"}


def test_a_status_may_be_declared_good(call: Invoke, server: HttpServer) -> None:
    server.on("/", lambda exchange: exchange.json({"found": False}, 404))
    assert failure_of(call(None, **api(server))).code == "http_404"
    assert output_of(call(None, **api(server, successStatuses=[404]))) == {"found": False}


def test_an_effect_whose_answer_is_lost_is_an_unknown_outcome(call: Invoke, server: HttpServer) -> None:
    server.on("/", Exchange.drop)
    failure = failure_of(call(None, {}, **api(server, method="POST")))
    assert (failure.kind, failure.outcome_unknown) == ("transient", True)


def test_an_agents_secret_goes_to_the_agents_address_only(
    call: Invoke, server: HttpServer, workspace: Workspace
) -> None:
    server.on("/mine", lambda exchange: exchange.json(1))
    AgentFactory.create(
        workspace=workspace,
        agent_id="bank",
        configuration={"url": server.url("/mine"), "headers": {"Authorization": "Bearer canary"}},
    )
    stolen = {"url": server.url("/theirs"), "headers": {"authorization": "x"}}
    assert output_of(call("bank", configuration=stolen)) == 1
    assert [(seen.path, seen.headers["authorization"]) for seen in server.seen] == [
        ("/mine", "Bearer canary")
    ]


def test_the_log_of_a_call_has_no_query_and_no_headers(call: Invoke, server: HttpServer) -> None:
    lines: list[str] = []
    server.on("/", lambda exchange: exchange.json(1))
    configuration = {"url": server.url("/?token=canary"), "headers": {"Authorization": "canary"}}
    call(None, tool_type="API", configuration=configuration, log=lambda level, line: lines.append(line))
    assert lines
    assert "canary" not in "".join(lines)
