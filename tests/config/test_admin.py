"""The admin's frame: what each role is offered, and what its first page shows."""

from __future__ import annotations

import re

import pytest
from django.contrib.staticfiles import finders
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory, IncidentFactory
from tests.factories.governance import UserFactory, WorkspaceFactory, member
from tests.factories.templates import TemplateFactory

pytestmark = pytest.mark.django_db
GOVERN = {"Groups", "Approval levels", "Audit entries", "Users"}


@pytest.fixture
def home() -> Workspace:
    return WorkspaceFactory.create()


def page(user: User, path: str = "/admin/") -> str:
    client = Client()
    client.force_login(user)
    reply = client.get(path)
    assert reply.status_code == 200
    return str(reply.content.decode())


def entries(text: str) -> set[str]:
    """What the sidebar offers."""
    return set(re.findall(r"<span>([A-Z][a-z ]+)</span>", text))


@pytest.mark.parametrize(
    ("role", "offered"),
    [
        (Role.VIEWER, set()),
        (Role.OPERATOR, set()),
        (Role.ADMIN, GOVERN - {"Groups"}),
    ],
)
def test_the_sidebar_offers_what_a_role_may_open(home: Workspace, role: Role, offered: set[str]) -> None:
    found = entries(page(member(home, role, is_staff=True)))
    assert {"Overview", "Executions", "Approvals", "Templates", "Agents", "Scripts", "Workspaces"} <= found
    assert found & GOVERN == offered


def test_a_superuser_is_offered_all(home: Workspace) -> None:
    assert entries(page(UserFactory.create(is_staff=True, is_superuser=True))) >= GOVERN


def test_the_first_page_shows_what_waits_and_what_failed_in_one_s_workspaces(home: Workspace) -> None:
    ApprovalFactory.create(workspace=home, request={"title": "Ours <b>?"})
    ApprovalFactory.create(request={"title": "Theirs?"})
    failed = ExecutionFactory.create(
        workspace=home, status="failed", failed=["a", "b"], error={"code": "x", "message": "It broke."}
    )
    elsewhere = WorkspaceFactory.create()
    ours, theirs, _ = (
        IncidentFactory.create(
            workspace=where, template=TemplateFactory.create(workspace=where), count=3, state=state
        )
        for where, state in ((home, "open"), (elsewhere, "open"), (home, "resolved"))
    )
    text = page(member(home, Role.VIEWER, is_staff=True))
    assert f"/admin/executions/incident/{ours.pk}/change/" in text
    assert "3 failures, the last" in text
    assert f"{theirs.pk}" not in text
    for one in ("<b>1</b> question waits for people", "<b>1</b> open incident<", "<b>1</b> failed in"):
        assert one in re.sub(r"\s+<", "<", text)
    assert "Ours &lt;b&gt;?" in text
    assert "Theirs?" not in text
    assert f"/admin/executions/execution/{failed.pk}/change/" in text
    assert "It broke." in text


def test_every_figure_leads_to_a_list_that_opens(home: Workspace) -> None:
    user = member(home, Role.VIEWER, is_staff=True)
    figures = re.search(r'class="af-figures".*?</div>', page(user), re.DOTALL)
    assert figures
    links = re.findall(r'href="([^"]+)"', figures[0])
    assert len(links) == 8
    for link in links:
        page(user, link.replace("&amp;", "&"))


def test_the_first_page_costs_the_same_however_much_there_is(home: Workspace) -> None:
    client = Client()
    client.force_login(member(home, Role.ADMIN, is_staff=True))
    counts = []
    for _ in range(2):
        ApprovalFactory.create(workspace=home)
        ExecutionFactory.create(workspace=home, status="failed", failed=["a", "b"])
        with CaptureQueriesContext(connection) as queries:
            assert client.get("/admin/").status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 11


def test_an_empty_list_says_what_will_be_there(home: Workspace) -> None:
    user = member(home, Role.OPERATOR, is_staff=True)
    assert "a block of a template calls" in page(user, "/admin/agents/agent/")
    assert "Nothing matches" in page(user, "/admin/agents/agent/?q=zebra")


def test_states_have_the_colours_of_the_pages() -> None:
    def colours(sheet: str) -> set[str]:
        found = finders.find(sheet)
        assert isinstance(found, str)
        with open(found, encoding="utf-8") as text:
            states = "pending|ready|running|human|other|completed|failed|skipped|cancelled|healed"
            return set(re.findall(rf"--(?:{states})(?:-bg|-bar)?:light-dark\([^)]+\)", text.read()))

    own = colours("agentflow/css/admin.css")
    assert len(own) == 30
    assert own == colours("agentflow/css/agentflow.css")
