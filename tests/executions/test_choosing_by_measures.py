"""Choosing by how agents did: their attempts, their circuits and their health."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agentflow.agents import circuit, performance, registry
from agentflow.agents.matching import Requirements
from agentflow.agents.models import Agent, Health
from agentflow.agents.performance import Bucket
from agentflow.agents.selection import choose
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject
from executions.models import Execution, RoutingReceipt
from executions.services import reconcile
from tests import builtins
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.servers import HttpServer, http_server
from tests.waiting import PATIENCE_S, until

from .conftest import Start, block, drain, row, template

AT_ONCE = {"initialDelay": 0}


@pytest.fixture
def servers() -> Iterator[dict[str, tuple[HttpServer, ExitStack]]]:
    """Where `one` and `two` listen, and what takes each away."""
    with ExitStack() as both:
        made = {}
        for name in ("one", "two"):
            alone = both.enter_context(ExitStack())
            server = alone.enter_context(http_server())
            server.on("/", lambda exchange: exchange.json({}, connection="close"))
            made[name] = (server, alone)
        yield made
    circuit.circuits._known.clear()


@pytest.fixture
def begin(start: Start, servers: dict[str, tuple[HttpServer, ExitStack]]) -> Start:
    """Accept a run in a workspace whose agents `one` and `two` can `work`, equally well."""

    def made(*blocks: JSONObject) -> Execution:
        execution = start(template(*blocks))
        workspace = Workspace.objects.get(pk=execution.workspace_id)
        if not Agent.objects.filter(workspace=workspace).exists():
            workspace.egress_allow = [server.allowed for server, _ in servers.values()]
            workspace.save()
            for name, (server, _) in servers.items():
                agent(workspace, name, server.url())
            registry.forget()
        return execution

    return made


def agent(workspace: Workspace, name: str, url: str = "http://127.0.0.1/", **fields: Any) -> Agent:
    capabilities = [{"name": "work"}]
    return AgentFactory.create(
        workspace=workspace,
        agent_id=name,
        effect="pure",
        capabilities=capabilities,
        configuration={"url": url},
        measures={"circuit": {"cooldownSeconds": 60}},
        **fields,
    )


def wanting(block_id: str = "a", *dependencies: str) -> JSONObject:
    return {
        "blockId": block_id,
        "capabilities": ["work"],
        "dependencies": list(dependencies),
        "retryPolicy": AT_ONCE,
    }


def called(execution: Execution, block_id: str = "a") -> list[str]:
    return list(row(execution, block_id).attempts.order_by("attempt").values_list("agent_id", flat=True))


def receipt(execution: Execution, block_id: str = "a") -> JSONObject:
    found = RoutingReceipt.objects.filter(block=row(execution, block_id)).order_by("-attempt").first()
    assert found is not None
    return dict(found.receipt)


def remember(workspace_id: Any, name: str, *, successes: int = 0, failures: int = 0, ms: float = 100) -> None:
    """What the clock counted lately."""
    of = Agent.objects.get(workspace_id=workspace_id, agent_id=name)
    bucket = Bucket(successes=successes, failures=failures, ms=ms * (successes + failures))
    performance.merge({(of.pk, "", performance.beginning(datetime.now(UTC), 300)): bucket})
    performance._cached.clear()


def open_circuit(execution: Execution, name: str) -> None:
    for _ in range(2):
        circuit.record(execution.workspace_id, name, False, 1.0, unreachable=True)
    assert circuit.flush(PATIENCE_S)


def test_one_that_failed_often_comes_behind_and_the_receipt_says_how_often(begin: Start) -> None:
    execution = begin(wanting())
    remember(execution.workspace_id, "one", successes=8, failures=4, ms=50)
    remember(execution.workspace_id, "two", successes=12, ms=100)
    drain(execution)
    assert (execution.status, called(execution)) == ("completed", ["two"])
    said = receipt(execution)
    assert (said["chosen"], said["runnerUp"]) == ("two", "one")
    first, second = said["candidates"]
    assert (first["seen"]["successes"], second["seen"]["failures"]) == (12, 4)
    assert first["parts"]["success"] == pytest.approx(16 / 17, abs=1e-3)
    assert second["parts"]["success"] == pytest.approx(12 / 17, abs=1e-3)
    assert (first["seen"]["meanMs"], second["parts"]["latency"]) == (100, 1)


def test_the_faster_of_two_that_do_as_well_is_chosen(begin: Start) -> None:
    execution = begin(wanting())
    remember(execution.workspace_id, "one", successes=20, ms=900)
    remember(execution.workspace_id, "two", successes=20, ms=90)
    drain(execution)
    assert called(execution) == ["two"]


def test_one_that_is_not_well_or_whose_circuit_is_open_is_left_out_with_the_reason(begin: Start) -> None:
    execution, later = begin(wanting()), begin(wanting())
    Agent.objects.filter(agent_id="one").update(health=Health.UNHEALTHY)
    registry.forget()
    drain(execution)
    assert called(execution) == ["two"]
    assert receipt(execution)["filteredOut"] == [{"agentId": "one", "reason": "unhealthy"}]
    Agent.objects.filter(agent_id="one").update(health=Health.HEALTHY)
    registry.forget()
    open_circuit(later, "two")
    drain(later)
    assert called(later) == ["one"]
    assert receipt(later)["filteredOut"] == [{"agentId": "two", "reason": "circuit_open"}]


def test_while_every_circuit_is_open_the_block_waits_and_goes_on_when_one_closes(begin: Start) -> None:
    execution = begin(wanting())
    for name in ("one", "two"):
        open_circuit(execution, name)
    drain(execution)
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_external"}
    assert circuit.reset(execution.workspace_id, "two")
    reconcile.look(execution.pk)
    drain(execution)
    assert (execution.status, called(execution), row(execution, "a").attempt) == ("completed", ["two"], 1)


def test_after_the_cool_down_the_better_one_gets_its_trial_and_only_one_call_does(begin: Start) -> None:
    execution, beside = begin(wanting()), begin(wanting())
    remember(execution.workspace_id, "one", successes=50)
    Agent.objects.update(measures={"circuit": {"cooldownSeconds": 1, "cooldownMaxSeconds": 1}})
    registry.forget()
    open_circuit(execution, "one")
    circuits = circuit.circuits
    key = (execution.workspace_id, "one")
    rules = registry.resolve(*key).measures.circuit  # type: ignore[union-attr]
    until(lambda: circuits.peek([(key, rules)])[0].state == "half_open")
    circuits.forget(key)
    assert circuit.allow(*key)  # a call elsewhere, which is at work
    drain(beside)
    assert called(beside) == ["two"]
    assert receipt(beside)["filteredOut"] == [{"agentId": "one", "reason": "circuit_open"}]
    circuit.record(*key, True, 5.0)
    assert circuit.flush(PATIENCE_S)
    drain(execution)
    assert called(execution) == ["one"]


def test_after_one_of_two_is_killed_the_run_goes_on_with_the_other(
    begin: Start, servers: dict[str, tuple[HttpServer, ExitStack]]
) -> None:
    builtins.on_call["kill"] = servers["one"][1].close
    kill = block("kill", "a", agentId="test.record", configuration={"name": "kill"})
    execution = begin(wanting(), kill, wanting("b", "kill"), wanting("c", "b"))
    began = datetime.now(UTC)
    for _ in range(3):
        drain(execution)
    assert execution.status == "completed"
    assert called(execution) == ["one"]
    assert [called(execution, name)[-1] for name in "bc"] == ["two", "two"]
    assert called(execution, "b") == ["one", "two"]
    assert {"agentId": "one", "reason": "failed_before"} in receipt(execution, "b")["filteredOut"]
    assert circuit.flush(PATIENCE_S)
    after = begin(wanting())
    drain(after)
    assert (after.status, called(after)) == ("completed", ["two"])
    assert receipt(after)["filteredOut"] == [{"agentId": "one", "reason": "circuit_open"}]
    assert (datetime.now(UTC) - began).total_seconds() < 10


def test_the_number_of_queries_is_the_same_however_many_agents_there_are(begin: Start) -> None:
    execution = begin(wanting())
    workspace = Workspace.objects.get(pk=execution.workspace_id)

    def queries() -> int:
        registry.forget()
        performance._cached.clear()
        with CaptureQueriesContext(connection) as seen:
            choose(workspace.pk, Requirements(capabilities=("work",)))
        return len(seen)

    few = queries()
    for number in range(20):
        agent(workspace, f"more{number}")
    assert queries() == few
    with CaptureQueriesContext(connection) as seen:
        choose(workspace.pk, Requirements(capabilities=("work",)))
    assert len(seen) == 0


def test_how_an_agent_did_at_what_is_asked_says_more_than_how_it_did_at_all(begin: Start) -> None:
    execution = begin(wanting())
    workspace = Workspace.objects.get(pk=execution.workspace_id)
    one, two = (Agent.objects.get(agent_id=name) for name in ("one", "two"))
    at = performance.beginning(datetime.now(UTC), performance.FINE_S)

    def did(agent: Agent, capability: str, successes: int, failures: int) -> None:
        performance.merge({(agent.pk, capability, at): Bucket(successes, failures, 100.0)})

    did(one, "", 1000, 30)  # good, but not at this
    did(one, "work", 5, 25)
    did(two, "", 1000, 30)
    did(two, "work", 5, 0)  # too little to say
    performance._cached.clear()
    found = choose(workspace.pk, Requirements(capabilities=("work",))).ranking
    assert [(each.agent_id, each.seen["successes"]) for each in found.fit] == [("two", 1000)]
    assert ("one", "success") in found.left_out
    loose = choose(workspace.pk, Requirements(capabilities=("work",), exact=False)).ranking
    assert {each.agent_id for each in loose.fit} == {"one", "two"}


def test_a_block_that_names_its_agent_asks_for_no_measures(begin: Start) -> None:
    execution = begin(block("a", agentId="one"))
    with CaptureQueriesContext(connection) as seen:
        drain(execution)
    assert execution.status == "completed"
    assert not [query for query in seen if "agents_agentbucket" in query["sql"]]
