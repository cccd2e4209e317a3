"""Agents that other agents call on their way: their limits hold, and their calls are measured as any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection

from agentflow.agents import registry
from agentflow.agents.models import Agent, AgentBucket
from agentflow.types import JSONObject
from executions.models import AgentStep, AgentWindow, Execution, Place
from executions.services import measuring
from tests.factories.executions import statuses
from tests.llm import ScriptedModel, completion, wants
from tests.servers import Exchange, HttpServer

from .conftest import Start, block, drain, row, template
from .test_agent_loop import helped as helped
from .test_agent_loop import model as model
from .test_agent_loop import server as server
from .test_agent_loop import steps
from .test_agent_patience import lose_patience
from .test_choosing import hold, let_go, reason
from .test_concurrency import go_on


def limit(**limits: int) -> None:
    agent = Agent.objects.get(agent_id="lookup")
    agent.limits = limits
    agent.save()
    registry.forget()


@pytest.fixture
def holder(start: Start, helped: Callable[..., Execution]) -> Execution:
    """A run that is to call the agent that the other's model wants too, and which takes one at a time."""
    helped("lookup")
    limit(concurrency=1)
    return start(template(block("a", agentId="lookup", effect="pure")))


def lookups(server: HttpServer) -> int:
    return sum(each.path == "/lookup" for each in server.seen)


def test_a_tool_that_is_busy_is_waited_for_as_a_row_and_nothing_is_asked_twice(
    holder: Execution, helped: Callable[..., Execution], model: ScriptedModel, server: HttpServer
) -> None:
    places: list[int] = []

    def look(exchange: Exchange) -> None:
        places.append(Place.objects.filter(key="lookup", held=True).count())
        connection.close()
        exchange.json({"orders": []})

    held = hold(holder)
    model.says(wants(("lookup", {}), ("lookup", {})), completion("Done."))
    execution = helped("lookup")
    server.on("/lookup", look)
    drain(execution)
    assert (row(execution, "help").status, row(execution, "help").reason) == (
        "waiting_external",
        "tool_agent",
    )
    found = reason(execution)
    assert (found["code"], found["key"], found["limit"]) == ("waiting_agent", "lookup", 1)
    assert (steps(execution), lookups(server)) == ([("model", "small-1", "done")], 0)
    let_go(holder, held)
    go_on(execution)
    drain(execution)
    assert execution.status == "completed"
    assert set(model.answered.values()) == {1}
    assert (lookups(server), places) == (2, [1, 1])
    outcomes = row(execution, "help").attempts.order_by("attempt").values_list("outcome", flat=True)
    assert list(outcomes) == ["waited", "ok"]
    assert not Place.objects.exists()


def test_the_place_is_free_after_the_call_though_the_attempt_goes_on(
    holder: Execution, helped: Callable[..., Execution], model: ScriptedModel
) -> None:
    seen: list[str] = []

    def between(exchange: Exchange) -> None:
        drain(holder)  # while the other's attempt goes on
        seen.append(holder.status)
        connection.close()
        exchange.json(completion("Done."))

    model.says(wants(("lookup", {})), between)
    execution = helped("lookup")
    drain(execution)
    assert (execution.status, seen) == ("completed", ["completed"])


def test_a_rate_holds_for_tools_too(
    helped: Callable[..., Execution], model: ScriptedModel, server: HttpServer
) -> None:
    model.says(wants(("lookup", {}), ("lookup", {})), completion("Done."))
    execution = helped("lookup")
    limit(ratePerMinute=1)
    drain(execution)
    assert (statuses(execution)["help"], lookups(server)) == ("waiting_external", 1)
    window = AgentWindow.objects.get()
    window.calls = [[second - 61, count] for second, count in window.calls]
    window.save()
    limit(ratePerMinute=1)  # any change of the agent lets the run look
    go_on(execution)
    drain(execution)
    assert (execution.status, lookups(server)) == ("completed", 2)


def test_patience_ends_the_wait_for_a_tool(
    holder: Execution, helped: Callable[..., Execution], model: ScriptedModel
) -> None:
    hold(holder)
    model.says(wants(("lookup", {})), completion("Done."))
    policy: JSONObject = {"maxRetries": 0, "onExhausted": "fail"}
    execution = helped("lookup", agentPatience=60_000, retryPolicy=policy)
    drain(execution)
    assert reason(execution)["until"] == row(execution, "help").available_at
    lose_patience(execution)
    assert execution.status == "failed"
    assert (row(execution, "help").error or {})["code"] == "no_agent"
    assert list(Place.objects.values_list("execution_id", flat=True)) == [holder.pk]


def test_calls_of_tools_are_measured_once_and_what_was_never_called_is_not(
    helped: Callable[..., Execution], model: ScriptedModel, server: HttpServer
) -> None:
    model.says(wants(("lookup", {}), ("lookup", []), ("unknown", {})), wants(("lookup", {})), completion("."))
    execution = helped("lookup")
    server.on("/lookup", lambda exchange: exchange.json({}, status=500 if lookups(server) > 1 else 200))
    drain(execution)
    assert execution.status == "completed"
    assert AgentStep.objects.filter(uncounted=True).count() == 2
    while measuring.measure():
        pass
    measuring.measure()
    (bucket,) = AgentBucket.objects.filter(agent__agent_id="lookup", capability="", seconds=300)
    assert (bucket.successes, bucket.failures) == (1, 1)
    assert not AgentStep.objects.filter(uncounted=True).exists()
