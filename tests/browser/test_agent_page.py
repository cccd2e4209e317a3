"""An agent's page in the admin, against the running product."""

from __future__ import annotations

import pytest
from django.utils import timezone

from agentflow.agents import circuit, performance
from agentflow.agents.performance import Bucket
from agentflow.governance.models import AuditEntry
from agentflow.governance.roles import Role
from tests.factories.agents import AgentFactory
from tests.factories.governance import member

from .conftest import PHONE, Team, Visit, violations

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_an_operator_reads_the_charts_and_closes_the_circuit(team: Team, visit: Visit) -> None:
    agent = AgentFactory.create(workspace=team.workspace, agent_id="orders.read", budget={"cost": 20})
    made = Bucket(successes=3, failures=1, ms=400.0)
    made.histogram[performance.slot(100)] = 4
    performance.merge({(agent.pk, "", performance.beginning(timezone.now(), 300)): made})
    for _ in range(2):
        circuit.record(team.workspace.pk, "orders.read", ok=False, ms=1, unreachable=True)
    assert circuit.flush()

    operator = member(team.workspace, Role.OPERATOR, is_staff=True)
    page = visit(operator, f"/admin/agents/agent/{agent.pk}/change/")
    chart = page.get_by_role("img", name="Calls: 4.")
    assert chart.locator("rect").count() == 2
    assert chart.locator("rect.bad").bounding_box()["height"] > 10
    page.get_by_text("As a table").click()
    assert violations(page) == []
    assert page.get_by_role("cell", name="75.0 %").is_visible()
    panel = page.locator(".af-states section", has_text="Circuit")
    panel.get_by_text("Its last calls reached nobody.").wait_for()
    panel.get_by_label("Reason to close it").fill("The cable is back in.")
    panel.get_by_role("button", name="Close it").click()
    panel.get_by_text("Calls go through.").wait_for()
    assert AuditEntry.objects.get(action="agent.reset_circuit").detail["reason"] == "The cable is back in."
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
