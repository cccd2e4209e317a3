"""An incident in the admin, looked at and repaired in bulk."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.governance.roles import Role
from tests.factories.governance import member
from tests.service import Service

from .conftest import PHONE, Team, Visit, violations

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STEP = {
    "blockId": "fetch",
    "name": "Fetch the order",
    "retryPolicy": {"maxRetries": 0},
    "agentId": "builtin.echo",
}
SCRIPT: dict[str, Any] = {"failures": {"fetch": [{"kind": "agent", "times": 1}]}}


def _stopped(page: Any) -> None:
    """A repair whose first step takes long, stopped before the rest."""
    page.get_by_role("button", name="Repair all").click()
    page.get_by_text("0 of 2 applied").or_(page.get_by_text("1 of 2 applied")).wait_for()
    page.get_by_role("button", name="Stop the repair").click()
    page.locator(".af-repair-line", has_text="Stopped").wait_for()
    page.locator("#timeline", has_text="stopped").wait_for()


def test_an_operator_repairs_all_that_an_incident_holds(service: Service, team: Team, visit: Visit) -> None:
    api = team.api(team.author)
    runs = [team.start(STEP, **SCRIPT)]
    template_id = api.get(f"/executions/{runs[0]}").json()["templateId"]
    for _ in range(2):
        started = api.post("/executions", json={"templateId": template_id, "simulation": SCRIPT})
        runs.append(started.json()["executionId"])
    path = f"/incidents?templateId={template_id}"
    service.until(lambda: [each["count"] for each in api.get(path).json()["incidents"]] == [3])
    operator = member(team.workspace, Role.OPERATOR, is_staff=True)

    page = visit(operator, "/admin/executions/incident/")
    page.get_by_role("link", name="fetch: simulated_agent").click()
    page.locator(".af-radius", has_text="3 steps wait for a person").wait_for()
    page.get_by_role("button", name="Dry run").click()
    page.locator("#plan tbody tr").nth(2).wait_for()
    page.get_by_label("Reason").fill("The shop is back.")
    assert violations(page) == []
    page.get_by_role("button", name="Repair all").click()
    page.locator(".af-repair-line", has_text="3 mended").wait_for()
    assert {api.get(f"/executions/{run}").json()["status"] for run in runs} == {"completed"}
    page.reload()
    page.locator("#timeline", has_text="done: 3 applied").wait_for()
    page.set_viewport_size(PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]

    slow: dict[str, Any] = {
        "failures": {"weigh": [{"kind": "agent", "times": 1}, {"kind": "slow", "ms": 20_000}]}
    }
    first = team.start({**STEP, "blockId": "weigh"}, **slow)
    template_id = api.get(f"/executions/{first}").json()["templateId"]
    api.post("/executions", json={"templateId": template_id, "simulation": slow})
    path = f"/incidents?templateId={template_id}"
    service.until(lambda: [each["count"] for each in api.get(path).json()["incidents"]] == [2])
    incident_id = api.get(path).json()["incidents"][0]["incidentId"]
    _stopped(visit(operator, f"/admin/executions/incident/{incident_id}/change/"))
    left = api.get(f"/incidents/{incident_id}/repairs").json()["repairs"][0]["progress"]
    assert left["pending"] >= 1
