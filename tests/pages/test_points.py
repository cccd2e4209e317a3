"""Recovery points on the page of an execution and in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from agentflow.governance.roles import Role
from executions.models import BlockExecution, Execution
from executions.services import marking
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory, member

pytestmark = pytest.mark.django_db


def browser_of(workspace: Any, *roles: Role, staff: bool = False) -> Client:
    client = Client()
    client.force_login(member(workspace, *roles, is_staff=staff))
    return client


def marked(status: str = "failed") -> tuple[Execution, int]:
    """An execution of which one step had settled at its point."""
    execution: Execution = ExecutionFactory.create(
        graph="a -> b", completed=["a"], blocks={"b": {"effect": "once"}}, status="running"
    )
    by = member(execution.workspace, Role.OPERATOR)
    point = marking.mark(execution_id=execution.pk, by=by, name="Before the <payment>")
    if status != "running":
        BlockExecution.objects.filter(execution=execution, block_id="b").update(status="failed", attempt=1)
        Execution.objects.filter(pk=execution.pk).update(status=status, open_sinks=0)
    return execution, point.pk


def test_the_list_shows_points_and_offers_what_one_may() -> None:
    execution, point = marked()
    path = f"/executions/{execution.pk}/points"
    seen = browser_of(execution.workspace, Role.VIEWER).get(path).content.decode()
    assert "By hand: Before the &lt;payment&gt;" in seen
    assert "1 of 2 steps settled" in seen
    assert "<button" not in seen
    operator = browser_of(execution.workspace, Role.OPERATOR).get(path).content.decode()
    assert f'data-point="{point}" data-way="restore"' in operator
    running, _ = marked("running")
    steered = browser_of(running.workspace, Role.OPERATOR)
    open_yet = steered.get(f"/executions/{running.pk}/points").content.decode()
    assert 'data-way="fork"' in open_yet
    assert 'data-way="restore"' not in open_yet


def test_the_step_before_says_what_would_happen() -> None:
    execution, point = marked()
    operator = browser_of(execution.workspace, Role.OPERATOR)
    path = f"/executions/{execution.pk}/points/{point}"
    back = operator.get(f"{path}?do=restore").content.decode()
    assert "1 step runs again: b. 1 keeps its result." in back
    assert "a second time: b" in back
    assert "data-plan=" in back
    fork = operator.get(f"{path}?do=fork").content.decode()
    assert "A new execution begins here." in fork
    running, early = marked("running")
    steered = browser_of(running.workspace, Role.OPERATOR)
    refused = steered.get(f"/executions/{running.pk}/points/{early}?do=restore").content.decode()
    assert "only one that has ended can be restarted" in refused
    assert "data-sure" not in refused


def test_points_are_for_those_who_may() -> None:
    execution, point = marked()
    inside = f"/executions/{execution.pk}/points"
    stranger = browser_of(WorkspaceFactory.create(), Role.ADMIN)
    assert {stranger.get(path).status_code for path in (inside, f"{inside}/{point}")} == {404}
    assert browser_of(execution.workspace, Role.VIEWER).get(f"{inside}/{point}").status_code == 403
    assert browser_of(execution.workspace, Role.OPERATOR).get(f"{inside}/1").status_code == 404
    assert Client().get(inside).status_code == 302


def test_the_admin_lists_points_and_edits() -> None:
    execution, _ = marked()
    edit = {"output": 1, "by": "Ada", "at": "2026-01-01T00:00:00Z", "reason": ""}
    BlockExecution.objects.filter(execution=execution, block_id="a").update(edit=edit)
    admin = browser_of(execution.workspace, Role.OPERATOR, staff=True)
    page = admin.get(f"/admin/executions/execution/{execution.pk}/change/").content.decode()
    assert "Recovery points (1)" in page
    assert f"/executions/{execution.pk}/#points" in page
    assert "edited by Ada" in page
