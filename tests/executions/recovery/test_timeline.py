"""The self-healing flow, as clients and pages see it."""

from __future__ import annotations

from typing import Any

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from executions.models import Execution
from tests.executions.conftest import Start, answer, block, drain, make_due, template
from tests.factories.governance import client_of, member


def flow(execution: Execution, **params: Any) -> list[Any]:
    reader = member(execution.workspace, Role.VIEWER)
    response = client_of(reader).get(f"/api/v1/executions/{execution.pk}/recovery", params)
    assert response.status_code == 200, response.content
    found = response.json()
    assert found["total"] >= len(found["recovery"])
    return list(found["recovery"])


def test_a_failure_is_told_from_error_to_result(run: Start, author: User, client: Any) -> None:
    recovery = {"agent": ["retry", "reassign"], "alternatives": ["test.big"]}
    retry = {"maxRetries": 1, "initialDelay": 0}
    execution = run(
        template(
            block("a", agentId="test.crash", retryPolicy=retry, recovery=recovery),
            block("b", "a", agentId="test.crash", recovery={"agent": ["ask"]}),
        )
    )
    for _ in range(3):
        make_due(execution)
        drain(execution)
    first, second, asked = flow(execution)
    assert first["error"]["code"] == "agent_crashed"
    assert first["classification"] == {
        "kind": "agent",
        "cause": "agent",
        "outcomeUnknown": True,
        "rule": None,
    }
    assert (first["strategy"]["name"], first["result"]["status"]) == ("retry", "failed_again")
    assert first["restoredState"] == {"of": "block", "recoveryPointId": None}
    assert (second["strategy"]["name"], second["strategy"]["agentId"]) == ("reassign", "test.big")
    assert second["alternatives"] == [{"agentId": "test.big", "chosen": True, "why": None}]
    assert second["result"] == {"status": "recovered", "attempt": 3, "blockStatus": "completed"}
    assert (asked["blockId"], asked["restoredState"], asked["result"]["status"]) == ("b", None, "waiting")
    answer(execution, "b", author, response={"action": "skip"})
    assert [each["result"]["status"] for each in flow(execution, blockId="b")] == ["by_hand"]

    client.force_login(author)
    page = client.get(f"/executions/{execution.pk}/healing").content.decode()
    assert "Given to another agent: test.big" in page
    assert "It worked" in page
    assert "Settled by a person" in page


def test_an_execution_without_failures_has_an_empty_flow(run: Start, author: User, client: Any) -> None:
    execution = run(template(block("a")))
    assert flow(execution) == []
    client.force_login(author)
    assert client.get(f"/executions/{execution.pk}/healing").content.strip() == b""
