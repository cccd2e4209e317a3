from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from pytest_django import Settings

from agentflow.agents import discovery
from agentflow.agents.calls import Call, Outcome
from agentflow.agents.discovery.found import Place
from agentflow.agents.invocation import invoke
from agentflow.governance.models import Workspace
from agentflow.integrations import mcp
from agentflow.integrations.egress import EgressError, EgressPolicy, EgressRefused
from agentflow.types import JSONValue
from tests.servers import HttpServer, canary
from tests.waiting import PATIENCE_S, until

from .conftest import failure_of, output_of

SERVER = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]


@pytest.fixture(autouse=True)
def _servers(settings: Settings) -> None:
    settings.AGENTFLOW_MCP_STDIO = {
        "tests": {"command": SERVER, "env": {"GREETING": "hi"}},
        "absent": {"command": ["/nonexistent/server"]},
        "broken": {"command": [sys.executable, "-c", "raise SystemExit('no configuration')"]},
        "unlisted": {"command": [*SERVER, "--unlisted"]},
        "mute": {"command": [sys.executable, "-c", "import time; time.sleep(600)"]},
    }


@pytest.fixture
def tool(make_call: Callable[..., Call]) -> Callable[..., Outcome]:
    def called(name: str, input: JSONValue = None, *, server: str = "tests", **fields: object) -> Outcome:
        configuration = {"server": server, "tool": name}
        return invoke(make_call(None, input, tool_type="MCP", **{"configuration": configuration, **fields}))

    return called


def test_structured_content_comes_before_text(tool: Callable[..., Outcome]) -> None:
    assert output_of(tool("policy", {"country": "NL"})) == {"country": "NL", "days": "30"}
    assert output_of(tool("add", {"a": 1, "b": 2})) == {"result": 3}
    assert output_of(tool("greet", {"name": "Ada"})) == "Hello, Ada."


def test_fixed_arguments_win_over_the_input(tool: Callable[..., Outcome]) -> None:
    configuration = {"server": "tests", "tool": "add", "arguments": {"b": 40}}
    assert output_of(tool("add", {"a": 2, "b": 1}, configuration=configuration)) == {"result": 42}


def test_the_idempotency_key_travels_with_the_call(tool: Callable[..., Outcome]) -> None:
    assert output_of(tool("key", idempotency_key="block-7")) == {"result": "block-7"}


