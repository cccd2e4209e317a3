"""The pages under their Content-Security-Policy: nothing they need is refused, what an attacker needs is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentflow.governance.models import User
from tests.mailbox import mailbox
from tests.service import Service

from .conftest import PHONE, Team, Visit
from .test_inbox import TAX_FORM, approval

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", event =>
  window.refused.push([event.effectiveDirective, event.blockedURI, event.sourceFile].join(" ")));
"""


def refused(page: Any) -> list[str]:
    found: list[str] = page.evaluate("window.refused")
    return found


def test_no_page_is_refused_what_it_needs(service: Service, team: Team, visit: Visit) -> None:
    page = visit(team.author, "/inbox/")
    page.context.add_init_script(WATCH)
    execution = team.start(approval("Pay back?"), {**TAX_FORM, "dependencies": ["pay"]})
    (asked,) = service.until(lambda: team.api(team.approver).get("/approvals/pending").json()["approvals"])
    shown = {
        "/inbox/": ".rows, .list, main",
        "/executions/": "main",
        "/templates/": "main",
        f"/inbox/{asked['approvalId']}/": "main h1",
        f"/executions/{execution}/": ".node",
    }
    for path, element in shown.items():
        page.goto(path)
        page.locator(element).first.wait_for()
        page.wait_for_load_state("load")
        assert refused(page) == [], path


def test_a_form_made_of_a_schema_works_under_the_policy(service: Service, team: Team, visit: Visit) -> None:
    page = visit(team.approver, "/inbox/")
    page.context.add_init_script(WATCH)
    team.start(TAX_FORM)
    (asked,) = service.until(lambda: team.api(team.approver).get("/approvals/pending").json()["approvals"])
    page.goto(f"/inbox/{asked['approvalId']}/")
    page.get_by_role("textbox", name="Tax number").fill("DE12345678")
    assert refused(page) == []


def test_an_injected_script_does_not_run(service: Service, team: Team, visit: Visit) -> None:
    page = visit(team.approver, "/inbox/")
    page.evaluate(
        """() => { const box = document.createElement("div");
        box.innerHTML = '<img src=x onerror="window.hit = 1">';
        const script = document.createElement("script");
        script.textContent = "window.hit = 2";
        setTimeout("window.hit = 3", 0);
        document.body.append(box, script); }"""
    )
    page.locator("img[src=x]").evaluate(
        "image => image.complete || new Promise(done => image.addEventListener('error', () => done(true)))"
    )
    page.evaluate("new Promise(done => setTimeout(done, 0))")
    assert page.evaluate("window.hit") is None


def test_a_link_from_a_mail_decides_on_a_phone(
    service: Service, team: Team, chromium: Any, settings: Any
) -> None:
    """By the real clock and SMTP, and a browser that sends Origin and Referer as browsers do."""
    User.objects.filter(pk=team.approver.pk).update(email="approver@example.com")
    with mailbox(settings) as box:
        service.kill("clock")
        where = f"smtp://{box.host}:{box.port}"
        service.start_command("clock", "clock", says="clock ready", AGENTFLOW_EMAIL_URL=where)
        team.start(approval("Pay back?"))
        service.until(lambda: box.mails, why="the mail")
    (link,) = re.findall(r"^Approve: (\S+)$", box.text(), re.MULTILINE)
    context = chromium.new_context(viewport=PHONE)
    context.add_init_script(WATCH)
    page = context.new_page()
    page.goto(link)
    page.get_by_label("Comment").fill("from the train")
    assert refused(page) == []
    page.get_by_role("button", name="Approve").click()
    page.locator("#outcome").wait_for()
    assert "approved this" in page.locator("#outcome").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
    (seen,) = team.api(team.author).get("/approvals?status=approved").json()["approvals"]
    assert (seen["approver"], seen["comments"]) == (team.approver.username, "from the train")
