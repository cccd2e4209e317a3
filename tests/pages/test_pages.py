"""Who sees which page, and that a page costs the same however much it shows."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from approvals.models import Approval
from tests.factories.approvals import ApprovalFactory, asking_execution
from tests.factories.governance import WorkspaceFactory, member

pytestmark = pytest.mark.django_db


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def ask(workspace: Any, request: JSONObject | None = None) -> Approval:
    approval: Approval = ApprovalFactory.create(
        execution=asking_execution(workspace, "gate"), block_id="gate"
    )
    if request is not None:
        Approval.objects.filter(pk=approval.pk).update(request=request)
    return approval


def addresses(approval: Approval) -> list[str]:
    run = f"/executions/{approval.execution_id}/"
    inside = [f"{run}graph", f"{run}state", f"{run}step?block=gate"]
    return [f"/inbox/{approval.pk}/", run, *inside]


def test_pages_ask_strangers_to_sign_in() -> None:
    approval = ask(WorkspaceFactory.create())
    lists = ["/inbox/", "/inbox/rows", "/inbox/count", "/inbox/decided/", "/executions/", "/templates/"]
    for path in [*lists, *addresses(approval)]:
        reply = Client().get(path)
        assert (reply.status_code, reply.headers["Location"][:13]) == (302, "/login/?next=")


def test_another_workspace_s_things_are_not_there() -> None:
    approval = ask(WorkspaceFactory.create())
    stranger = browser_of(member(WorkspaceFactory.create(), Role.ADMIN))
    assert {stranger.get(path).status_code for path in addresses(approval)} == {404}


def test_members_see_them() -> None:
    approval = ask(workspace := WorkspaceFactory.create())
    viewer = browser_of(member(workspace, Role.VIEWER))
    assert {viewer.get(path).status_code for path in addresses(approval)} == {200}
    assert viewer.get("/inbox/count").json() == {"count": 0, "unread": 0}
    assert browser_of(member(workspace, Role.APPROVER)).get("/inbox/count").json() == {
        "count": 1,
        "unread": 1,
    }


def test_what_agents_and_authors_write_is_shown_as_text() -> None:
    attack = "<script>alert(1)</script>"
    request = {"title": attack, "description": attack, "facts": {attack: [{"note": attack}], "why": attack}}
    approval = ask(workspace := WorkspaceFactory.create(), request)
    page = browser_of(member(workspace, Role.APPROVER)).get(f"/inbox/{approval.pk}/").content.decode()
    assert attack not in page
    assert page.count(escape(attack)) >= 4


@pytest.mark.parametrize("path", ["/inbox/", "/inbox/rows", "/executions/", "/templates/"])
def test_lists_cost_the_same_number_of_queries_whatever_their_length(path: str) -> None:
    workspace = WorkspaceFactory.create()
    client = browser_of(member(workspace, Role.ADMIN))

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(path).status_code == 200
        return len(captured)

    ask(workspace)
    queries()  # fills what a process reads once
    few = queries()
    for _ in range(8):
        ask(workspace)
    assert queries() <= few + 1  # the first question beside the list may be another one's version


def test_the_state_names_every_step() -> None:
    approval = ask(workspace := WorkspaceFactory.create())
    run = f"/executions/{approval.execution_id}/"
    client = browser_of(member(workspace, Role.VIEWER))
    graph, state = client.get(f"{run}graph").json(), client.get(f"{run}state").json()
    assert [step[0] for step in graph["steps"]] == ["gate", "after"]
    assert graph["edges"] == [[0, 1, None, ""]]
    assert {step[0]: step[1] for step in state["steps"]} == {"gate": "waiting_human", "after": "blocked"}
    assert "waits for" in state["head"]