def test_the_server_gets_no_environment_of_ours(
    tool: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("AGENTFLOW_SECRET_KEY", "canary")
    settings.AGENTFLOW_MCP_STDIO = {"fresh": {"command": SERVER, "env": {"GREETING": "hi"}}}
    names = output_of(tool("environment", server="fresh"))["result"]
    assert "GREETING" in names
    assert not [name for name in names if name.startswith(("AGENTFLOW_", "DJANGO_"))]


def test_what_a_server_mutters_is_in_no_log(
    tool: Callable[..., Outcome], capfd: pytest.CaptureFixture[str], settings: Settings
) -> None:
    settings.AGENTFLOW_MCP_STDIO = {"muttering": {"command": SERVER}}
    assert output_of(tool("mutter", {"words": "canary"}, server="muttering")) == {"result": "said"}
    assert "canary" not in "".join(capfd.readouterr())
    assert not any(logging.getLogger(name).isEnabledFor(logging.ERROR) for name in ("mcp.client", "client"))


def test_one_session_serves_many_threads(
    tool: Callable[..., Outcome], make_call: Callable[..., Call]
) -> None:
    configuration = {"server": "tests", "tool": "pid"}
    calls = [make_call(None, tool_type="MCP", configuration=configuration) for _ in range(12)]
    with ThreadPoolExecutor(4) as threads:
        answers = {output_of(outcome)["result"] for outcome in threads.map(invoke, calls)}
    assert len(answers) == 1


def test_a_server_that_died_is_started_again(tool: Callable[..., Outcome]) -> None:
    before = output_of(tool("pid"))["result"]
    failure = failure_of(tool("die"))
    assert (failure.kind, failure.code, failure.outcome_unknown) == ("transient", "connection_lost", True)
    assert output_of(tool("pid"))["result"] != before


def test_a_server_that_died_unseen_is_noticed_before_the_next_call(
    tool: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = output_of(tool("pid"))["result"]
    os.kill(before, 9)
    until(lambda: _gone(before), why="the server's end")
    monkeypatch.setattr(mcp, "FRESH_S", 0.0)
    assert output_of(tool("pid"))["result"] != before


def test_an_idle_session_is_not_asked_for_its_tools_before_what_may_be_repeated(
    tool: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp, "_pools", [])
    monkeypatch.setattr(mcp, "FRESH_S", 0.0)
    assert [output_of(tool("lists", effect="pure"))["result"] for _ in range(3)] == [1, 1, 1]
    assert output_of(tool("lists", effect="once"))["result"] == 2
    before = output_of(tool("pid", effect="keyed"))["result"]
    os.kill(before, 9)
    until(lambda: _gone(before), why="the server's end")
    assert output_of(tool("pid", effect="keyed"))["result"] != before
    assert failure_of(tool("add", {"a": "x", "b": "y"}, effect="pure")).code == "mcp_invalid_call"
    assert output_of(tool("relax")) == {"result": "relaxed"}
    output_of(tool("add", {"a": "x", "b": "y"}, effect="pure"))  # the tools are listed anew before a refusal


def test_a_session_that_nobody_uses_is_closed(
    tool: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp, "_pools", [])
    monkeypatch.setattr(mcp, "SWEEP_S", 0.05)
    left = output_of(tool("pid"))["result"]
    assert not _gone(left)
    monkeypatch.setattr(mcp, "IDLE_S", 0.0)
    until(lambda: _gone(left), why="the server's end")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


def test_a_tools_own_failure_is_the_agents(tool: Callable[..., Outcome]) -> None:
    failure = failure_of(tool("fail"))
    assert (failure.kind, failure.code) == ("agent", "tool_error")


@pytest.mark.parametrize(
    ("named", "kind", "code"),
    [
        ("unheard-of", "configuration", "unknown_mcp_server"),
        ("absent", "configuration", "mcp_server_failed"),
        ("broken", "transient", "mcp_server_failed"),
    ],
)
def test_a_server_that_is_not_there(tool: Callable[..., Outcome], named: str, kind: str, code: str) -> None:
    failure = failure_of(tool("add", {}, server=named))
    assert (failure.kind, failure.code, failure.outcome_unknown) == (kind, code, False)


def test_an_unknown_tool_and_bad_arguments_are_said(tool: Callable[..., Outcome]) -> None:
    for outcome in (tool("juggle"), tool("add", {"a": "x"})):
        assert failure_of(outcome).code in {"tool_error", "mcp_invalid_call"}


def test_arguments_are_held_against_the_tools_schema_before_the_call(
    tool: Callable[..., Outcome],
) -> None:
    failure = failure_of(tool("add", {"a": "x", "b": 1}))
    assert (failure.kind, failure.code, failure.outcome_unknown) == (
        "configuration",
        "mcp_invalid_call",
        False,
    )
    assert failure.message.startswith("arguments/a: ")


@pytest.mark.parametrize("named", ["misfit", "pattern", "bare"])
def test_a_result_is_held_against_the_tools_schema_and_the_session_lives_on(
    tool: Callable[..., Outcome], named: str
) -> None:
    before = output_of(tool("pid"))
    failure = failure_of(tool(named, effect="pure"))
    assert (failure.kind, failure.code, failure.outcome_unknown) == ("agent", "mcp_bad_response", True)
    assert output_of(tool("pid")) == before


def test_a_server_that_refuses_to_list_its_tools_is_called_by_its_name(tool: Callable[..., Outcome]) -> None:
    failure = failure_of(tool("add", {"a": 1, "b": 1}, server="unlisted"))
    assert (failure.kind, failure.code, failure.outcome_unknown) == (
        "configuration",
        "mcp_list_refused",
        False,
    )
    assert "unlisted" in failure.message
    assert "tools/list" in failure.message


def test_progress_is_shown_as_lines(tool: Callable[..., Outcome]) -> None:
    lines: list[str] = []
    assert output_of(tool("count", {"to": 2}, log=lambda level, line: lines.append(line))) == {"result": 2}
    assert lines == ["Progress: 1 of 2: at 1", "Progress: 2 of 2: at 2"]


def test_a_tool_that_never_answers_is_given_up_and_the_session_lives_on(tool: Callable[..., Outcome]) -> None:
    before = output_of(tool("pid"))
    failure = failure_of(tool("hang", timeout_s=0.3))
    assert (failure.kind, failure.code, failure.outcome_unknown) == ("transient", "timeout", True)
    assert output_of(tool("pid")) == before


def test_a_server_that_never_shakes_hands_has_done_nothing(tool: Callable[..., Outcome]) -> None:
    failure = failure_of(tool("add", {}, server="mute", timeout_s=0.3))
    assert (failure.code, failure.outcome_unknown) == ("timeout", False)


def test_a_cancel_ends_the_call(make_call: Callable[..., Call]) -> None:
    call = make_call(None, tool_type="MCP", configuration={"server": "tests", "tool": "hang"})
    threading.Thread(target=lambda: call.cancel.cancel("user"), daemon=True).start()
    assert failure_of(invoke(call)).code == "cancelled"


@pytest.mark.parametrize(
    "configuration",
    [
        {"tool": "add"},
        {"server": "tests"},
        {"server": "tests", "url": "http://x.example/", "tool": "add"},
        {"command": ["sh"], "tool": "add"},
        {"url": "http://x.example/", "tool": "add", "headers": {"a": 1}},
        {"server": "tests", "tool": "add", "arguments": [1]},
    ],
)
def test_a_template_brings_no_server_of_its_own(
    tool: Callable[..., Outcome], configuration: dict[str, JSONValue]
) -> None:
    assert failure_of(tool("add", configuration=configuration)).code == "bad_configuration"


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    with _http_server() as port:
        yield port


@contextmanager
def _http_server(*flags: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [*SERVER, "--http", str(port), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(port), why="the MCP server to listen")
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_streamable_http_goes_through_the_egress_rules(
    tool: Callable[..., Outcome], workspace: Workspace, http_port: int
) -> None:
    configuration = {"url": f"http://127.0.0.1:{http_port}/mcp", "tool": "add"}
    assert failure_of(tool("add", {"a": 1, "b": 2}, configuration=configuration)).code == "egress_refused"
    workspace.egress_allow = [f"127.0.0.1:{http_port}"]
    workspace.save()
    from agentflow.agents import registry

    registry.forget()
    assert output_of(tool("add", {"a": 1, "b": 2}, configuration=configuration)) == {"result": 3}
    assert output_of(tool("add", {"a": 2, "b": 2}, configuration=configuration)) == {"result": 4}


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_an_answer_that_is_too_large_fails_alone(flags: tuple[str, ...]) -> None:
    with _http_server(*flags) as port, ThreadPoolExecutor(1) as threads:
        server = mcp.Server(url=f"http://127.0.0.1:{port}/mcp", policy=EgressPolicy((f"127.0.0.1:{port}",)))
        called = partial(mcp.call_tool, server, timeout_s=PATIENCE_S, idempotency_key="key")
        waits = threads.submit(called, "wait", {})
        with pytest.raises(EgressError) as refused:
            called("large", {"size": 9_000_000})
        failure = refused.value.failure
        assert (failure.kind, failure.code, failure.outcome_unknown) == ("agent", "response_too_large", True)
        assert called("large", {"size": 2_000_000}) == "x" * 2_000_000
        called("release", {})
        assert waits.result() == {"result": "released"}


def test_tools_are_found_over_http_too(http_port: int) -> None:
    policy = EgressPolicy((f"127.0.0.1:{http_port}",))
    listing = discovery.look("mcp", Place(url=f"http://127.0.0.1:{http_port}/mcp", policy=policy))
    found = {each.key: each for each in listing.found}
    assert {"add", "policy", "count"} <= found.keys()
    assert found["add"].configuration["url"] == f"http://127.0.0.1:{http_port}/mcp"
    assert (found["add"].input_schema or {})["required"] == ["a", "b"]
    with pytest.raises(EgressRefused):
        discovery.look("mcp", Place(url=f"http://127.0.0.1:{http_port}/mcp"))


def test_an_http_server_inside_is_not_reached(tool: Callable[..., Outcome]) -> None:
    with canary() as bird:
        configuration = {"url": f"http://localhost:{bird.port}/mcp", "tool": "add"}
        assert failure_of(tool("add", {}, configuration=configuration)).code == "egress_refused"
    assert bird.visitors == []


def test_an_http_server_that_speaks_no_mcp(tool: Callable[..., Outcome], server: HttpServer) -> None:
    server.on("/mcp", lambda exchange: exchange.reply(b"hello", content_type="text/html"))
    server.on("/busy", lambda exchange: exchange.reply(b"", 503))
    for path in ("/mcp", "/busy", "/none"):
        configuration = {"url": server.url(path), "tool": "add"}
        failure = failure_of(tool("add", {}, configuration=configuration))
        assert failure.kind in {"transient", "configuration", "agent"}, failure
        assert not failure.outcome_unknown, failure
