"""POST executions/{id}/blocks/{blockId}/skip, complete and retry."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from agentflow.conf import LIMITS
from agentflow.governance.models import AuditEntry
from executions.models import Execution
from tests.factories.executions import ExecutionFactory, statuses
from tests.factories.governance import client_of

from .conftest import URL, Team

COMMANDS = ("skip", "complete", "retry")
BODY = {"skip": {"reason": "r"}, "retry": {"reason": "r"}, "complete": {"reason": "r", "output": {"n": 1}}}


def post(by: Any, execution: Execution, block_id: str, command: str, body: Any = None, **headers: Any) -> Any:
    address = f"{URL}/{execution.pk}/blocks/{quote(block_id, safe='')}/{command}"
    return client_of(by).post(address, BODY[command] if body is None else body, format="json", **headers)


def execution_of(team: Team, **columns: Any) -> Execution:
    columns = {"graph": "a é -> b, c"} | columns
    return ExecutionFactory.create(workspace=team.workspace, **columns)


def test_a_block_is_skipped_completed_and_tried_again(team: Team) -> None:
    execution = execution_of(team, failed=["c"], graph="a é -> b, c, d", blocks={"c": {"attempt": 1}})
    assert post(team.operator, execution, "c", "retry").json() == {"success": True}
    assert post(team.operator, execution, "a é", "complete").json() == {"success": True}
    assert post(team.operator, execution, "b", "skip").json() == {"success": True}
    assert statuses(execution) == {"a é": "completed", "b": "skipped", "c": "ready", "d": "ready"}
    assert client_of(team.viewer).get(f"{URL}/{execution.pk}/blocks/a é/output").json() == {"n": 1}
    entries = AuditEntry.objects.filter(target_id=str(execution.pk)).order_by("pk")
    assert [entry.action for entry in entries] == [
        "execution.retry_block",
        "execution.complete_block",
        "execution.skip_block",
    ]


@pytest.mark.parametrize(
    ("columns", "block_id", "command", "code"),
    [
        ({"running": ["a é"]}, "a é", "skip", "block_not_open"),
        ({}, "b", "complete", "block_not_open"),
        ({}, "c", "retry", "nothing_to_retry"),
        ({"failed": ["a é"], "skipped": ["b"]}, "a é", "retry", "successors_moved"),
        (
            {"status": "failed", "failed": ["a é"], "skipped": ["b"], "completed": ["c"]},
            "a é",
            "retry",
            "execution_ended",
        ),
        ({"status": "cancelling", "running": ["c"]}, "a é", "skip", "execution_ended"),
    ],
)
def test_what_stands_against_a_repair_has_a_code(
    team: Team, columns: dict[str, Any], block_id: str, command: str, code: str
) -> None:
    execution = execution_of(team, **columns)
    before = statuses(execution)
    response = post(team.operator, execution, block_id, command)
    assert (response.status_code, response.json()["code"]) == (409, code)
    assert response.json()["remedy"]
    assert statuses(execution) == before


@pytest.mark.parametrize(
    ("command", "body", "pointer"),
    [
        ("skip", {}, "/reason"),
        ("skip", {"reason": " "}, "/reason"),
        ("skip", {"reason": "r", "output": 1}, "/output"),
        ("complete", {"reason": "r"}, "/output"),
        ("complete", {"reason": "r", "output": "x" * LIMITS.blob_bytes}, "/output"),
        ("retry", {"reason": "x" * 1001}, "/reason"),
        ("retry", {"reason": "r", "attempt": 1}, "/attempt"),
    ],
)
def test_a_wrong_body_is_pointed_at(team: Team, command: str, body: dict[str, Any], pointer: str) -> None:
    execution = execution_of(team)
    response = post(team.operator, execution, "c", command, body)
    assert response.status_code == 400
    assert [issue["pointer"] for issue in response.json()["issues"]] == [pointer]
    assert statuses(execution)["c"] == "ready"


@pytest.mark.parametrize("command", COMMANDS)
def test_only_operators_and_admins_repair(team: Team, command: str) -> None:
    execution = execution_of(team)
    for person in (team.viewer, team.author, team.approver):
        assert post(person, execution, "c", command).status_code == 403
    assert post(None, execution, "c", command).status_code == 401
    foreign = post(team.stranger, execution, "c", command)
    absent = client_of(team.stranger).post(
        f"{URL}/{uuid4()}/blocks/c/{command}", BODY[command], format="json"
    )
    assert foreign.status_code == absent.status_code == 404
    assert foreign.json()["detail"] == absent.json()["detail"]
    assert post(team.operator, execution, "none", command).status_code == 404
    assert statuses(execution)["c"] == "ready"


def test_the_same_key_completes_once(team: Team) -> None:
    execution = execution_of(team)
    answers = [post(team.operator, execution, "c", "complete", HTTP_IDEMPOTENCY_KEY="k") for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    assert post(team.operator, execution, "c", "complete").status_code == 409
