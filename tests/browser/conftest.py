"""Chromium, people who are signed in, and runs to look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connections

from agentflow.api.authentication import access_token
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from tests.factories.governance import PASSWORD, WorkspaceFactory, member
from tests.factories.templates import write_template
from tests.service import Service

playwright_api = pytest.importorskip("playwright.sync_api")

DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="module")
def chromium(service: Service) -> Iterator[Any]:
    """One Chromium per module, gone before the module's service is.

    Playwright's synchronous API keeps an event loop on this thread, which the ORM refuses to block;
    there it opens connections of its own, which nobody else would close.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium here")
    with pytest.MonkeyPatch.context() as patch, playwright_api.sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()
        connections.close_all()


Visit = Callable[..., Any]


@pytest.fixture
def visit(chromium: Any, service: Service) -> Iterator[Visit]:
    """`visit(user, "/inbox/", screen=PHONE)`: a page of a browser of one's own, signed in by the form.

    A script that throws, or a server that fails, fails the test.
    """
    contexts: list[Any] = []
    wrong: list[str] = []

    def note_failure(reply: Any) -> None:
        if reply.status >= 500:
            wrong.append(f"{reply.status} {reply.url}")

    def open_page(user: User, path: str, screen: dict[str, int] = DESK) -> Any:
        context = chromium.new_context(viewport=screen, base_url=service.base_url)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", note_failure)
        page.goto(f"/login/?next={path}")
        page.fill("[name=username]", user.username)
        page.fill("[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(f"**{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# What axe-core calls an experiment: a button is called as it is labelled (2.5.3).
LOOK = {"runOnly": WCAG, "rules": {"label-content-name-mismatch": {"enabled": True}}}


def violations(page: Any) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA on the page as it is now."""
    page.evaluate(AXE)
    found = page.evaluate("look => axe.run(look)", LOOK)["violations"]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


@dataclass(frozen=True)
class Team:
    """One workspace, its people, and a way to start something in it."""

    workspace: Workspace
    author: User
    approver: User
    second_approver: User
    base_url: str

    def api(self, user: User) -> httpx.Client:
        headers = {"Authorization": f"Bearer {access_token(user)}"}
        return httpx.Client(base_url=f"{self.base_url}/api/v1", headers=headers)

    def start(self, *blocks: JSONObject, name: str = "Refund request", **simulation: Any) -> str:
        """Start a simulated run of these blocks; gives its id."""
        version = write_template(self.workspace, self.author, *blocks, name=name)
        body = {
            "templateId": str(version.template_id),
            "workspaceId": str(self.workspace.pk),
            "simulation": simulation,
        }
        reply = self.api(self.author).post("/executions", json=body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["executionId"])


@pytest.fixture
def team(service: Service) -> Team:
    workspace = WorkspaceFactory.create(name="Customer care")
    return Team(
        workspace=workspace,
        author=member(workspace, Role.AUTHOR, Role.OPERATOR),
        approver=member(workspace, Role.APPROVER, first_name="Noor", last_name="Haddad"),
        second_approver=member(workspace, Role.APPROVER, first_name="Tom", last_name="Berg"),
        base_url=service.base_url,
    )
