"""What an open circuit means to the blocks whose agent it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentflow.agents import circuit, registry
from agentflow.agents.models import Agent
from agentflow.governance.models import User, Workspace
from approvals.models import Approval
from executions.models import BlockAttempt, Execution
from tests.factories.agents import AgentFactory
from tests.servers import HttpServer, http_server
from tests.waiting import PATIENCE_S

from .conftest import Start, answer, block, drain, make_due, row, template


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        running.on("/", lambda exchange: exchange.json({"n": 1}))
        yield running
    circuit.circuits._known.clear()


@pytest.fixture
def shut(start: Start, server: HttpServer) -> Callable[..., Execution]:
    """A run whose one agent is well again, while its circuit is still open."""

    def made(rules: dict[str, Any], **fields: Any) -> Execution:
        execution = start(template(block("a", agentId="remote", **fields)))
        workspace = Workspace.objects.get(pk=execution.workspace_id)
        workspace.egress_allow = [server.allowed]
        workspace.save()
        AgentFactory.create(
            workspace=workspace,
            agent_id="remote",
            effect="pure",
            configuration={"url": server.url()},
            measures={"circuit": rules},
        )
        registry.forget()
        for _ in range(2):
            circuit.record(workspace.pk, "remote", False, 1.0, unreachable=True)
        assert circuit.flush(PATIENCE_S)
        drain(execution)
        return execution

    return made


def test_a_block_waits_for_its_agents_circuit_without_using_up_its_tries(
    shut: Callable[..., Execution], server: HttpServer
) -> None:
    execution = shut({"cooldownSeconds": 60}, retryPolicy={"maxRetries": 0})
    for _ in range(3):
        make_due(execution)
        drain(execution)
        waits = row(execution, "a")
        assert (waits.status, waits.reason) == ("ready", "circuit_open")
        assert waits.available_at is not None
    assert not server.seen
    assert not BlockAttempt.objects.filter(block=waits).exists()
    assert circuit.reset(execution.workspace_id, Agent.objects.get(agent_id="remote").agent_id)
    make_due(execution)
    drain(execution)
    assert execution.status == "completed"
    assert len(server.seen) == 1


def test_after_a_refusal_the_tries_of_a_block_are_as_many_as_before(
    shut: Callable[..., Execution], server: HttpServer
) -> None:
    server.on("/", lambda exchange: exchange.reply(status=500))
    policy = {"maxRetries": 1, "initialDelay": 0, "onExhausted": "fail"}
    execution = shut({"cooldownSeconds": 60, "minimumCalls": 99}, retryPolicy=policy)
    assert circuit.reset(execution.workspace_id, "remote")
    for _ in range(4):
        make_due(execution)
        drain(execution)
    assert execution.status == "failed"
    assert len(server.seen) == 2


def test_out_of_patience_a_block_asks_a_person(shut: Callable[..., Execution], author: User) -> None:
    execution = shut({"cooldownSeconds": 60, "patienceSeconds": 0}, retryPolicy={"maxRetries": 0})
    asked = Approval.objects.get(execution=execution)
    assert row(execution, "a").error["code"] == "circuit_open_long"  # type: ignore[index]
    assert asked.kind == "fix"
    circuit.reset(execution.workspace_id, "remote")
    answer(execution, "a", author, response={"action": "retry"})
    assert execution.status == "completed"
