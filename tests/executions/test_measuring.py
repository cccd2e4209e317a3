"""What attempts tell about their agents, and what others measured."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from agentflow.agents import performance
from agentflow.agents.models import Agent, AgentBucket
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from executions.models import BlockAttempt, BlockExecution, Execution
from executions.services import measuring
from tests.factories.agents import AgentFactory
from tests.factories.governance import client_of, member

from .conftest import Start, block, template


@pytest.fixture
def execution(start: Start) -> Execution:
    return start(template(block("a")))


@pytest.fixture
def agent(execution: Execution) -> Agent:
    performance._cached.clear()
    return AgentFactory.create(workspace=execution.workspace, agent_id="remote", cost={"perCall": 0.5})


@pytest.fixture
def ended(execution: Execution, agent: Agent) -> Callable[..., None]:
    """Attempts of the agent that have ended just now."""
    row = BlockExecution.objects.get(execution=execution)

    def made(*failures: dict[str, Any] | None, ms: float = 100, agent_id: str = "remote") -> None:
        first = BlockAttempt.objects.count() + 1
        now = timezone.now()
        for number, failure in enumerate(failures, first):
            BlockAttempt.objects.create(
                block=row,
                attempt=number,
                outcome="error" if failure else "ok",
                agent_id=agent_id,
                failure=failure,
                started_at=now - timedelta(milliseconds=ms),
                ended_at=now,
            )

    return made


def count_all() -> None:
    measuring.measure()  # sees how far there is something
    measuring.measure()  # counts as far


def test_attempts_are_counted_once_however_many_clocks_count(
    ended: Callable[..., None], agent: Agent
) -> None:
    ended(None, None, None, {"kind": "transient", "code": "timeout"}, ms=100)
    ended({"kind": "configuration", "code": "http_404"}, {"kind": "transient", "code": "circuit_open"})
    ended(None, agent_id="builtin.echo")
    measuring.measure()

    def clock(_: int) -> None:
        measuring.measure()
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(clock, range(8)))
    found = performance.stats(agent.workspace_id, ["remote", "nobody"])
    told = found["remote"]
    assert (told.calls, told.successes, told.failures) == (4, 3, 1)
    assert told.mean_ms == pytest.approx(100)
    assert told.p50_ms == pytest.approx(100, rel=0.1)
    assert told.cost == 2.0
    assert found["nobody"] == performance.NOTHING
    assert performance.report(agent)["total"]["failureCodes"] == {"timeout": 1, "http_404": 1}
    ended(None)
    count_all()
    assert performance.report(agent)["total"]["calls"] == 5
    assert AgentBucket.objects.filter(agent=agent).count() <= 4


def test_what_an_open_transaction_has_written_is_counted_once_it_commits(
    ended: Callable[..., None], agent: Agent
) -> None:
    from django.db import transaction

    with transaction.atomic():
        ended(None)

        def elsewhere(_: int) -> None:
            row = BlockExecution.objects.first()
            assert row is not None
            now = timezone.now()
            BlockAttempt.objects.create(
                block=row, attempt=99, outcome="ok", agent_id="remote", started_at=now, ended_at=now
            )
            count_all()
            connection.close()

        with ThreadPoolExecutor(1) as pool:
            list(pool.map(elsewhere, range(1)))
    count_all()
    assert performance.report(agent)["total"]["calls"] == 2


def test_a_simulated_run_says_nothing_about_an_agent(start: Start) -> None:
    execution = start(template(block("a")), simulation={"scale": 0})
    agent = AgentFactory.create(workspace=execution.workspace, agent_id="remote")
    now = timezone.now()
    row = BlockExecution.objects.get(execution=execution)
    BlockAttempt.objects.create(
        block=row, attempt=1, outcome="ok", agent_id="remote", started_at=now, ended_at=now
    )
    count_all()
    assert performance.report(agent)["total"]["calls"] == 0


@pytest.fixture
def operator(agent: Agent) -> APIClient:
    return client_of(member(Workspace.objects.get(pk=agent.workspace_id), Role.OPERATOR))


def test_what_others_measured_is_counted_once_by_its_id_and_kept_apart(
    operator: APIClient, agent: Agent
) -> None:
    path = f"/api/v1/agents/{agent.pk}"
    sent = [
        {"id": "m-1", "success": True, "latencyMs": 40, "capability": "orders.read", "inputTokens": 7},
        {"id": "m-2", "success": False, "failureCode": "http_500"},
        {"id": "m-2", "success": False},
    ]
    assert operator.post(f"{path}/metrics", {"metrics": sent}, format="json").json() == {"counted": 2}
    assert operator.post(f"{path}/metrics", {"metrics": sent[:2]}, format="json").json() == {"counted": 0}
    told = operator.get(f"{path}/performance", {"window": "1h"}).json()
    assert (told["total"]["calls"], told["outside"]["calls"]) == (0, 2)
    assert told["outside"]["inputTokens"] == 7
    assert told["capabilities"] == ["orders.read"]
    assert told["circuit"]["state"] == "closed"
    stats = performance.stats(agent.workspace_id, ["remote"])["remote"]
    assert (stats.calls, stats.outside_successes, stats.outside_failures) == (0, 1, 1)
    assert stats.weighed == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"id": "a"}, "/metrics/0/success"),
        ({"id": "a", "success": True, "latencyMs": -1}, "/metrics/0/latencyMs"),
        ({"id": "a", "success": True, "at": "2001-01-01T00:00:00Z"}, "/metrics/0/at"),
        ({"id": "a", "success": True, "speed": 1}, "/metrics/0/speed"),
    ],
)
def test_bad_measurements_are_refused(
    operator: APIClient, agent: Agent, author: User, bad: dict[str, Any], pointer: str
) -> None:
    path = f"/api/v1/agents/{agent.pk}/metrics"
    refused = operator.post(path, {"metrics": [bad]}, format="json")
    assert refused.status_code == 400, refused.content
    assert [issue["pointer"] for issue in refused.json()["issues"]] == [pointer]
    assert operator.get(f"/api/v1/agents/{agent.pk}/performance?window=1y").status_code == 400
