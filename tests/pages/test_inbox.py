"""The inbox's list: its order, what it is narrowed to, its pieces, and what it costs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from approvals.inbox import Place
from approvals.models import Approval, SavedView
from tests.factories.approvals import ApprovalFactory, ApprovalLevelFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory, member

pytestmark = pytest.mark.django_db

QUERIES_MAX = 8


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory.create(name="Customer care")


@pytest.fixture
def approver(workspace: Workspace) -> User:
    return member(workspace, Role.APPROVER)


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def titled(workspace: Workspace, title: str, **fields: Any) -> Approval:
    approval: Approval = ApprovalFactory.create(workspace=workspace, request={"title": title}, **fields)
    return approval


def shown(user: User, **query: Any) -> list[str]:
    """The questions of the list, in its order."""
    page = browser_of(user).get("/inbox/rows", query).content.decode()
    return re.findall(r'class="k">.*?<b>(.*?)<', page, re.DOTALL)


def test_the_list_is_ranked_by_what_waiting_costs(workspace: Workspace, approver: User) -> None:
    """The time left decides; what a question holds pulls it forward, but never past an overdue one."""
    line = [{"blockId": f"s{at}", "dependencies": [f"s{at - 1}"]} for at in range(1, 41)]
    blocks = [{"blockId": "s0", "humanInLoop": {"type": "approval"}, "agentId": "builtin.echo"}, *line]
    run = ExecutionFactory.create(
        workspace=workspace, definition={"name": "Long", "blocks": blocks}, waiting_human=["s0"]
    )
    hour = 3_600_000
    holds_much = titled(workspace, "Holds 41", execution=run, block_id="s0", timeout_ms=2 * hour)
    titled(workspace, "Near", timeout_ms=hour)
    titled(workspace, "Between", timeout_ms=int(1.6 * hour))
    late = titled(workspace, "Late")
    Approval.objects.filter(pk=late.pk).update(respond_by=Now() - timedelta(minutes=1))
    assert shown(approver) == ["Late", "Near", "Holds 41", "Between"]
    assert (holds_much.holds, holds_much.pulled_s) == (41, 40 * 60)


def test_the_list_is_narrowed_and_searched(workspace: Workspace, approver: User) -> None:
    other = WorkspaceFactory.create()
    grant(user=approver, role=Role.APPROVER, workspace=other, by=None)
    ApprovalLevelFactory.create(workspace=workspace, members=[approver])
    first = titled(workspace, "Pay back 640?")
    titled(workspace, "Stuck import", kind="fix", level="finance")
    titled(other, "Elsewhere")
    late = titled(workspace, "Late one")
    Approval.objects.filter(pk=late.pk).update(respond_by=Now() - timedelta(minutes=1))
    template = first.execution.template_version.template_id

    assert set(shown(approver)) == {"Pay back 640?", "Stuck import", "Elsewhere", "Late one"}
    assert shown(approver, kind="fix") == shown(approver, level="finance") == ["Stuck import"]
    assert shown(approver, workspace=other.pk) == ["Elsewhere"]
    assert shown(approver, template=template) == shown(approver, q="pAy BACK") == ["Pay back 640?"]
    assert shown(approver, late=1) == ["Late one"]
    assert shown(approver, q="100%") == shown(approver, q="no such") == []
    assert len(shown(approver, kind="nonsense", workspace="7", size="x", through="inf~7")) == 4


def test_a_piece_keeps_its_place_while_others_come_and_go(workspace: Workspace, approver: User) -> None:
    hour = 3_600_000
    asked = [titled(workspace, f"Q{at}", timeout_ms=(at + 1) * hour) for at in range(4)]
    assert shown(approver, size=2) == ["Q0", "Q1"]
    end = str(Place.of(Approval.objects.get(pk=asked[1].pk)))
    titled(workspace, "Sooner", timeout_ms=hour // 2)
    titled(workspace, "Much later", timeout_ms=9 * hour)
    assert shown(approver, through=end) == ["Sooner", "Q0", "Q1"]
    more = browser_of(approver).get("/inbox/rows", {"size": 3}).content.decode()
    assert 'data-size="53"' in more


def test_what_was_opened_is_no_longer_unread_for_oneself(workspace: Workspace, approver: User) -> None:
    approval = titled(workspace, "Pay?")
    colleague, stranger = member(workspace, Role.APPROVER), member(WorkspaceFactory.create(), Role.ADMIN)
    for user in (approver, approver, stranger):
        assert browser_of(user).post(f"/inbox/{approval.pk}/seen").status_code == 204
    assert browser_of(approver).get("/inbox/count").json() == {"count": 1, "unread": 0}
    assert browser_of(colleague).get("/inbox/count").json() == {"count": 1, "unread": 1}
    assert (shown(approver, new=1), shown(colleague, new=1)) == ([], ["Pay?"])


def test_a_view_is_kept_for_oneself(workspace: Workspace, approver: User) -> None:
    mine, other = browser_of(approver), browser_of(member(workspace, Role.APPROVER))
    kept = {"name": "  Late   fixes ", "kind": "fix", "late": "1", "nonsense": "x"}
    assert mine.post("/inbox/views", kept).headers["Location"] == "/inbox/?kind=fix&late=1"
    view = SavedView.objects.get()
    assert (view.name, view.query) == ("Late fixes", {"kind": "fix", "late": "1"})
    assert b"Late fixes" in mine.get("/inbox/").content
    assert b"Late fixes" not in other.get("/inbox/").content
    assert b"1 to 60 characters" in mine.post("/inbox/views", {"name": " "}).content
    other.post(f"/inbox/views/{view.pk}/remove")
    assert SavedView.objects.exists()
    mine.post(f"/inbox/views/{view.pk}/remove")
    assert not SavedView.objects.exists()


def test_there_is_room_for_twenty_views(approver: User) -> None:
    SavedView.objects.bulk_create(SavedView(user=approver, name=f"v{at}") for at in range(20))
    assert browser_of(approver).post("/inbox/views", {"name": "v3"}).status_code == 302
    full = browser_of(approver).post("/inbox/views", {"name": "one more"})
    assert (full.status_code, SavedView.objects.count()) == (400, 20)
    assert b"There are 20 saved views already" in full.content


def test_the_list_takes_eight_queries_at_most(workspace: Workspace, approver: User) -> None:
    client = browser_of(approver)
    for _ in range(3):
        ApprovalFactory.create(workspace=workspace)
    for query in (
        {},
        {"q": "may", "late": "1", "kind": "approval", "new": "1"},
        {"through": "1~" + "0" * 32},
    ):
        with CaptureQueriesContext(connection) as captured:
            assert client.get("/inbox/rows", query).status_code == 200
        assert len(captured) <= QUERIES_MAX
