from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_django import Settings

from agentflow.agents.configuration import issues
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject
from tests.factories.agents import AgentFactory
from tests.llm import PATH, ScriptedModel, completion
from tests.servers import Exchange, HttpServer

from .conftest import Invoke, failure_of, output_of, usage_of


@pytest.fixture
def model(server: HttpServer, settings: Settings) -> HttpServer:
    """An OpenAI-compatible server that the installation is configured for."""
    settings.AGENTFLOW_LLM_BASE_URL = server.url("/v1")
    settings.AGENTFLOW_LLM_API_KEY = "installation-key"
    settings.AGENTFLOW_LLM_MODEL = "small"
    server.on(PATH, lambda exchange: exchange.json(completion("Dear Ada")))
    return server


def ask(call: Invoke, input: Any = None, **configuration: Any) -> Any:
    return call(None, input, tool_type="LLM", configuration={"prompt": "Write.", **configuration})


def test_a_question_and_its_answer(call: Invoke, model: HttpServer) -> None:
    outcome = ask(
        call,
        {"name": "Ada {{secret}}", "secret": "s"},
        system="Be kind.",
        prompt="Greet {{name}}.",
        temperature=0,
        maxTokens=50,
    )
    assert output_of(outcome) == {
        "text": "Dear Ada",
        "model": "small-1",
        "finishReason": "stop",
        "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7},
    }
    (seen,) = model.seen
    assert json.loads(seen.body) == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Greet Ada {{secret}}."},
        ],
        "temperature": 0,
        "max_tokens": 50,
    }
    assert seen.headers["authorization"] == "Bearer installation-key"
    assert seen.headers["idempotency-key"] == "key-1"


def test_an_input_the_prompt_does_not_name_follows_it(call: Invoke, model: HttpServer) -> None:
    ask(call, {"a": 1})
    assert [message["content"] for message in json.loads(model.seen[0].body)["messages"]] == [
        "Write.",
        '{"a": 1}',
    ]


def test_the_installations_key_goes_nowhere_else(
    call: Invoke, model: HttpServer, workspace: Workspace
) -> None:
    model.on("/other/chat/completions", lambda exchange: exchange.json(completion("x")))
    output_of(ask(call, baseUrl=model.url("/other")))
    assert "installation-key" not in str(model.seen[0].headers)
    configuration = {"baseUrl": model.url("/other"), "apiKey": "agents-key"}
    AgentFactory.create(workspace=workspace, agent_id="own", tool_type="LLM", configuration=configuration)
    output_of(call("own", "hello", configuration={"baseUrl": "http://10.0.0.1/"}))
    assert model.seen[1].headers["authorization"] == "Bearer agents-key"


def test_an_address_of_a_template_is_checked(call: Invoke, model: HttpServer) -> None:
    assert failure_of(ask(call, baseUrl="http://169.254.169.254/v1")).code == "egress_refused"
    assert failure_of(ask(call, baseUrl="file:///etc/passwd")).code == "egress_refused"


def test_an_answer_to_a_schema_is_data(call: Invoke, model: HttpServer) -> None:
    schema = {"type": "object", "required": ["risk"], "properties": {"risk": {"type": "number"}}}
    model.on(PATH, lambda exchange: exchange.json(completion('{"risk": 0.5}')))
    assert output_of(ask(call, responseSchema=schema))["data"] == {"risk": 0.5}
    asked = json.loads(model.seen[0].body)["response_format"]
    assert asked["json_schema"]["schema"] == schema
    for text in ('{"risk": "high"}', "{}", "not json", "[" * 100_000, None):
        model.on(PATH, lambda exchange, text=text: exchange.json(completion(text)))  # type: ignore[misc]
        assert failure_of(ask(call, responseSchema=schema)).code == "llm_invalid_output"
    model.on(PATH, lambda exchange: exchange.json(completion('{"ri', finish_reason="length")))
    assert failure_of(ask(call, responseSchema=schema)).code == "llm_truncated"


