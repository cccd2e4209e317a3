"""Executions in the admin: to look at, and to steer by those who may."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from executions.admin import BLOCKS_PER_PAGE
from executions.models import Execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import member

from .conftest import Team

LIST = "/admin/executions/execution/"


def staff(team: Team, *roles: Role) -> User:
    return member(team.workspace, *roles, is_staff=True)


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def detail(execution: Execution) -> str:
    return reverse("admin:executions_execution_change", args=[execution.pk])


def act(client: Client, action: str, *executions: Execution) -> list[str]:
    chosen = {"action": action, "_selected_action": [str(execution.pk) for execution in executions]}
    response: Any = client.post(LIST, chosen, follow=True)
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


def status_of(execution: Execution) -> str:
    return Execution.objects.values_list("status", flat=True).get(pk=execution.pk)


def test_the_list_shows_what_one_may_see(team: Team) -> None:
    mine = ExecutionFactory.create(workspace=team.workspace, completed=["a"])
    foreign = ExecutionFactory.create()
    page = signed_in(staff(team, Role.VIEWER)).get(LIST).content.decode()
    assert str(mine.pk)[:8] in page
    assert "1 of 2" in page
    assert str(foreign.pk)[:8] not in page


@pytest.mark.parametrize(
    "query",
    [
        "status=running",
        "simulated=no",
        "simulated=yes",
        "q=template",
        "q=ab12",
        "o=2",
        "created_at__year=2026",
        "p=9",
    ],
)
def test_filters_and_search_answer(team: Team, query: str) -> None:
    ExecutionFactory.create(workspace=team.workspace)
    assert signed_in(staff(team, Role.VIEWER)).get(f"{LIST}?{query}", follow=True).status_code == 200


def test_search_finds_by_template_and_by_the_beginning_of_the_id(team: Team) -> None:
    one, two = (ExecutionFactory.create(workspace=team.workspace) for _ in range(2))
    client = signed_in(staff(team, Role.VIEWER))
    page = client.get(LIST, {"q": str(one.pk)[:12]}).content.decode()
    assert str(one.pk)[:8] in page
    assert detail(two) not in page


def test_one_execution_shows_its_blocks_in_pages(team: Team) -> None:
    graph = ", ".join(f"step{n:03}" for n in range(BLOCKS_PER_PAGE + 1))
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        graph=graph,
        failed=["step000"],
        blocks={"step000": {"error": {"message": "<b>no</b>"}}},
        input={"text": "x" * 50_000},
    )
    client = signed_in(staff(team, Role.VIEWER))
    page = client.get(detail(execution)).content.decode()
    assert f"/executions/{execution.pk}/" in page
    assert "step000" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert f"step{BLOCKS_PER_PAGE}" not in page
    assert f"step{BLOCKS_PER_PAGE}" in client.get(detail(execution) + "?block_page=2").content.decode()
    failed = client.get(detail(execution) + "?block_status=failed").content.decode()
    assert "Blocks (1)" in failed
    assert "step001" not in failed
    assert client.get(detail(execution) + "?block_status=odd&block_page=x").status_code == 200


def test_the_number_of_queries_grows_neither_with_rows_nor_with_blocks(team: Team) -> None:
    client = signed_in(staff(team, Role.VIEWER))
    lists: list[int] = []
    details: list[int] = []
    for blocks in (5, 200):
        graph = ", ".join(f"b{n}" for n in range(blocks))
        for _ in range(2):
            execution = ExecutionFactory.create(workspace=team.workspace, graph=graph)
        client.get(detail(execution))  # the version's facts are read once per process
        for counts, path in ((lists, LIST), (details, detail(execution))):
            with CaptureQueriesContext(connection) as queries:
                assert client.get(path).status_code == 200
            counts.append(len(queries))
    assert lists[0] == lists[1]
    assert details[0] == details[1]


def test_nothing_can_be_added_changed_or_deleted(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    client = signed_in(staff(team, Role.ADMIN))
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.get(f"{LIST}{execution.pk}/delete/").status_code == 403
    assert client.post(detail(execution), {"status": "completed"}).status_code == 403
    assert "delete_selected" not in client.get(LIST).content.decode()
    assert status_of(execution) == "running"


def test_a_foreign_execution_is_as_good_as_none(team: Team) -> None:
    foreign = ExecutionFactory.create()
    client = signed_in(staff(team, Role.ADMIN))
    assert client.get(detail(foreign)).status_code == 302
    assert client.get(detail(foreign), follow=True).status_code == 200
    act(client, "cancel_selected", foreign)
    assert status_of(foreign) == "running"


def test_operators_steer_and_each_refusal_is_told(team: Team) -> None:
    runs = [ExecutionFactory.create(workspace=team.workspace, running=["a"]) for _ in range(2)]
    over = ExecutionFactory.create(workspace=team.workspace, status="completed", completed=["a", "b"])
    client = signed_in(staff(team, Role.OPERATOR))
    said = act(client, "pause_selected", *runs, over)
    assert said[0] == "Paused: 2."
    assert str(over.pk)[:8] in said[1]
    assert len(said) == 2
    assert [status_of(run) for run in runs] == ["paused", "paused"]
    act(client, "resume_selected", runs[0])
    assert status_of(runs[0]) == "running"
    assert act(client, "cancel_selected", runs[0]) == ["Being cancelled: 1."]
    assert status_of(runs[0]) == "cancelling"


def test_what_failed_is_restarted(team: Team) -> None:
    failed = ExecutionFactory.create(workspace=team.workspace, status="failed", completed=["a"], failed=["b"])
    said = act(signed_in(staff(team, Role.OPERATOR)), "restart_selected", failed)
    assert said == ["Restarted: 1."]
    assert status_of(failed) == "running"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.AUTHOR, Role.APPROVER])
def test_others_cannot_steer(team: Team, role: Role) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    client = signed_in(staff(team, role))
    assert "cancel_selected" not in client.get(LIST).content.decode()
    act(client, "cancel_selected", execution)
    assert status_of(execution) == "running"


@pytest.mark.parametrize("action", ["pause_selected", "resume_selected", "cancel_selected"])
def test_an_operator_of_one_workspace_only_looks_at_another(team: Team, action: str) -> None:
    user = staff(team, Role.OPERATOR)
    elsewhere = ExecutionFactory.create(running=["a"])
    grant(user=user, role=Role.VIEWER, workspace=elsewhere.workspace)
    said = act(signed_in(user), action, elsewhere)
    assert len(said) == 1
    assert "may not" in said[0]
    assert status_of(elsewhere) == "running"
    assert not AuditEntry.objects.filter(target_id=str(elsewhere.pk)).exists()


def test_each_command_is_audited_once(team: Team) -> None:
    run = ExecutionFactory.create(workspace=team.workspace, running=["a"])
    operator = staff(team, Role.OPERATOR)
    for action in ("pause", "resume", "cancel"):
        act(signed_in(operator), f"{action}_selected", run)
    entries = AuditEntry.objects.filter(target_id=str(run.pk)).order_by("pk")
    assert [(entry.action, entry.actor_name, entry.channel) for entry in entries] == [
        (f"execution.{action}", operator.username, "admin") for action in ("pause", "resume", "cancel")
    ]


def test_who_is_not_staff_is_sent_away(team: Team) -> None:
    assert signed_in(team.admin).get(LIST).status_code == 302
