"""How well a template's executions go, beside how they went before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentflow.governance.roles import Role
from agentflow.workflow.health import Reason, Status, health
from executions.models import Execution
from executions.template_condition import Runs, TemplateFacts, of_facts
from templates_app.models import TemplateVersion
from tests.factories.agents import AgentFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory, client_of, member

BAD = health([Reason("circuit_open", "Its circuit is open.", "See.", status=Status.UNHEALTHY)])


INCIDENTS = ["open_incident", "more_incidents"]


def runs(now: Runs, before: Runs | None = None) -> dict[str, Any]:
    return {"runs": {"24h": (now, before or Runs())}}


@pytest.mark.parametrize(
    ("facts", "status", "codes", "trend"),
    [
        ({}, "unknown", [], "steady"),
        (runs(Runs(100, 100, 500.0)), "healthy", [], "steady"),
        (runs(Runs(3, 4)), "healthy", [], "steady"),  # too few
        (runs(Runs(80, 100), Runs(99, 100)), "degraded", ["failing"], "worse"),
        (runs(Runs(40, 100), Runs(10, 100)), "unhealthy", ["failing"], "better"),
        (runs(Runs(9, 9, 900.0), Runs(9, 9, 500.0)), "healthy", [], "worse"),
        (runs(Runs(9, 9, 5.0, 10, 50), Runs(9, 9, 5.0, 45, 50)), "healthy", [], "worse"),
        ({"agents": [("a", BAD, "")]}, "unhealthy", ["agent_unhealthy"], "steady"),
        ({"agents": [("a", health([]), "")]}, "unknown", [], "steady"),
        ({"incidents": [("a", 3, "")], "open_incidents": 2}, "degraded", INCIDENTS, "steady"),
        ({"stuck": 2}, "degraded", ["stuck"], "steady"),
    ],
)  # fmt: skip
def test_the_health_of_a_template_from_its_facts(
    facts: dict[str, Any], status: str, codes: list[str], trend: str
) -> None:
    found = of_facts(TemplateFacts(**facts))
    assert (found.status, [each.code for each in found.reasons], found.trend) == (status, codes, trend)


@pytest.mark.django_db
def test_it_is_read_in_a_fixed_number_of_queries_and_shown() -> None:
    home = WorkspaceFactory.create()
    AgentFactory.create(workspace=home, agent_id="scorer", enabled=False)
    definition = {"name": "t", "blocks": [{"blockId": "a", "agentId": "scorer"}]}
    first = ExecutionFactory.create(
        workspace=home, definition=definition, status="completed", completed=["a"]
    )
    version = first.template_version
    TemplateVersion.objects.filter(pk=version.pk).update(status="published")
    client = client_of(member(home, Role.VIEWER))
    address = f"/api/v1/templates/{version.template_id}/health"
    client.get(address)
    counts = []
    for ended in (Now(), Now() - timedelta(hours=30)):
        for status in ("completed", "failed", "failed"):
            made = ExecutionFactory.create(template_version=version, status=status, completed=["a"])
            Execution.objects.filter(pk=made.pk).update(
                completed_at=ended, started_at=ended - timedelta(seconds=9)
            )
        with CaptureQueriesContext(connection) as queries:
            said = client.get(address).json()
        counts.append(len(queries))
    assert counts[0] == counts[1]
    figures = {
        (each["name"], each["window"]): (each["now"], each["before"]) for each in said["trend"]["figures"]
    }
    assert figures["successRate", "24h"] == (0.5, 0.3333)
    assert figures["successRate", "7d"] == (0.4286, None)
    assert [each["code"] for each in said["reasons"]] == ["agent_unhealthy"]
    assert (
        said["reasons"][0]["message"] == "It needs the agent “scorer”: It is switched off: no block calls it."
    )
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    assert stranger.get(address).status_code == 404
    operator = Client()
    operator.force_login(member(home, Role.OPERATOR, is_staff=True))
    page = operator.get(f"/admin/templates_app/template/{version.template_id}/change/").content.decode()
    assert "It needs the agent “scorer”" in page
