"""POST executions/batch: one command on many executions."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from agentflow.governance.models import AuditEntry
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from executions.models import Execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of

from .conftest import URL, Team

FAILED: dict[str, Any] = {"status": "failed", "failed": ["a"], "skipped": ["b"]}


def post(by: Any, command: str, chosen: Any = None, **fields: Any) -> Any:
    body = {"command": command, "filter": chosen or {}, **fields}
    return client_of(by).post(f"{URL}/batch", body, format="json")


def runs(team: Team, *statuses: str) -> list[Execution]:
    made = [
        ExecutionFactory.create(
            workspace=team.workspace, **({"status": status} if status != "failed" else FAILED)
        )
        for status in statuses
    ]
    return sorted(made, key=lambda run: run.pk)


def status_of(execution: Execution) -> str:
    return Execution.objects.values_list("status", flat=True).get(pk=execution.pk)


def ids(answer: Any) -> list[UUID]:
    return [UUID(result["executionId"]) for result in answer["results"]]


def test_each_execution_that_matches_gets_the_command_and_an_audit_entry(team: Team) -> None:
    made = runs(team, "running", "running", "paused")
    ExecutionFactory.create()  # of another workspace
    answer = post(team.operator, "pause", {"workspaceId": str(team.workspace.pk)}, reason="Deploy").json()
    running = [run for run in made if run.status == "running"]
    assert (answer["matched"], answer["left"], answer["next"]) == (2, 0, None)
    assert ids(answer) == [run.pk for run in running]
    assert all(result["ok"] and result["status"] == "running" for result in answer["results"])
    assert {status_of(run) for run in made} == {"paused"}
    entries = AuditEntry.objects.filter(action="execution.pause")
    assert {(entry.target_id, entry.detail["reason"]) for entry in entries} == {
        (str(run.pk), "Deploy") for run in running
    }


@pytest.mark.parametrize(
    ("command", "matching", "after"),
    [
        ("pause", {"pending", "running"}, "paused"),
        ("resume", {"paused"}, "running"),
        ("cancel", {"pending", "running", "paused"}, "cancelled"),
        ("restart", {"failed"}, "running"),
    ],
)
def test_a_filter_matches_what_the_command_does_something_to(
    team: Team, command: str, matching: set[str], after: str
) -> None:
    made = runs(team, "pending", "running", "paused", "failed")
    answer = post(team.operator, command, all=True).json()
    assert set(ids(answer)) == {run.pk for run in made if run.status in matching}
    assert {status_of(run) for run in made if run.status in matching} == {after}
    assert all(status_of(run) == run.status for run in made if run.status not in matching)
    assert post(team.operator, command, {"status": ["completed"]}).json()["matched"] == 0


def test_a_preview_moves_nothing(team: Team) -> None:
    made = runs(team, "running", "paused")
    answer = post(team.operator, "cancel", {"status": ["running"]}, preview=True).json()
    assert (answer["matched"], answer["preview"]) == (1, True)
    assert answer["results"][0]["ok"]
    assert [status_of(run) for run in made] == [run.status for run in made]
    assert not AuditEntry.objects.filter(action__startswith="execution.").exists()


def test_named_executions_are_each_answered_for(team: Team) -> None:
    failed, running = runs(team, "failed", "running")
    if failed.status != "failed":
        failed, running = running, failed
    foreign, absent = ExecutionFactory.create(), uuid4()
    named = [str(pk) for pk in (failed.pk, running.pk, foreign.pk, absent)]
    answer = post(team.operator, "pause", {"ids": named}).json()
    found = {UUID(result["executionId"]): result for result in answer["results"]}
    assert found[running.pk]["ok"]
    assert found[failed.pk]["code"] == "illegal_transition"
    assert found[foreign.pk]["code"] == found[absent]["code"] == "not_found"
    assert found[foreign.pk]["message"] == found[absent]["message"]
    assert status_of(foreign) == "running"


def test_a_long_list_is_worked_off_call_by_call(team: Team) -> None:
    made = runs(team, *["running"] * 5)
    first = post(team.operator, "cancel", all=True, preview=True, limit=2).json()
    assert (first["matched"], first["left"], ids(first)) == (5, 3, [made[0].pk, made[1].pk])
    second = post(team.operator, "cancel", all=True, preview=True, limit=3, after=first["next"]).json()
    assert (second["left"], second["next"]) == (0, None)
    assert ids(second) == [run.pk for run in made[2:]]


def test_an_empty_filter_must_be_meant(team: Team) -> None:
    (run,) = runs(team, "running")
    refused = post(team.operator, "cancel")
    assert (refused.status_code, refused.json()["code"]) == (400, "filter_required")
    assert refused.json()["issues"][0]["pointer"] == "/filter"
    assert status_of(run) == "running"
    assert post(team.operator, "cancel", {"ids": []}).json()["matched"] == 0
    assert post(team.operator, "cancel", all=True).json()["matched"] == 1


def test_what_one_may_only_see_is_refused_one_by_one(team: Team) -> None:
    (own,) = runs(team, "running")
    elsewhere = ExecutionFactory.create()
    grant(user=team.operator, role=Role.VIEWER, workspace=elsewhere.workspace, by=None)
    answer = post(team.operator, "cancel", all=True).json()
    found = {UUID(result["executionId"]): result for result in answer["results"]}
    assert found[own.pk]["ok"]
    assert found[elsewhere.pk]["code"] == "not_permitted"
    assert status_of(elsewhere) == "running"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"command": "delete", "filter": {}}, "/command"),
        ({"command": "pause"}, "/filter"),
        ({"command": "pause", "filter": {"name": "x"}}, "/filter/name"),
        ({"command": "pause", "filter": {"status": ["odd"]}}, "/filter/status/0"),
        ({"command": "pause", "filter": {"ids": ["x"]}}, "/filter/ids/0"),
        ({"command": "pause", "filter": {"createdAfter": "yesterday"}}, "/filter/createdAfter"),
        ({"command": "pause", "filter": {}, "limit": 501}, "/limit"),
        ({"command": "pause", "filter": {}, "after": "x"}, "/after"),
    ],
)
def test_a_wrong_body_is_pointed_at(team: Team, body: dict[str, Any], pointer: str) -> None:
    response = client_of(team.operator).post(f"{URL}/batch", body, format="json")
    assert response.status_code == 400
    assert [issue["pointer"] for issue in response.json()["issues"]] == [pointer]


def test_who_sees_nothing_steers_nothing(team: Team) -> None:
    (run,) = runs(team, "running")
    assert post(None, "cancel", all=True).status_code == 401
    assert post(team.stranger, "cancel", all=True).json()["matched"] == 0
    assert post(team.viewer, "cancel", all=True).json()["results"][0]["code"] == "not_permitted"
    assert status_of(run) == "running"


def test_a_batch_cancel_may_compensate_and_nothing_else_may(team: Team) -> None:
    refused = post(team.operator, "pause", all=True, compensate=True)
    assert refused.status_code == 400
    assert [issue["pointer"] for issue in refused.json()["issues"]] == ["/compensate"]
    (run,) = runs(team, "running")
    assert post(team.operator, "cancel", all=True, compensate=True).json()["results"][0]["ok"]
    assert status_of(run) == "cancelled"
