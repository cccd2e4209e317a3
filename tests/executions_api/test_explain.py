"""GET executions/{id}/explain: one reason for each block that is not settled."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from approvals.models import Approval
from executions.explain import NAMED_MAX
from executions.models import BlockExecution, Execution
from tests.factories.executions import ExecutionFactory, graph_definition
from tests.factories.governance import client_of

from .conftest import URL, Team


def explained(team: Team, execution: Execution) -> Any:
    response = client_of(team.viewer).get(f"{URL}/{execution.pk}/explain")
    assert response.status_code == 200, response.content
    return response.json()


def reasons(found: Any) -> dict[str, str]:
    return {block["blockId"]: block["reason"]["code"] for block in found["blocks"]}


def ask(execution: Execution, block_id: str, kind: str, level: str = "user") -> Approval:
    block = BlockExecution.objects.get(execution=execution, block_id=block_id)
    return Approval.objects.create(
        workspace_id=execution.workspace_id,
        execution=execution,
        block_execution=block,
        block_id=block_id,
        block_name=block_id,
        attempt=1,
        kind=kind,
        level=level,
        content_hash="0" * 64,
        respond_by=Now() + timedelta(hours=1),
    )


def test_every_unsettled_block_has_exactly_one_reason(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        graph="done -> work -> last, person, child, later, now, gone",
        completed=["done"],
        running=["work"],
        waiting_human=["person"],
        waiting_external=["child"],
        skipped=["gone"],
        blocks={
            "child": {"reason": "child"},
            "later": {"available_at": Now() + timedelta(seconds=40), "attempt": 1},
        },
    )
    ask(execution, "person", "approval", "lead")
    parent = BlockExecution.objects.get(execution=execution, block_id="child")
    child = ExecutionFactory.create(workspace=team.workspace, parent_block=parent, parent_attempt=1)
    found = explained(team, execution)
    assert reasons(found) == {
        "work": "running",
        "last": "dependencies",
        "person": "waiting_approval",
        "child": "child",
        "later": "backoff",
        "now": "queued",
    }
    said = {block["blockId"]: block["reason"] for block in found["blocks"]}
    assert said["last"]["waitsFor"] == ["work"]
    assert "work" in said["last"]["message"]
    assert "lead" in said["person"]["message"]
    assert said["person"]["until"]
    assert said["child"]["waitsFor"] == [str(child.pk)]
    assert said["later"]["until"]
    assert said["work"]["since"]
    assert found["reason"]["code"] == "waiting_approval"


@pytest.mark.parametrize(
    ("kind", "code"), [("approval", "waiting_approval"), ("input", "waiting_input"), ("fix", "waiting_fix")]
)
def test_what_is_asked_of_whom_is_said(team: Team, kind: str, code: str) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace, waiting_human=["a"], blocks={"a": {"reason": "unknown_outcome"}}
    )
    ask(execution, "a", kind)
    found = explained(team, execution)
    assert reasons(found)["a"] == code
    message = found["blocks"][0]["reason"]["message"]
    assert "any approver" in message
    assert ("nobody knows whether its effect happened" in message) == (kind == "fix")
    assert found["reason"]["code"] == code


def test_while_paused_nothing_else_is_to_blame(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace, graph="a -> b, c, d -> e", completed=["a"], running=["d"], status="paused",
        blocked=["b"],
    )  # fmt: skip
    found = explained(team, execution)
    assert reasons(found) == {"b": "paused", "c": "paused", "d": "running", "e": "dependencies"}
    assert found["reason"]["code"] == "paused"


def test_a_ready_block_says_when_there_is_no_place_for_it(team: Team) -> None:
    definition = graph_definition("a, b") | {"globalSettings": {"maxParallelBlocks": 1}}
    execution = ExecutionFactory.create(workspace=team.workspace, definition=definition, running=["a"])
    assert reasons(explained(team, execution)) == {"a": "running", "b": "no_slot"}


def test_a_silent_worker_is_told_apart_from_a_busy_one(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        graph="a",
        running=["a"],
        blocks={"a": {"lease_expires_at": Now() - timedelta(seconds=3)}},
    )
    found = explained(team, execution)
    assert reasons(found) == {"a": "worker_silent"}
    assert found["reason"]["code"] == "worker_silent"


@pytest.mark.parametrize(
    ("status", "block"), [("completed", "completed"), ("failed", "failed"), ("cancelled", "cancelled")]
)
def test_an_ended_execution_says_how_it_ended(team: Team, status: str, block: str) -> None:
    error = {"code": "x", "message": "The bank said no."} if status == "failed" else None
    execution = ExecutionFactory.create(
        workspace=team.workspace, graph="a", status=status, error=error, **{status: ["a"]}
    )
    found = explained(team, execution)
    assert found["blocks"] == []
    assert found["reason"]["code"] == status
    assert ("The bank said no." in found["reason"]["message"]) == (status == "failed")


def test_a_join_of_many_names_some_and_counts_all(team: Team) -> None:
    graph = ", ".join(f"step{n} -> join" for n in range(100))
    execution = ExecutionFactory.create(workspace=team.workspace, graph=graph)
    join = next(block for block in explained(team, execution)["blocks"] if block["blockId"] == "join")
    assert len(join["reason"]["waitsFor"]) == NAMED_MAX
    assert join["reason"]["waitsForTotal"] == 100
    assert "and 97 more" in join["reason"]["message"]


def test_a_pending_execution_waits_for_a_worker(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, status="pending")
    assert explained(team, execution)["reason"]["code"] == "queued"