def error(code: str, message: str = "No.") -> JSONObject:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (429, error("rate_limit_exceeded"), "transient", "llm_rate_limited"),
        (429, error("insufficient_quota"), "configuration", "llm_quota_exhausted"),
        (400, error("context_length_exceeded"), "configuration", "llm_context_too_long"),
        (400, error("", "maximum context length is 4096"), "configuration", "llm_context_too_long"),
        (400, error("content_filter"), "agent", "llm_content_filtered"),
        (400, error("invalid"), "configuration", "http_400"),
        (401, error("invalid_api_key"), "configuration", "http_401"),
        (404, error("model_not_found"), "configuration", "http_404"),
        (500, {"error": "oops"}, "transient", "http_500"),
        (503, [], "transient", "http_503"),
        (200, completion(None, refusal="I cannot."), "agent", "llm_refused"),
        (200, completion("", finish_reason="content_filter"), "agent", "llm_content_filtered"),
        (200, {}, "agent", "llm_bad_response"),
        (200, {"choices": []}, "agent", "llm_bad_response"),
        (200, {"choices": [{"message": {"content": 3}}]}, "agent", "llm_bad_response"),
        (200, {"choices": [None]}, "agent", "llm_bad_response"),
        (200, [1], "agent", "llm_bad_response"),
        (200, "text", "agent", "llm_bad_response"),
    ],
)
def test_how_a_model_fails(
    call: Invoke, model: HttpServer, status: int, body: Any, kind: str, code: str
) -> None:
    model.on(PATH, lambda exchange: exchange.json(body, status, retry_after="3"))
    failure = failure_of(ask(call))
    assert (failure.kind, failure.code) == (kind, code)
    assert len(model.seen) == 1  # repeating is not the library's business
    if code in {"llm_rate_limited", "http_500", "http_503"}:
        assert failure.retry_after_s == 3


def test_garbage_drops_and_silence(call: Invoke, model: HttpServer) -> None:
    model.on(PATH, lambda exchange: exchange.reply(b"<html>", content_type="text/html"))
    assert failure_of(ask(call)).code == "llm_bad_response"
    model.on(PATH, Exchange.drop)
    assert failure_of(ask(call)).code == "connection_lost"
    model.on(PATH, model.hold)
    silent = call(None, "x", tool_type="LLM", configuration={}, timeout_s=0.3)
    assert failure_of(silent).code == "timeout"


def test_what_is_not_configured_is_said(call: Invoke, settings: Settings) -> None:
    settings.AGENTFLOW_LLM_BASE_URL = ""
    assert failure_of(ask(call)).code == "llm_not_configured"


def test_what_an_answer_costs(call: Invoke, model: HttpServer, workspace: Workspace) -> None:
    cost = {"perInputToken": 0.1, "perOutputToken": 1, "perCall": 10, "currency": "EUR"}
    AgentFactory.create(workspace=workspace, agent_id="priced", tool_type="LLM", configuration={}, cost=cost)
    used = {"inputTokens": 5, "outputTokens": 2, "model": "small-1"}
    assert usage_of(call("priced", "hello")) == {**used, "cost": {"EUR": 12.5}}
    assert usage_of(ask(call)) == used
    model.on(PATH, lambda exchange: exchange.json(completion(None, refusal="No.")))
    assert usage_of(call("priced", "hello")) == {**used, "cost": {"EUR": 12.5}}
    told = {**completion("x"), "usage": {"prompt_tokens": -1, "completion_tokens": "2", "cost": 0.25}}
    model.on(PATH, lambda exchange: exchange.json(told))
    assert usage_of(call("priced", "hello")) == {"inputTokens": 0, "cost": {"EUR": 0.25}, "model": "small-1"}


def test_an_answer_that_does_not_fit_the_agents_schema_was_paid_for(
    call: Invoke, model: HttpServer, workspace: Workspace
) -> None:
    schema = {"type": "object", "required": ["data"]}
    AgentFactory.create(workspace=workspace, agent_id="strict", tool_type="LLM", output_schema=schema)
    outcome = call("strict", "hello")
    assert failure_of(outcome).code == "output_schema_mismatch"
    assert usage_of(outcome) == {"inputTokens": 5, "outputTokens": 2, "model": "small-1"}


@pytest.mark.parametrize(
    "configuration", [{"prompt": 3}, {"model": 3}, {"responseSchema": "x"}, {"prompt": ""}]
)
def test_what_asks_nothing(call: Invoke, model: HttpServer, configuration: JSONObject) -> None:
    failure = failure_of(ask(call, **configuration))
    assert (failure.code, model.seen) == ("bad_configuration", [])


SCHEMA: JSONObject = {"type": "object", "required": ["risk"], "properties": {"risk": {"type": "number"}}}


def test_an_answer_that_does_not_fit_is_mended_once(call: Invoke, model: HttpServer) -> None:
    scripted = ScriptedModel(model, [completion('{"risk": "high"}'), completion('{"risk": 0.5}')])
    outcome = ask(call, responseSchema=SCHEMA)
    assert output_of(outcome)["data"] == {"risk": 0.5}
    assert usage_of(outcome) == {"inputTokens": 10, "outputTokens": 4, "model": "small-1"}
    *_, answered, told = scripted.asked[1]["messages"]
    assert answered == {"role": "assistant", "content": '{"risk": "high"}'}
    assert told["role"] == "user"
    assert "/risk" in told["content"]
    assert scripted.keys == ["key-1", "key-1:step:2"]
    scripted.says(completion("{}"), completion("no"), completion('{"risk": 0.5}'))
    assert failure_of(ask(call, responseSchema=SCHEMA)).code == "llm_invalid_output"
    assert len(scripted.asked) == 4


