"""Health of agents: what is asked, when it turns, and who asks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from rest_framework.test import APIClient

from agentflow.agents import registry
from agentflow.agents.models import Agent, AgentCheck, AgentSource
from agentflow.agents.services import health
from agentflow.agents.upkeep import Upkeep
from agentflow.governance.models import Workspace
from agentflow.governance.roles import Role
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.factories.governance import WorkspaceFactory, client_of, member
from tests.servers import HttpServer
from tests.waiting import PATIENCE_S, until


def turned(agent: Agent) -> str:
    health.check(pk=agent.pk, by=None)
    agent.refresh_from_db()
    return str(agent.health)


@pytest.mark.django_db
def test_an_agent_is_unhealthy_after_so_many_failures_and_well_at_the_first_success(
    workspace: Workspace, server: HttpServer
) -> None:
    url = server.url("/orders/{id}")
    agent = AgentFactory.create(
        workspace=workspace,
        agent_id="orders",
        configuration={"url": url, "headers": {"X-Token": "t"}},
        health_check={"url": server.url("/health"), "failures": 2},
    )
    server.on("/health", lambda e: e.reply(b"ok"))
    assert turned(agent) == "healthy"
    assert server.seen[-1].headers["x-token"] == "t"
    server.on("/health", lambda e: e.reply(b"", 503))
    assert turned(agent) == "healthy"
    assert agent.health_reason == "unhealthy: It answers 503."
    registry.resolve(workspace.pk, "orders")
    assert turned(agent) == "unhealthy"
    server.on("/health", lambda e: e.reply(b"ok"))
    assert (turned(agent), agent.health_failures, agent.health_reason) == ("healthy", 0, "")
    for _ in range(health.KEPT):
        health.check(pk=agent.pk, by=None)
    assert AgentCheck.objects.count() == health.KEPT


@pytest.mark.django_db
def test_each_kind_is_asked_in_its_own_way(workspace: Workspace, server: HttpServer) -> None:
    ScriptFactory.create(workspace=workspace, name="here")
    base = server.url("")
    server.on("/agents", lambda e: e.json({"agents": []}))
    server.on("/v1/models", lambda e: e.json({"data": []}))
    server.on("/broken/agents", lambda e: e.reply(b"", 500))
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("API", {"url": server.url("/a")}, True),  # 404 at the root: something answers
        ("API", {"url": "http://127.0.0.1:9/"}, False),
        ("A2A", {"url": server.url("/rpc")}, True),
        ("AgentService", {"url": base, "agent": "a"}, True),
        ("AgentService", {"url": f"{base}/broken", "agent": "a"}, False),
        ("Script", {"script": "here"}, True),
        ("Script", {"script": "gone"}, False),
        ("LLM", {"baseUrl": f"{base}/v1"}, True),
        ("LLM", {}, False),
        ("MCP", {"server": "none", "tool": "t"}, False),
        ("UseCase", {"templateId": "x"}, True),
        ("API", {"url": server.url("/a"), "headers": {"X-A": "${secrets.NONE}"}}, False),
    ]
    for tool_type, configuration, well in cases:
        agent = AgentFactory.create(workspace=workspace, tool_type=tool_type, configuration=configuration)
        assert health.check(pk=agent.pk, by=None).ok is well, (tool_type, configuration)


@pytest.mark.django_db
def test_health_is_asked_for_over_rest(workspace: Workspace, server: HttpServer) -> None:
    agent = AgentFactory.create(workspace=workspace, configuration={"url": server.url()})
    url = f"/api/v1/agents/{agent.pk}/health-check"

    def by(role: Role, home: Workspace = workspace) -> APIClient:
        return client_of(member(home, role))

    answer = by(Role.OPERATOR).post(url)
    assert (answer.status_code, answer.json()["health"]) == (200, "healthy")
    assert [check["ok"] for check in by(Role.VIEWER).get(url).json()["checks"]] == [True]
    assert by(Role.VIEWER).post(url).status_code == 403
    assert by(Role.ADMIN, WorkspaceFactory.create()).post(url).status_code == 404
    assert client_of(None).post(url).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_the_clock_looks_at_what_is_due_few_at_a_time(workspace: Workspace, server: HttpServer) -> None:
    at_once, most, lock, gate = 0, 0, threading.Lock(), threading.Event()

    def slow(exchange: Any) -> None:
        nonlocal at_once, most
        with lock:
            at_once, most = at_once + 1, max(most, at_once + 1)
        gate.wait(PATIENCE_S)
        with lock:
            at_once -= 1
        exchange.reply(b"ok")

    server.on("/health", slow)
    server.on("/svc/agents", lambda e: e.json({"agents": [{"id": "a", "capabilities": []}]}))
    check = {"url": server.url("/health"), "intervalSeconds": 60}
    agents = AgentFactory.create_batch(
        3, workspace=workspace, configuration={"url": server.url()}, health_check=check
    )
    AgentFactory.create(workspace=workspace)  # has no interval, nor has the installation
    AgentSource.objects.create(
        workspace=workspace, kind="agent_service", name="svc", url=server.url("/svc"), interval_s=60
    )
    upkeep = Upkeep(at_once=2)
    assert upkeep.start_due() == 2  # the source, and one agent
    until(lambda: Agent.objects.filter(agent_id="svc.a").exists(), why="the source to be looked at")
    until(lambda: upkeep.start_due() == 1, why="a free thread")
    until(lambda: most == 2, why="two at once")
    assert upkeep.start_due() == 0
    gate.set()
    until(lambda: upkeep.start_due() >= 0 and AgentCheck.objects.count() >= 3, why="all checks")
    until(lambda: Agent.objects.filter(health="healthy").count() == len(agents), why="their health")
    assert most == 2
    until(lambda: upkeep._free.acquire(blocking=False), why="a thread to be done")
    until(lambda: upkeep._free.acquire(blocking=False), why="the other thread to be done")
