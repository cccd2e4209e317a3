"""Early warning: how often it is raised for nothing, how soon it is raised, and what becomes of it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from agentflow.agents import drift, performance
from agentflow.agents.circuit import CircuitState
from agentflow.agents.condition import AgentFacts, Pair, of_facts
from agentflow.agents.models import Agent
from agentflow.agents.performance import Bucket
from agentflow.agents.services import warnings
from agentflow.agents.warning_models import AgentWarning
from agentflow.events.models import Event
from agentflow.governance.models import Workspace
from agentflow.governance.roles import Role
from tests.factories.agents import AgentFactory
from tests.factories.governance import WorkspaceFactory, client_of, member

HOUR = 12  # buckets


def drawn(dice: random.Random, share: float, calls: int) -> tuple[int, int]:
    return sum(dice.random() < share for _ in range(calls)), calls


@pytest.mark.parametrize(("usual", "calls"), [(0.002, 40), (0.02, 10), (0.05, 25), (0.3, 10)])
def test_steady_agents_raise_an_alarm_in_fewer_than_one_of_a_thousand_hours(usual: float, calls: int) -> None:
    dice = random.Random(f"{usual}/{calls}")
    alarms = hours = 0
    for _ in range(25):  # agents, each with a day behind it that is as much by chance as what follows
        known = drift.shares(*drawn(dice, usual, calls * 12 * 24))
        if known is None:
            continue
        buckets = [drawn(dice, usual, calls) for _ in range(HOUR * 8)]
        for end in range(HOUR, len(buckets)):  # looked at with each new bucket
            alarms += drift.begins(known, buckets[end - HOUR : end])
        hours += 8
    assert hours >= 100
    assert alarms * 1000 <= hours * HOUR  # of the looks, which overlap


@pytest.mark.parametrize(
    ("usual", "then", "within"),  # calls, in nine of ten cases
    [(0.01, 0.5, 20), (0.02, 0.2, 100), (0.05, 0.25, 160), (0.3, 0.9, 30)],
)
def test_a_change_is_seen_within_so_many_calls(usual: float, then: float, within: int) -> None:
    dice = random.Random(7)
    known = drift.shares(*drawn(dice, usual, 2000))
    assert known is not None
    soon = 0
    for _ in range(100):
        before = [drawn(dice, usual, 10) for _ in range(4)]
        after = [drawn(dice, then, 10) for _ in range(within // 10)]
        soon += any(drift.begins(known, before + after[:end]) for end in range(1, len(after) + 1))
    assert soon >= 90


def test_too_few_calls_say_nothing_and_what_always_fails_cannot_get_worse() -> None:
    assert drift.shares(0, drift.ENOUGH - 1) is None
    assert drift.shares(99, 100) is None
    assert drift.slow_from([0] * 84) is None
    known = drift.shares(0, 1000)
    assert known is not None
    assert not drift.begins(known, [])
    assert drift.begins(known, [(10, 10)])
    assert drift.is_over(known, [(10, 10), (0, 60)])
    assert not drift.is_over(known, [(0, 10)])


# -- as rows -------------------------------------------------------------------


def bucket(successes: int, failures: int, ms: float = 100.0) -> Bucket:
    made = Bucket(successes, failures, ms * (successes + failures))
    made.histogram[performance.slot(ms)] += successes + failures
    return made


def usual(agent: Agent, hours_ago: int = 3, **calls: Any) -> None:
    at = performance.beginning(timezone.now() - timedelta(hours=hours_ago), 300)
    performance.merge({(agent.pk, "", at): bucket(**calls)})


def now_calls(agent: Agent, minutes_ago: int = 0, **calls: Any) -> None:
    at = performance.beginning(timezone.now() - timedelta(minutes=minutes_ago), 300)
    performance.merge({(agent.pk, "", at): bucket(**calls)})


@pytest.mark.django_db
def test_an_onset_is_told_once_shown_everywhere_and_cleared_when_it_is_over() -> None:
    home = WorkspaceFactory.create()
    well, failing, slow, new = (AgentFactory.create(workspace=home, agent_id=each) for each in "wfsn")
    for agent in (well, failing, slow):
        usual(agent, successes=995, failures=5)
        now_calls(agent, successes=20, failures=0)
    usual(failing, hours_ago=1, successes=50, failures=0)
    now_calls(new, successes=0, failures=9)  # nobody knows what is usual
    assert warnings.look() is None
    assert not AgentWarning.objects.exists()
    now_calls(failing, minutes_ago=7, successes=10, failures=20)
    now_calls(slow, successes=30, failures=0, ms=5000.0)
    for _ in range(2):
        warnings.look()
    assert {(each.agent.agent_id, each.signal) for each in AgentWarning.objects.all()} == {
        ("f", "errors"),
        ("s", "latency"),
    }
    told = Event.objects.filter(type="agent_drifts").order_by("payload__agentId")
    assert [(each.payload or {})["agentId"] for each in told] == ["f", "s"]
    _is_shown(home, failing, slow)

    now_calls(failing, successes=80, failures=0)
    AgentWarning.objects.filter(agent=slow).update(since=timezone.now() - timedelta(hours=25))
    warnings.look()
    ended = {each.agent.agent_id: each.ended_as for each in AgentWarning.objects.exclude(ended_at=None)}
    assert ended == {"f": "as_usual", "s": "new_usual"}
    assert Event.objects.filter(type="agent_drift_over").count() == 2
    AgentWarning.objects.update(ended_at=timezone.now() - timedelta(days=31))
    assert warnings.purge() == 2


def _is_shown(home: Workspace, failing: Agent, slow: Agent) -> None:
    client = client_of(member(home, Role.VIEWER))
    assert _listed(client, "drifts=true") == ["f", "s"]
    assert _listed(client, "drifts=false") == ["n", "w"]
    said = client.get(f"/api/v1/agents/{failing.pk}/health").json()
    assert (said["status"], [each["code"] for each in said["reasons"]]) == (
        "degraded",
        ["drift_errors", "failing"],
    )
    assert said["trend"]["direction"] == "worse"
    assert said["reasons"][0]["href"] == f"/admin/agents/agent/{failing.pk}/change/"
    operator = Client()
    operator.force_login(member(home, Role.OPERATOR, is_staff=True))
    for query, shown in (("any", "fs"), ("latency", "s"), ("errors", "f"), ("x", "fsnw")):
        listed = operator.get(f"/admin/agents/agent/?drifts={query}").content.decode()
        assert {name for name in "fsnw" if f"{Agent.objects.get(agent_id=name).pk}/change" in listed} == set(
            shown
        )
    page = operator.get(f"/admin/agents/agent/{slow.pk}/change/").content.decode()
    assert "It is slower than usual: 60% of 50 calls took longer than" in page


def _listed(client: APIClient, query: str) -> list[str]:
    return [each["agentId"] for each in client.get(f"/api/v1/agents?{query}").json()["agents"]]


@pytest.mark.django_db
def test_a_look_takes_the_same_few_statements_however_many_agents_there_are() -> None:
    home = WorkspaceFactory.create()
    counts = []
    for _ in range(2):
        for _ in range(3):
            agent = AgentFactory.create(workspace=home)
            usual(agent, successes=100, failures=1)
            now_calls(agent, successes=20, failures=0)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            warnings.look()
        counts.append(len(queries))
    assert counts == [4, 4]
    agent = Agent.objects.all()[0]
    client = client_of(member(home, Role.VIEWER))
    client.get(f"/api/v1/agents/{agent.pk}/health")
    with CaptureQueriesContext(connection) as queries:
        assert client.get(f"/api/v1/agents/{agent.pk}/health").status_code == 200
    assert len([each for each in queries if "agents_" in each["sql"]]) == 3
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    assert stranger.get(f"/api/v1/agents/{agent.pk}/health").status_code == 404


# -- the health of an agent ----------------------------------------------------

WELL = Pair("1h", bucket(50, 0), bucket(50, 0))


@pytest.mark.parametrize(
    ("facts", "status", "codes"),
    [
        ({}, "unknown", []),
        ({"health": "healthy"}, "healthy", []),
        ({"hour": WELL}, "healthy", []),
        ({"enabled": False}, "unhealthy", ["switched_off"]),
        ({"gone_at": datetime(2026, 1, 1), "enabled": False}, "unhealthy", ["gone"]),
        ({"health": "unhealthy", "failed_checks": 3}, "unhealthy", ["check_failed"]),
        ({"health": "healthy", "failed_checks": 1}, "degraded", ["check_failed"]),
        ({"circuit": CircuitState("open", why="slow")}, "unhealthy", ["circuit_open"]),
        ({"circuit": CircuitState("half_open")}, "degraded", ["circuit_half_open"]),
        ({"hour": Pair("1h", bucket(15, 5))}, "degraded", ["failing"]),
        ({"hour": Pair("1h", bucket(5, 5))}, "unhealthy", ["failing"]),
        ({"hour": Pair("1h", bucket(1, 8))}, "healthy", []),
        (
            {"hour": Pair("1h", bucket(15, 5)), "circuit": CircuitState("open")},
            "unhealthy",
            ["circuit_open", "failing"],
        ),
    ],
)
def test_the_health_of_an_agent_from_its_facts(facts: dict[str, Any], status: str, codes: list[str]) -> None:
    found = of_facts(AgentFacts(**facts))
    assert (found.status, [each.code for each in found.reasons]) == (status, codes)
    assert all(each.message and each.remedy for each in found.reasons)
