"""POST executions/{id}/pause, resume, cancel."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from agentflow.governance.models import AuditEntry
from executions.models import Execution
from tests.factories.executions import ExecutionFactory, statuses
from tests.factories.governance import client_of

from .conftest import URL, Team

COMMANDS = ("pause", "resume", "cancel")


def steer(by: Any, execution: Execution, command: str, body: Any = None, **headers: Any) -> Any:
    return client_of(by).post(f"{URL}/{execution.pk}/{command}", body or {}, format="json", **headers)


def status_of(execution: Execution) -> str:
    return Execution.objects.values_list("status", flat=True).get(pk=execution.pk)


def test_pause_resume_and_cancel_twice_each_are_recorded_once(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, running=["a"])
    for command, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelling")):
        for _ in range(2):
            response = steer(team.operator, execution, command, {"reason": "Lunch"})
            assert (response.status_code, response.json()) == (200, {"success": True})
            assert status_of(execution) == status
        entry = AuditEntry.objects.get(action=f"execution.{command}", target_id=str(execution.pk))
        assert (entry.actor_name, entry.detail) == (team.operator.username, {"reason": "Lunch"})
    assert statuses(execution) == {"a": "running", "b": "cancelled"}


def test_an_execution_that_has_ended_cannot_be_steered(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, status="completed", completed=["a", "b"])
    for command in COMMANDS:
        response = steer(team.operator, execution, command)
        assert response.status_code == 409
        assert response.json()["code"] == "illegal_transition"
        assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("command", COMMANDS)
def test_only_operators_and_admins_steer(team: Team, command: str) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, running=["a"], status="paused")
    for person in (team.viewer, team.author, team.approver):
        assert steer(person, execution, command).status_code == 403
    assert steer(None, execution, command).status_code == 401
    foreign = steer(team.stranger, execution, command)
    absent = client_of(team.stranger).post(f"{URL}/{uuid4()}/{command}", {}, format="json")
    assert foreign.status_code == absent.status_code == 404
    assert foreign.json()["detail"] == absent.json()["detail"]
    assert status_of(execution) == "paused"
    for person in (team.operator, team.admin):
        assert steer(person, execution, command).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"because": "x"}, "/because"),
        ({"status": "completed"}, "/status"),
        ({"reason": 7}, "/reason"),
        ({"reason": "x" * 1001}, "/reason"),
        ({"reason": "a\0b"}, "/reason"),
    ],
)
def test_a_wrong_body_is_pointed_at(team: Team, body: dict[str, Any], pointer: str) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    response = steer(team.operator, execution, "pause", body)
    assert response.status_code == 400
    assert [issue["pointer"] for issue in response.json()["issues"]] == [pointer]
    assert status_of(execution) == "running"


def test_the_same_key_gives_the_first_answer_again(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    first = steer(team.operator, execution, "pause", HTTP_IDEMPOTENCY_KEY="k")
    steer(team.operator, execution, "resume")
    again = steer(team.operator, execution, "pause", HTTP_IDEMPOTENCY_KEY="k")
    assert first.json() == again.json()
    assert again["Idempotent-Replay"] == "true"
    assert status_of(execution) == "running"


def test_a_pause_is_not_read_with_get(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    assert client_of(team.operator).get(f"{URL}/{execution.pk}/pause").status_code == 405


def test_a_cancel_may_compensate_and_says_how_far_it_is(team: Team) -> None:
    undo = {"agentId": "builtin.echo"}
    definition = {
        "name": "saga",
        "blocks": [
            {"blockId": "a", "agentId": "builtin.echo", "compensation": undo},
            {"blockId": "b", "dependencies": ["a"], "humanInLoop": {"type": "approval"}},
        ],
    }
    execution = ExecutionFactory.create(
        workspace=team.workspace, definition=definition, completed=["a"], waiting_human=["b"]
    )
    assert detail_of(team, execution)["compensation"] is None
    assert steer(team.operator, execution, "cancel", {"compensate": "x"}).status_code == 400
    assert steer(team.operator, execution, "pause", {"compensate": True}).status_code == 400
    assert steer(team.operator, execution, "cancel", {"compensate": True}).status_code == 200
    found = detail_of(team, execution)
    assert (found["status"], found["compensation"]) == ("cancelling", "running")
    undoing = found["blockExecutions"][-1]
    assert (undoing["blockId"], undoing["name"], undoing["status"]) == ("a:compensation", "Undo: a", "ready")
    address = f"{URL}/{execution.pk}/blocks/a:compensation/skip"
    client = client_of(team.operator)
    assert client.post(address, {"reason": "by phone"}, format="json").status_code == 200
    found = detail_of(team, execution)
    assert (found["status"], found["compensation"]) == ("cancelled", "done")


def detail_of(team: Team, execution: Execution) -> dict[str, Any]:
    found: dict[str, Any] = client_of(team.viewer).get(f"{URL}/{execution.pk}").json()
    return found
