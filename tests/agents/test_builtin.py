from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import uuid4

import pytest
from pytest_django import DjangoAssertNumQueries, Settings

from agentflow.agents.calls import Call, SimulatedBlock, StartChild
from agentflow.agents.invocation import invoke
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.failures import Failure, FailureKind
from tests.factories.agents import AgentFactory

from .conftest import Invoke, failure_of, output_of

MakeCall = Callable[..., Call]


def crash(input: JSONValue, configuration: JSONObject) -> JSONValue:
    raise RuntimeError("a bug with a secret in it")


def not_a_number(input: JSONValue, configuration: JSONObject) -> JSONValue:
    return float("nan")


def test_builtins_cost_no_query(
    make_call: MakeCall, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    call = make_call("builtin.echo", {"a": 1})
    with django_assert_num_queries(0):
        assert output_of(invoke(call)) == {"a": 1}


def test_noop_says_nothing(call: Invoke) -> None:
    assert output_of(call("builtin.noop", {"a": 1})) is None


def test_text_is_filled_from_the_input_once(call: Invoke) -> None:
    template = "Dear {{ customer.name }}, {{lines.0}}: {{total}}."
    given = {"customer": {"name": "{{total}}"}, "lines": ["pen"], "total": 3}
    answer = output_of(call("builtin.text", given, configuration={"template": template}))
    assert answer["text"] == "Dear {{total}}, pen: 3."
    assert "no language model" in answer["model"]
    missing = failure_of(call("builtin.text", {}, configuration={"template": "{{a.b}}"}))
    assert (missing.kind, missing.code) == ("configuration", "missing_input")


def test_fib_adds_what_came_before(call: Invoke) -> None:
    given = {"left": {"v": 2}, "right": [{"v": 3}, None]}
    assert output_of(call("builtin.fib", given, configuration={"n": 10})) == {"v": 1 + 55 + 5}
    assert failure_of(call("builtin.fib", configuration={"n": True})).code == "bad_configuration"


def test_a_crash_is_a_failure_that_tells_no_details(call: Invoke, settings: Settings) -> None:
    settings.AGENTFLOW_BUILTIN_AGENTS = {"bad": {"function": f"{__name__}.crash", "effect": "pure"}}
    failure = failure_of(call("bad"))
    assert (failure.kind, failure.code) == ("agent", "agent_crashed")
    assert "secret" not in failure.message


def test_nan_is_never_retried(call: Invoke, settings: Settings) -> None:
    settings.AGENTFLOW_BUILTIN_AGENTS = {"nan": {"function": f"{__name__}.not_a_number"}}
    assert failure_of(call("nan")).kind == "critical"


def test_who_is_not_registered_or_switched_off_is_not_called(call: Invoke, workspace: Workspace) -> None:
    AgentFactory.create(workspace=workspace, agent_id="off", enabled=False)
    AgentFactory.create(agent_id="foreign")
    for agent_id in ("nobody", "off", "foreign"):
        failure = failure_of(call(agent_id))
        assert (failure.kind, failure.code) == ("configuration", "unknown_agent")
    assert failure_of(call(None, tool_type="Fax")).code == "unknown_tool"


def test_input_and_output_are_held_against_the_agents_schemas(
    call: Invoke, workspace: Workspace, server: object
) -> None:
    AgentFactory.create(
        workspace=workspace,
        agent_id="strict",
        configuration={"url": server.url()},  # type: ignore[attr-defined]
        input_schema={"type": "object", "required": ["id"]},
        output_schema={"type": "object", "properties": {"total": {"type": "number"}}},
    )
    server.on("/", lambda exchange: exchange.json({"total": "three"}))  # type: ignore[attr-defined]
    refused = failure_of(call("strict", {}))
    assert (refused.kind, refused.code) == ("configuration", "input_schema_mismatch")
    wrong = failure_of(call("strict", {"id": 1}))
    assert (wrong.kind, wrong.code) == ("agent", "output_schema_mismatch")
    assert "/total" in wrong.message


def test_a_schema_never_makes_us_fetch_an_address(call: Invoke, workspace: Workspace) -> None:
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    AgentFactory.create(workspace=workspace, agent_id="curious", input_schema=schema)
    assert failure_of(call("curious", {})).code == "bad_schema"


def test_the_simulator_answers_from_its_script(call: Invoke) -> None:
    failure = Failure(FailureKind.TRANSIENT, "http_503", "Busy.")
    assert output_of(call("nobody", simulated=SimulatedBlock(0, {"ok": True}))) == {"ok": True}
    assert failure_of(call("nobody", simulated=SimulatedBlock(0, None, failure))) == failure
    slow = failure_of(call("nobody", simulated=SimulatedBlock(60, None), timeout_s=0.05))
    assert slow.code == "timeout"


def test_a_cancel_wakes_the_simulator(make_call: MakeCall) -> None:
    sleeping = make_call("nobody", simulated=SimulatedBlock(60, None), timeout_s=60)
    threading.Thread(target=lambda: sleeping.cancel.cancel("user"), daemon=True).start()
    assert failure_of(invoke(sleeping)).code == "cancelled"


def test_a_use_case_asks_the_engine_for_a_child(call: Invoke) -> None:
    template_id = uuid4()
    configuration: JSONObject = {"templateId": str(template_id)}
    child = call(None, {"a": 1}, tool_type="UseCase", configuration=configuration)
    assert child == StartChild(template_id=template_id, version=None, input={"a": 1})
    configuration |= {"version": 3, "input": {"b": 2}}
    child = call(None, {"a": 1}, tool_type="UseCase", configuration=configuration)
    assert child == StartChild(template_id=template_id, version=3, input={"b": 2})


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"templateId": "x"},
        {"templateId": str(uuid4()), "version": True},
        {"templateId": str(uuid4()), "input": 1},
    ],
)
def test_a_use_case_that_names_no_template_is_misconfigured(call: Invoke, configuration: JSONObject) -> None:
    failure = failure_of(call(None, tool_type="UseCase", configuration=configuration))
    assert (failure.kind, failure.code) == ("configuration", "bad_configuration")