def test_another_model_is_asked_where_one_is_not_to_be_had(
    call: Invoke, model: HttpServer, workspace: Workspace
) -> None:
    asked: list[str] = []

    def only_the_last(exchange: Exchange) -> None:
        asked.append(json.loads(exchange.body)["model"])
        if asked[-1] == "third":
            exchange.json(completion("Dear Ada"))
        else:
            exchange.json(error("rate_limit_exceeded"), 429, retry_after="3")

    model.on(PATH, only_the_last)
    model.on("/other/chat/completions", only_the_last)
    fallbacks = [{"model": "second"}, {"model": "third", "baseUrl": model.url("/other")}, {"model": "fourth"}]
    assert output_of(ask(call, fallbacks=fallbacks))["text"] == "Dear Ada"
    assert asked == ["small", "second", "third"]
    assert "installation-key" not in str(model.seen[2].headers)
    assert [each.headers["idempotency-key"] for each in model.seen] == [
        "key-1",
        "key-1:fallback:1",
        "key-1:fallback:2",
    ]
    asked.clear()
    failure = failure_of(ask(call, fallbacks=fallbacks[:1], fallbackOn=["llm_refused"]))
    assert (failure.code, asked) == ("llm_rate_limited", ["small"])


def test_a_refusal_falls_back_where_it_is_said_and_is_paid_for(call: Invoke, model: HttpServer) -> None:
    answers = [completion(None, refusal="No."), completion("Dear Ada")]
    model.on(PATH, lambda exchange: exchange.json(answers[min(len(model.seen), 2) - 1]))
    outcome = ask(call, fallbacks=[{"model": "bold"}], fallbackOn=["llm_refused"])
    assert output_of(outcome)["text"] == "Dear Ada"
    assert usage_of(outcome) == {"inputTokens": 10, "outputTokens": 4, "model": "small-1"}


def events(*parts: str, ends: str | None = "stop") -> bytes:
    told: list[JSONObject] = [
        {"model": "small-1", "choices": [{"delta": {"content": part}}]} for part in parts
    ]
    if ends:
        told.append({"choices": [{"delta": {}, "finish_reason": ends}]})
        told.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    lines = [f"data: {json.dumps(each)}\n\n" for each in told]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def test_what_is_written_so_far_is_shown_while_the_answer_comes(call: Invoke, model: HttpServer) -> None:
    shown: list[str] = []
    stream = "text/event-stream"
    model.on(PATH, lambda exchange: exchange.reply(events("Dear", " Ada"), content_type=stream))
    outcome = call(
        None, "x", tool_type="LLM", configuration={"prompt": "Write.", "stream": True}, show=shown.append
    )
    assert output_of(outcome)["text"] == "Dear Ada"
    assert usage_of(outcome) == {"inputTokens": 5, "outputTokens": 2, "model": "small-1"}
    assert shown == ["Dear"]  # more often than ten times a second nothing is shown
    assert json.loads(model.seen[0].body)["stream_options"] == {"include_usage": True}
    for broken in (events("Dear", ends=None), b"data: {\n\n", b'data: {"choices": [3]}\n\n', b"data: []\n\n"):
        model.on(PATH, lambda exchange, body=broken: exchange.reply(body, content_type=stream))  # type: ignore[misc]
        assert failure_of(ask(call, stream=True)).code == "llm_bad_response"
    model.on(PATH, lambda exchange: exchange.json(completion("whole")))
    assert output_of(ask(call, stream=True))["text"] == "whole"


@pytest.mark.parametrize(
    ("configuration", "pointer"),
    [
        ({"fallbacks": [{}]}, "/configuration/fallbacks/0"),
        ({"fallbacks": [{"model": "x", "apiKey": "k"}]}, "/configuration/fallbacks/0"),
        ({"tools": [{"policy": "ask"}]}, "/configuration/tools/0/agentId"),
        ({"tools": [{"agentId": "a", "policy": "maybe"}]}, "/configuration/tools/0/policy"),
        ({"tools": ["a b", "a:b"]}, "/configuration/tools/1"),
        ({"limits": {"maxTurns": 0}}, "/configuration/limits/maxTurns"),
        ({"limits": {"maxtokens": 3}}, "/configuration/limits/maxtokens"),
        ({"stream": "yes"}, "/configuration/stream"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_said_with_a_remedy(
    configuration: JSONObject, pointer: str
) -> None:
    found = issues("LLM", configuration)
    assert pointer in [each["pointer"] for each in found], found
    assert all(each["remedy"] for each in found if each["pointer"] != "/configuration/fallbacks/0/apiKey")


def test_an_agent_with_tools_works_in_an_execution_only(call: Invoke, model: HttpServer) -> None:
    assert failure_of(ask(call, tools=["builtin.echo"])).code == "llm_no_journal"
