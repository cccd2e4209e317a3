"""LLM agents with tools that are tools themselves: their steps are recorded below the step that called."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from agentflow.agents import registry
from agentflow.agents.models import Agent
from agentflow.governance.models import User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions import spending
from executions.models import AgentStep, DaySpending, Execution, Pin
from executions.services import control, reconcile
from executions.services.measuring import measure
from tests import builtins
from tests.factories.agents import AgentFactory
from tests.factories.governance import client_of
from tests.history import check
from tests.llm import Says, ScriptedModel, completion, wants
from tests.servers import Exchange, HttpServer

from .conftest import answer, drain, lose_worker, row, template
from .test_agent_loop import FIRST, REFUND, Dies, Killed, refund_keys, refunds
from .test_agent_loop import helped as helped
from .test_agent_loop import model as model
from .test_agent_loop import server as server
from .test_tools_that_are_workflows import APPROVED, VersionOf, begun

Helped = Callable[..., Execution]
LOOKUP = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


class Talking:
    """Answers each of several agents, told apart by their prompts, by the turn that it has come to."""

    def __init__(self, model: ScriptedModel) -> None:
        self.scripts: dict[str, list[Says]] = {}
        self.answered: Counter[tuple[str, int]] = Counter()
        model.says(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        messages = json.loads(exchange.body)["messages"]
        who = next(message["content"] for message in messages if message["role"] == "user")
        turn = sum(message["role"] == "assistant" for message in messages)
        self.answered[who, turn] += 1
        says = self.scripts[who][turn]
        assert not callable(says)
        exchange.json(says)


@pytest.fixture
def talking(model: ScriptedModel) -> Talking:
    return Talking(model)


@pytest.fixture
def calling(helped: Helped) -> Helped:
    """A run whose agent may call `checker`, which has these tools, and `boss`, whose tool is that one."""

    def make(*tools: Any, uses: Any = "checker", **fields: Any) -> Execution:
        execution = helped(uses, **fields)
        for agent_id, given in (("checker", list(tools)), ("boss", ["checker"])):
            AgentFactory.create(
                workspace=execution.workspace,
                agent_id=agent_id,
                tool_type="LLM",
                configuration={"prompt": f"You are {agent_id}.", "tools": given},
                cost={"perInputToken": 1},
                input_schema=LOOKUP,
            )
        registry.forget()
        return execution

    return make


HELP, CHECKER, BOSS = "Help.", "You are checker.", "You are boss."
CHECK = wants(("checker", {"q": "A-1"}))


def paths(execution: Execution, user: User) -> list[tuple[list[int], str]]:
    shown = client_of(user).get(f"/api/v1/executions/{execution.pk}/blocks/help/steps").json()
    return [(each["path"], each["name"]) for each in shown["steps"]]


def test_an_agent_calls_one_that_has_tools_and_each_step_is_recorded_once(
    calling: Helped, talking: Talking, server: HttpServer, author: User
) -> None:
    talking.scripts = {
        HELP: [wants(("boss", {"q": "A-1"})), completion("All well.")],
        BOSS: [CHECK, completion("Checked.")],
        CHECKER: [wants(("refund", FIRST)), completion("Refunded.")],
    }
    execution = calling({"agentId": "refund", "policy": "allow"}, uses="boss")
    Agent.objects.filter(agent_id="boss").update(budget={"tokens": 1000})
    drain(execution)
    assert execution.status == "completed"
    key = f"{execution.pk}:help:0:0:step:2:step:2:step:2"
    assert refund_keys(server) == [key]
    assert set(talking.answered.values()) == {1}
    assert paths(execution, author) == [
        ([1], "small-1"),
        ([2], "boss"),
        ([2, 1], "small-1"),
        ([2, 2], "checker"),
        ([2, 2, 1], "small-1"),
        ([2, 2, 2], "refund"),
        ([2, 2, 3], "small-1"),
        ([2, 3], "small-1"),
        ([3], "small-1"),
    ]
    boss = AgentStep.objects.get(name="boss")
    assert (json.loads(str(boss.result))["result"]["text"], boss.usage) == ("Checked.", None)
    assert boss.request["used"]["inputTokens"] == 20  # its two answers, and the checker's two
    used = {"inputTokens": 30, "outputTokens": 12, "cost": {"USD": 25.0}}
    assert spending.of_run(execution.pk) == used
    day = [
        (each.again, int(each.amount)) for each in DaySpending.objects.filter(agent_id="boss", unit="tokens")
    ]
    assert sorted(day) == [(False, 14), (True, 14)]  # its own, and the checker's
    measure()
    counted = Agent.objects.get(agent_id="checker").buckets.values_list("successes", "input_tokens")
    assert set(counted) == {(1, 10)}
    client = client_of(author)
    client.force_login(author)
    page = client.get(f"/executions/{execution.pk}/step?block=help&tab=tries").content.decode()
    assert "2.2.2. Tool refund" in page
    assert check() == []


def test_a_vanished_worker_is_followed_from_the_last_step_of_the_agent_below(
    calling: Helped, talking: Talking, server: HttpServer
) -> None:
    talking.scripts = {
        HELP: [CHECK, completion("All well.")],
        CHECKER: [wants(("refund", FIRST)), wants(("test_record", {"n": 1})), completion("Done.")],
    }
    execution = calling(
        {"agentId": "refund", "policy": "allow"}, {"agentId": "test.record", "policy": "allow"}
    )
    builtins.on_call["None"] = Dies()
    with pytest.raises(Killed):
        drain(execution)
    lose_worker(execution, "help")
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    assert set(talking.answered.values()) == {1}
    assert len(refunds(server)) == 1
    assert spending.of_run(execution.pk)["cost"] == {"USD": 20.0}  # 5 of them for two answers above
    assert check() == []


def test_a_person_decides_about_a_call_of_the_agent_below_and_a_pause_holds_it(
    calling: Helped, talking: Talking, server: HttpServer, author: User
) -> None:
    talking.scripts = {
        HELP: [wants(("lookup", {})), CHECK, completion("All well.")],
        CHECKER: [wants(("lookup", {})), wants(("refund", FIRST)), completion("Done.")],
    }
    execution = calling("lookup", "refund", uses="checker")
    Agent.objects.filter(agent_id="helper").update(configuration={"tools": ["lookup", "checker"]})
    Agent.objects.filter(agent_id="checker").update(limits={"concurrency": 1})
    registry.forget()
    drain(execution)
    assert (row(execution, "help").status, row(execution, "help").reason) == ("waiting_human", "tool")
    asked = Approval.objects.get(execution=execution)
    assert (asked.request["editable"], asked.input_schema) == (FIRST, REFUND)
    assert asked.request["facts"] == {"tool": "refund", "step": 4, "calledBy": "checker"}
    control.pause(execution_id=execution.pk, by=author)
    answer(execution, "help", author, response={"edited": {**FIRST, "amount": 5}})
    assert (execution.status, refunds(server)) == ("paused", [])
    control.resume(execution_id=execution.pk, by=author)
    drain(execution)
    assert execution.status == "completed"
    assert refunds(server) == [{**FIRST, "amount": 5}]
    assert set(talking.answered.values()) == {1}
    assert check() == []


def test_a_sub_workflow_of_the_agent_below_is_started_once_and_waited_for(
    calling: Helped, helped: Helped, talking: Talking, version_of: VersionOf, author: User
) -> None:
    """Its version is pinned with the start; its step has the number of the one above."""
    talking.scripts = {
        HELP: [CHECK, completion("All well.")],
        CHECKER: [wants(("sub", {})), completion("Done.")],
    }
    given = calling({"agentId": "sub", "policy": "allow"})
    child = version_of(template(APPROVED))
    AgentFactory.create(
        workspace=given.workspace,
        agent_id="sub",
        tool_type="UseCase",
        configuration={"templateId": str(child.template_id)},
    )
    registry.forget()
    execution = helped("checker")
    assert Pin.objects.get(execution=execution).version == child
    drain(execution)
    assert row(execution, "help").reason == "tool_child"
    (sub,) = begun(execution)
    above, below = AgentStep.objects.filter(kind="tool").order_by("pk")
    assert ("executionId" in above.request, below.request["executionId"]) == (False, str(sub.pk))
    answer(sub, "x", author)
    drain(execution)
    assert execution.status == "completed"
    assert set(talking.answered.values()) == {1}
    assert len(begun(execution)) == 1
    assert check() == []


def test_agents_that_would_call_each_other_do_not(calling: Helped, talking: Talking) -> None:
    """At the call where two were registered at the same time; else nobody may register the second."""
    execution = calling("boss", uses="boss")  # which calls the checker
    talking.scripts = {HELP: [wants(("boss", {"q": "A"})), completion("No.")]}
    talking.scripts[BOSS] = [CHECK, completion("It cannot be checked.")]
    drain(execution)
    assert execution.status == "completed"
    told: JSONObject = json.loads(str(AgentStep.objects.get(name="checker").result))["error"]
    assert "boss calls checker calls boss, which is at work already." in told["message"]
