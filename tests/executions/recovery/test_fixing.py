"""A step that cannot go on is changed by the answer to its question, as by a repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.agents import registry
from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from agentflow.types import JSONObject
from approvals.models import Approval, ApprovalVote
from executions.models import Execution
from tests.factories.executions import statuses
from tests.factories.governance import client_of, member
from tests.servers import Exchange, http_server

from ..conftest import Start, block, drain, row, template


def absent(**fields: Any) -> JSONObject:
    """A block that fails for even numbers."""
    usual = {"agentId": "test.absent", "input": {"n": "${input.n}"}, "retryPolicy": {"maxRetries": 0}}
    return block("a", **(usual | fields))


@pytest.fixture
def stuck(start: Start) -> Callable[..., Execution]:
    def made(*blocks: JSONObject, **options: Any) -> Execution:
        execution = start(template(*(blocks or (absent(), block("b", "a")))), input={"n": 2}, **options)
        drain(execution)
        return execution

    return made


def question(execution: Execution) -> Approval:
    return Approval.objects.get(execution=execution, status="pending")


def respond(by: User, approval: Approval, *, status: int = 200, **response: Any) -> JSONObject:
    reply = client_of(by).post(
        f"/api/v1/approvals/{approval.pk}/respond",
        {"approved": True, "response": {"action": "retry", **response}},
        format="json",
    )
    assert reply.status_code == status, reply.content
    found: JSONObject = reply.json()
    return found


@pytest.mark.parametrize(
    ("changed", "diff"),
    [
        (
            {"input": {"n": "${input.n + 1}"}},
            [{"op": "replace", "path": "/input/n", "value": "${input.n + 1}"}],
        ),
        ({"agentId": "builtin.echo"}, [{"op": "replace", "path": "/agentId", "value": "builtin.echo"}]),
        (
            {"agentId": "builtin.text", "configuration": {"template": "{{n}}"}},
            [
                {"op": "replace", "path": "/agentId", "value": "builtin.text"},
                {"op": "add", "path": "/configuration/template", "value": "{{n}}"},
            ],
        ),
    ],
)
def test_a_step_is_tried_again_in_another_way_and_what_was_changed_is_kept(
    stuck: Any, author: User, changed: JSONObject, diff: list[JSONObject]
) -> None:
    execution = stuck()
    asked = question(execution)
    respond(author, asked, **changed)
    drain(execution)
    assert statuses(execution) == {"a": "completed", "b": "completed"}
    execution.refresh_from_db()
    assert execution.patches == {"a": changed}
    vote = ApprovalVote.objects.get(approval=asked)
    assert vote.decision == "edit"
    assert sorted(vote.edits or [], key=lambda one: one["path"]) == diff
    assert vote.evidence["request"]["step"]["input"] == {"n": "${input.n}"}
    entry = AuditEntry.objects.get(action="approval.respond", target_id=str(asked.pk))
    assert entry.detail["edits"] == vote.edits
    (log,) = Event.objects.filter(type="block_log", execution_id=execution.pk, block_id="a")
    assert f"Changed by the answer to {asked.pk}" in str(log.payload)


def test_a_step_that_could_not_begin_is_given_another_input(stuck: Any, author: User) -> None:
    execution = stuck({"blockId": "a", "input": {"half": "${10 / (input.n - 2)}"}})
    respond(author, question(execution), input={"half": 5})
    drain(execution)
    assert row(execution, "a").output == {"half": 5}


@pytest.mark.parametrize(
    ("changed", "status", "code", "pointer"),
    [
        ({"agentId": "nobody"}, 422, "fix_invalid", "/response/agentId"),
        ({"input": {"n": "${1 +"}}, 422, "fix_invalid", "/response/input/n"),
        ({"input": {"n": "${blocks.nowhere.output}"}}, 422, "fix_invalid", "/response/input/n"),
        ({"input": [1]}, 400, "invalid_response", "/response/input"),
        ({"configuration": 1}, 400, "invalid_response", "/response/configuration"),
        ({"action": "skip", "input": {}}, 400, "invalid_response", "/response/input"),
        ({"input": {"n": "x" * 70_000}}, 422, "fix_invalid", None),
        ({"agentId": "test.once"}, 409, "effect_not_allowed", None),
    ],
)
def test_a_change_that_does_not_fit_is_refused_and_the_step_waits(
    stuck: Any, author: User, changed: JSONObject, status: int, code: str, pointer: str | None
) -> None:
    execution = stuck()
    asked = question(execution)
    refused = respond(author, asked, status=status, **changed)
    assert refused["code"] == code
    assert refused["remedy"]
    if pointer is not None:
        assert [issue["pointer"] for issue in refused["issues"]][:1] == [pointer]
    execution.refresh_from_db()
    assert (question(execution), execution.patches) == (asked, None)
    assert row(execution, "a").status == "waiting_human"


def test_who_only_decides_changes_nothing_and_gives_nothing_up(stuck: Any, author: User) -> None:
    execution = stuck()
    asked = question(execution)
    workspace = execution.workspace
    approver = member(workspace, Role.APPROVER)
    for response in ({"input": {"n": 3}}, {"action": "abort"}):
        assert respond(approver, asked, status=403, **response)["code"] == "for_operators"
    shown = client_of(approver).get(f"/api/v1/approvals/{asked.pk}").json()["fix"]
    assert shown["mayChange"] is False
    grant(user=approver, role=Role.OPERATOR, workspace=workspace, by=author)
    shown = client_of(approver).get(f"/api/v1/approvals/{asked.pk}").json()["fix"]
    assert shown["mayChange"] is True
    assert shown["step"] == {"agentId": "test.absent", "configuration": {}, "input": {"n": "${input.n}"}}
    assert shown["values"] == {"n": 2}
    assert [(one["attempt"], one["strategy"]["name"]) for one in shown["tries"]] == [(1, "ask")]
    called = [(one["agentId"], one["called"]) for one in shown["agents"]]
    assert called[0] == ("test.absent", True)
    assert "test.once" not in dict(called)
    respond(approver, asked, input={"n": 3})


def test_giving_up_undoes_what_was_done_and_ends_the_execution(stuck: Any, author: User) -> None:
    undone = block("before", compensation={"agentId": "builtin.echo"})
    execution = stuck(undone, absent(dependencies=["before"]), block("b", "a"))
    respond(author, question(execution), action="abort")
    drain(execution)
    assert execution.status == "failed"
    assert execution.error is not None
    assert execution.error["code"] == "aborted_by_hand"
    found = statuses(execution)
    assert (found["a"], found["b"]) == ("failed", "cancelled")
    assert "completed" in {status for name, status in found.items() if name not in ("before", "a", "b")}


@pytest.mark.parametrize(("answer", "keys"), [(422, 2), (None, 1)], ids=["refused", "outcome not known"])
def test_another_input_is_another_operation_unless_it_is_not_known_what_was_done(
    start: Start, author: User, answer: int | None, keys: int
) -> None:
    """The other side may give the first answer again to a key that it has seen."""

    def pay(exchange: Exchange) -> None:
        if len(server.seen) > 1:
            exchange.json({"paid": True})
        elif answer is None:
            exchange.drop()
        else:
            exchange.json({}, answer)

    with http_server() as server:
        server.on("/pay", pay)
        execution = start(
            template(
                {
                    "blockId": "a",
                    "toolType": "API",
                    "configuration": {"url": server.url("/pay"), "method": "POST"},
                    "input": {"n": 2},
                    "effect": "keyed",
                    "retryPolicy": {"maxRetries": 0, "onExhausted": "ask"},
                }
            )
        )
        Workspace.objects.filter(pk=execution.workspace_id).update(egress_allow=[server.allowed])
        registry.forget()
        drain(execution)
        respond(author, question(execution), input={"n": 3})
        drain(execution)
        assert statuses(execution) == {"a": "completed"}, row(execution, "a").error
        assert len({seen.headers["idempotency-key"] for seen in server.seen}) == keys
        assert len(server.seen) == 2
