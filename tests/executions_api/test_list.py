"""GET executions: filters, order and pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from executions.models import BlockExecution, Execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import URL, Team


def listed(team: Team, **params: Any) -> list[str]:
    response = client_of(team.viewer).get(URL, params)
    assert response.status_code == 200, response.content
    return [line["executionId"] for line in response.json()["executions"]]


def ids(*executions: Execution) -> list[str]:
    return [str(execution.pk) for execution in executions]


def test_a_line_says_what_runs_how_far_and_since_when(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, completed=["a"])
    response = client_of(team.viewer).get(URL).json()
    version = execution.template_version
    assert response["total"] == 1
    line = response["executions"][0]
    assert line["progress"] == {"settled": 1, "total": 2}
    assert line["templateName"] == version.template.name
    assert (line["versionNumber"], line["templateVersion"]) == (1, "1")
    assert (line["status"], line["simulated"]) == ("running", False)
    assert line["parentExecutionId"] is None
    assert line["startedAt"]
    assert line["completedAt"] is None


def test_a_child_names_its_parent(team: Team) -> None:
    parent = ExecutionFactory.create(workspace=team.workspace, waiting_external=["a"])
    block = BlockExecution.objects.get(execution=parent, block_id="a")
    child = ExecutionFactory.create(workspace=team.workspace, parent_block=block, parent_attempt=1, depth=1)
    lines = client_of(team.viewer).get(URL).json()["executions"]
    assert {line["executionId"]: line["parentExecutionId"] for line in lines} == {
        str(child.pk): str(parent.pk),
        str(parent.pk): None,
    }


def test_the_filters_narrow(team: Team) -> None:
    template = TemplateFactory.create(workspace=team.workspace, name="Refund of orders")
    version = TemplateVersionFactory.create(template=template)
    refund = ExecutionFactory.create(template_version=version, status="completed", completed=["only"])
    tried = ExecutionFactory.create(workspace=team.workspace, simulation={"scale": 0})
    paused = ExecutionFactory.create(workspace=team.workspace, status="paused")
    foreign = ExecutionFactory.create()
    assert listed(team) == ids(paused, tried, refund)
    assert listed(team, status="completed") == ids(refund)
    assert listed(team, status="completed,paused") == ids(paused, refund)
    assert listed(team, status=["completed", "paused"]) == ids(paused, refund)
    assert listed(team, templateId=str(template.pk)) == ids(refund)
    assert listed(team, simulated="true") == ids(tried)
    assert listed(team, simulated="false") == ids(paused, refund)
    assert listed(team, search="refund") == ids(refund)
    assert listed(team, search=str(tried.pk)[:13]) == ids(tried)
    assert listed(team, search=str(tried.pk)) == ids(tried)
    assert listed(team, search=str(foreign.pk)) == []
    assert listed(team, workspaceId=str(team.workspace.pk)) == ids(paused, tried, refund)
    assert listed(team, workspaceId=str(foreign.workspace_id)) == []
    assert listed(team, templateId=str(foreign.template_version.template_id)) == []


def test_moments_bound_the_list(team: Team) -> None:
    old, new = (ExecutionFactory.create(workspace=team.workspace) for _ in range(2))
    Execution.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=2))
    yesterday = (timezone.now() - timedelta(days=1)).isoformat()
    assert listed(team, createdAfter=yesterday) == ids(new)
    assert listed(team, createdBefore=yesterday) == ids(old)
    zoned = client_of(team.viewer).get(f"{URL}?createdAfter={yesterday}")  # the plus arrives as a space
    assert [line["executionId"] for line in zoned.json()["executions"]] == ids(new)


def test_pages_and_orders(team: Team) -> None:
    first, second, third = (
        ExecutionFactory.create(workspace=team.workspace, status=status)
        for status in ("running", "failed", "completed")
    )
    assert listed(team, limit=2) == ids(third, second)
    assert listed(team, limit=2, offset=2) == ids(first)
    assert listed(team, ordering="createdAt") == ids(first, second, third)
    assert listed(team, ordering="status") == ids(third, second, first)
    assert listed(team, ordering="-status") == ids(first, second, third)


@pytest.mark.parametrize(
    "params",
    [
        {"status": "done"},
        {"templateId": "7"},
        {"workspaceId": "x"},
        {"simulated": "yes"},
        {"createdAfter": "yesterday"},
        {"createdAfter": "2026-11-20"},
        {"createdAfter": "2026-13-40T00:00:00Z"},
        {"createdBefore": "2026-11-20T10:00:00"},
        {"ordering": "secret"},
        {"limit": "0"},
        {"limit": "501"},
        {"offset": "-1"},
        {"search": "x" * 501},
    ],
)
def test_a_wrong_parameter_is_named(team: Team, params: dict[str, str]) -> None:
    response = client_of(team.viewer).get(URL, params)
    assert response.status_code == 400
    assert [issue["pointer"] for issue in response.json()["issues"]] == [f"?{name}" for name in params]


def test_the_number_of_queries_does_not_grow_with_the_list(team: Team) -> None:
    client = client_of(team.viewer)
    counts = []
    for more in (2, 20):
        for _ in range(more):
            ExecutionFactory.create(workspace=team.workspace)
        with CaptureQueriesContext(connection) as queries:
            client.get(URL)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_stranger_sees_an_empty_list(team: Team) -> None:
    ExecutionFactory.create(workspace=team.workspace)
    assert client_of(team.stranger).get(URL).json() == {"executions": [], "total": 0}
    assert client_of(None).get(URL).status_code == 401
