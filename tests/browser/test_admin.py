"""The admin in Chromium, against the running product."""

from __future__ import annotations

import pytest

from agentflow.governance.roles import Role
from tests.factories.governance import PASSWORD, member
from tests.service import Service

from .conftest import PHONE, Team, Visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EXECUTIONS = "/admin/executions/execution/"
FETCH = {"blockId": "fetch", "name": "Fetch the order"}
GATE = {
    "blockId": "gate",
    "name": "Approve the refund",
    "dependencies": ["fetch"],
    "humanInLoop": {"type": "approval", "description": "Pay it back. " * 30},
}


def test_an_operator_pauses_and_resumes_by_action_and_sees_the_blocks(
    service: Service, team: Team, visit: Visit
) -> None:
    execution = team.start(FETCH, GATE)
    service.until(lambda: team.api(team.approver).get("/approvals/pending").json()["approvals"])
    operator = member(team.workspace, Role.OPERATOR, is_staff=True)

    page = visit(operator, "/inbox/")
    page.goto("about:blank")  # the inbox would notice that it is signed out, and go to its own form
    page.context.clear_cookies()
    page.goto(EXECUTIONS)  # now by the admin's own form
    page.fill("[name=username]", operator.username)
    page.fill("[name=password]", PASSWORD)
    page.get_by_role("button", name="Log in").click()
    row = page.locator("#result_list tr", has_text=execution[:8])
    for action, status in (("pause_selected", "Paused"), ("resume_selected", "Running")):
        page.wait_for_load_state("networkidle")  # the page's scripts show the actions once a row is ticked
        row.locator("input.action-select").check()
        page.locator("select[name=action]").select_option(action)
        page.get_by_role("button", name="Run").click()
        row.locator(".st", has_text=status).wait_for()

    row.get_by_role("link", name=execution[:8]).click()
    blocks = page.locator("#blocks tbody tr")
    blocks.filter(has_text="Fetch the order").locator('.st[data-st="completed"]').wait_for()
    blocks.filter(has_text="Approve the refund").locator('.st[data-st="human"]').wait_for()
    page.get_by_role("link", name="Open graph, timeline and log").click()
    page.wait_for_url(f"**/executions/{execution}/")


def test_the_first_page_leads_to_what_waits_and_fits_a_phone(
    service: Service, team: Team, visit: Visit
) -> None:
    team.start(FETCH, GATE)
    service.until(lambda: team.api(team.approver).get("/approvals/pending").json()["approvals"])
    viewer = member(team.workspace, Role.VIEWER, is_staff=True)
    page = visit(viewer, "/admin/", screen=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".af-line", has_text="Approve the refund").click()
    link = page.get_by_role("link", name="Open in the inbox")
    assert link.get_attribute("href").startswith("/inbox/")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_role("button", name="Save").count() == 0
