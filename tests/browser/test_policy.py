"""The pages under their Content-Security-Policy: nothing they need is refused, what an attacker needs is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service import Service

from .conftest import Team, Visit
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
