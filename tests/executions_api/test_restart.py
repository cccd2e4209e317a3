"""POST executions/{id}/restart and restart-plan; reading earlier epochs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from agentflow.governance.models import AuditEntry
from executions.models import Execution
from tests.factories.executions import ExecutionFactory, statuses
from tests.factories.governance import client_of

from .conftest import URL, Team

GRAPH = "a -> b -> c"


def ended(team: Team, **columns: Any) -> Execution:
    columns = {"status": "failed", "completed": ["a"], "failed": ["b"], "skipped": ["c"]} | columns
    return ExecutionFactory.create(workspace=team.workspace, graph=GRAPH, **columns)


def post(by: Any, execution: Execution, command: str, body: Any = None, **headers: Any) -> Any:
    return client_of(by).post(f"{URL}/{execution.pk}/{command}", body or {}, format="json", **headers)


def now(execution: Execution) -> Execution:
    return Execution.objects.get(pk=execution.pk)


def test_a_restart_answers_with_the_new_epoch(team: Team) -> None:
    execution = ended(team)
    response = post(team.operator, execution, "restart", {"reason": "Mended"})
    assert (response.status_code, response.json()) == (200, {"success": True, "epoch": 2})
    assert statuses(now(execution)) == {"a": "completed", "b": "ready", "c": "blocked"}
    entry = AuditEntry.objects.get(action="execution.restart", target_id=str(execution.pk))
    assert entry.detail == {"epoch": 2, "reruns": 2, "reason": "Mended"}
    shown = client_of(team.viewer).get(f"{URL}/{execution.pk}").json()
    assert (shown["status"], shown["epoch"], shown["completedAt"], shown["error"]) == (
        "running",
        2,
        None,
        None,
    )
    assert shown["progress"] == {"settled": 1, "total": 3}


def test_earlier_epochs_can_be_read(team: Team) -> None:
    execution = ended(team, outputs={"a": {"text": "x" * 20_000}})
    post(team.operator, execution, "restart", {"fromBlock": "a"})
    viewer = client_of(team.viewer)
    shown = viewer.get(f"{URL}/{execution.pk}?epoch=1").json()
    found = {one["blockId"]: one for one in shown["blockExecutions"]}
    assert {name: one["status"] for name, one in found.items()} == {
        "a": "completed",
        "b": "failed",
        "c": "skipped",
    }
    assert viewer.get(found["a"]["output"]["$ref"]).json() == {"text": "x" * 20_000}
    assert viewer.get(f"{URL}/{execution.pk}/blocks/b?epoch=1").json()["status"] == "failed"
    assert viewer.get(f"{URL}/{execution.pk}/blocks/b").json()["status"] == "blocked"
    for wrong in ("0", "3", "x", "-1", "9" * 30):
        assert viewer.get(f"{URL}/{execution.pk}?epoch={wrong}").status_code == 400


def test_a_plan_shows_what_would_happen_and_moves_nothing(team: Team) -> None:
    execution = ended(team)
    response = post(team.operator, execution, "restart-plan", {"fromBlock": "b"})
    assert response.status_code == 200
    plan = response.json()
    assert (plan["epoch"], plan["reruns"], plan["carried"]) == (2, ["b", "c"], ["a"])
    assert plan["approvals"] == {"survive": [], "askedAgain": []}
    assert (plan["onceEffectsRepeated"], plan["estimatedMs"], plan["estimatedCost"]) == ([], None, {})
    assert now(execution).epoch == 1
    body = {"fromBlock": "b", "planId": plan["planId"]}
    assert post(team.operator, execution, "restart", body).json() == {"success": True, "epoch": 2}
    Execution.objects.filter(pk=execution.pk).update(status="failed", completed_at="2026-01-01T00:00Z")
    stale = post(team.operator, execution, "restart", body)
    assert (stale.status_code, stale.json()["code"]) == (409, "plan_stale")


@pytest.mark.parametrize(
    ("columns", "body", "code"),
    [
        ({"status": "running", "completed": ["a"], "failed": [], "skipped": []}, {}, "not_terminal"),
        (
            {"status": "completed", "completed": ["a", "b", "c"], "failed": [], "skipped": []},
            {},
            "nothing_to_restart",
        ),
        ({}, {"planId": "0"}, "plan_stale"),
    ],
)
def test_what_stands_against_a_restart_has_a_code(
    team: Team, columns: dict[str, Any], body: dict[str, Any], code: str
) -> None:
    execution = ended(team, **columns)
    response = post(team.operator, execution, "restart", body)
    assert (response.status_code, response.json()["code"]) == (409, code)
    assert response.json()["remedy"]
    assert now(execution).epoch == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"fromBlock": "nope"}, "/fromBlock"),
        ({"fromBlock": 7}, "/fromBlock"),
        ({"resetState": "perhaps"}, "/resetState"),
        ({"epoch": 3}, "/epoch"),
        ({"reason": "x" * 1001}, "/reason"),
        ({"planId": "x" * 65}, "/planId"),
    ],
)
def test_a_wrong_body_is_pointed_at(team: Team, body: dict[str, Any], pointer: str) -> None:
    execution = ended(team)
    response = post(team.operator, execution, "restart", body)
    assert response.status_code == 400
    assert [issue["pointer"] for issue in response.json()["issues"]] == [pointer]
    assert now(execution).epoch == 1


@pytest.mark.parametrize("command", ["restart", "restart-plan"])
def test_only_operators_and_admins_restart(team: Team, command: str) -> None:
    execution = ended(team)
    for person in (team.viewer, team.author, team.approver):
        assert post(person, execution, command).status_code == 403
    assert post(None, execution, command).status_code == 401
    absent = client_of(team.stranger).post(f"{URL}/{uuid4()}/{command}", {}, format="json")
    assert post(team.stranger, execution, command).json()["detail"] == absent.json()["detail"]
    assert absent.status_code == 404
    assert now(execution).epoch == 1


def test_the_same_key_restarts_once(team: Team) -> None:
    execution = ended(team)
    answers = [post(team.operator, execution, "restart", HTTP_IDEMPOTENCY_KEY="k").json() for _ in range(2)]
    assert answers == [{"success": True, "epoch": 2}] * 2
    assert now(execution).epoch == 2
