"""Deciding a question over HTTP."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import revoke
from approvals.models import Approval
from approvals.services import responding
from executions.models import Timer
from executions.ports import approval_timeout, human_gate
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import ApprovalFactory, ApprovalLevelFactory, asking_execution, let_time_pass
from tests.factories.executions import statuses
from tests.factories.governance import client_of
from tests.work import statements

AMOUNT = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"type": "number", "minimum": 0}, "note": {"type": "string"}},
    "additionalProperties": False,
}
FIX = {
    "type": "object",
    "required": ["action"],
    "properties": {"action": {"enum": ["retry", "complete", "skip", "fail"]}, "output": {}},
}


def respond(user: User | None, approval: Approval, **body: Any) -> Any:
    return client_of(user).post(f"{URL}/{approval.pk}/respond", {"approved": True} | body, format="json")


def test_approving_moves_the_block_on_and_is_told_and_recorded_once(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    reply = respond(office.approver, approval, comments="fine", contentHash=approval.content_hash)
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    approval.refresh_from_db()
    assert (approval.status, approval.responder, approval.comments) == ("approved", office.approver, "fine")
    assert approval.responded_at == approval.closed_at is not None
    assert statuses(approval.execution)["ask"] == "ready"
    assert not Timer.objects.filter(subject=approval.pk).exists()
    told = Event.objects.filter(type="approval_responded", execution_id=approval.execution_id).get()
    assert told.payload is not None
    assert told.payload["approvalId"] == str(approval.pk)
    assert (told.payload["approved"], told.payload["approver"]) == (True, office.approver.username)
    entry = AuditEntry.objects.get(target_type="approval", target_id=str(approval.pk))
    assert (entry.action, entry.actor_id, entry.channel) == ("approval.respond", office.approver.pk, "api")


def test_an_answer_takes_a_handful_of_statements(office: Office) -> None:
    """It is what an inbox is limited by: 50 a second are promised."""
    approval = ApprovalFactory.create(workspace=office.workspace)
    asked, _ = statements(
        partial(responding.respond, approval_id=approval.pk, by=office.approver, approved=True)
    )
    assert len([each for each in asked if "SAVEPOINT" not in each]) <= 20, asked


def test_a_refusal_fails_the_block_by_default(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    assert respond(office.approver, approval, approved=False, comments="too much").status_code == 200
    approval.refresh_from_db()
    assert approval.status == "rejected"
    assert statuses(approval.execution)["ask"] == "failed"
    error = approval.block_execution.error
    assert error is not None
    assert error["code"] == "rejected"


def test_the_answer_to_an_input_is_the_blocks_output(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input", input_schema=AMOUNT)
    assert respond(office.approver, approval, response={"amount": 12.5}).status_code == 200
    block = approval.block_execution
    block.refresh_from_db()
    assert (block.status, block.output) == ("completed", {"amount": 12.5})


@pytest.mark.parametrize(
    ("response", "pointers"),
    [
        (None, {"/response"}),
        ({}, {"/response/amount"}),
        ({"amount": -1, "note": 3, "extra": 1}, {"/response/amount", "/response/note", "/response/extra"}),
        ([], {"/response"}),
        ("12", {"/response"}),
        ({"amount": True}, {"/response/amount"}),
    ],
)
def test_a_response_that_does_not_fit_names_every_field_and_changes_nothing(
    office: Office, response: Any, pointers: set[str]
) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input", input_schema=AMOUNT)
    reply = respond(office.approver, approval, response=response)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_response")
    assert {issue["pointer"] for issue in reply.json()["issues"]} == pointers
    approval.refresh_from_db()
    assert approval.status == "pending"


def test_a_refusal_needs_no_form(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input", input_schema=AMOUNT)
    assert respond(office.approver, approval, approved=False).status_code == 200


def test_a_response_is_bounded(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input")
    reply = respond(office.approver, approval, response={"text": ["x" * 60_000] * 5})
    assert reply.json()["issues"][0]["code"] == "too_large"


def test_a_schema_that_refers_to_the_outside_fetches_nothing(office: Office) -> None:
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input", input_schema=schema)
    reply = respond(office.approver, approval, response={})
    assert reply.status_code == 422
    assert reply.json()["code"] == "unusable_schema"
    assert respond(office.approver, approval, approved=False).status_code == 200


@pytest.mark.parametrize(
    ("response", "pointer"),
    [
        (None, "/response"),
        ({"action": "complete"}, "/response/output"),
        ({"action": "explode"}, "/response/action"),
        ({"output": 1}, "/response/action"),
    ],
)
def test_a_fix_needs_an_action_and_completing_needs_an_output(
    office: Office, response: Any, pointer: str
) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="fix", input_schema=FIX)
    reply = respond(office.approver, approval, response=response)
    assert reply.status_code == 400
    assert reply.json()["issues"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ({"action": "retry"}, "ready"),
        ({"action": "complete", "output": {"done": True}}, "completed"),
        ({"action": "skip"}, "skipped"),
        ({"action": "fail"}, "failed"),
    ],
)
def test_each_fix_does_what_it_says(office: Office, response: Any, status: str) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="fix", input_schema=FIX)
    assert respond(office.approver, approval, response=response).status_code == 200
    assert statuses(approval.execution)["ask"] == status


def test_the_same_answer_again_succeeds_without_a_change(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input", input_schema=AMOUNT)
    body = {"response": {"amount": 1e3, "note": "once"}, "comments": "ok"}
    assert [respond(office.approver, approval, **body).status_code for _ in range(3)] == [200, 200, 200]
    approval.refresh_from_db()
    assert approval.version == 2
    assert Event.objects.filter(type="approval_responded", execution_id=approval.execution_id).count() == 1
    assert AuditEntry.objects.filter(target_id=str(approval.pk)).count() == 1


@pytest.mark.parametrize("other", [{"approved": False}, {"response": {"note": "x"}}, {"comments": "other"}])
def test_a_different_answer_is_told_who_decided_what(office: Office, other: dict[str, Any]) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    office.approver.first_name, office.approver.last_name = "Anna", "Berg"
    office.approver.save()
    respond(office.approver, approval)
    reply = respond(office.approver, approval, **other)
    assert (reply.status_code, reply.json()["code"]) == (409, "already_decided")
    assert reply.json()["detail"].startswith("Anna Berg approved this at 20")
    facts = {name: reply.json()[name] for name in ("approvalId", "approvalStatus", "decision", "decidedBy")}
    assert facts == {
        "approvalId": str(approval.pk),
        "approvalStatus": "approved",
        "decision": "approve",
        "decidedBy": office.approver.username,
    }
    assert reply.json()["decidedAt"].startswith("20")


def test_the_same_answer_by_somebody_else_is_a_conflict(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    respond(office.approver, approval)
    assert respond(office.colleague, approval).json()["code"] == "already_decided"


def test_true_is_not_one_when_answers_are_compared(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input")
    respond(office.approver, approval, response={"n": 1})
    assert respond(office.approver, approval, response={"n": True}).status_code == 409


def test_an_answer_to_other_content_is_refused(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    reply = respond(office.approver, approval, contentHash="0" * 64)
    assert (reply.status_code, reply.json()["code"]) == (409, "content_changed")
    approval.refresh_from_db()
    assert approval.status == "pending"


def test_an_idempotency_key_gives_the_first_answer_again(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    client = client_of(office.approver)
    replies = [
        client.post(
            f"{URL}/{approval.pk}/respond", {"approved": True}, format="json", HTTP_IDEMPOTENCY_KEY="k1"
        )
        for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[1]["Idempotent-Replay"] == "true"


def test_only_who_may_decide(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    found = {
        name: respond(user, approval).status_code
        for name, user in {
            "nobody": None,
            "stranger": office.stranger,
            "viewer": office.viewer,
            "operator": office.operator,
        }.items()
    }
    assert found == {"nobody": 401, "stranger": 404, "viewer": 403, "operator": 403}
    approval.refresh_from_db()
    assert approval.status == "pending"
    assert respond(office.admin, approval).status_code == 200


def test_an_absent_approval_looks_like_a_foreign_one(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    foreign = respond(office.stranger, approval).json()
    absent = client_of(office.approver).post(
        f"{URL}/00000000-0000-4000-8000-000000000000/respond", {"approved": True}, format="json"
    )
    assert absent.status_code == 404
    assert {**absent.json(), "instance": "", "requestId": ""} == {**foreign, "instance": "", "requestId": ""}


def test_a_level_takes_its_group_and_the_permission(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver, office.viewer])
    approval = ApprovalFactory.create(workspace=office.workspace, level="finance")
    assert respond(office.colleague, approval).status_code == 403  # may decide, is not of the group
    assert respond(office.viewer, approval).status_code == 403  # is of the group, may not decide
    assert respond(office.approver, approval).status_code == 200


def test_rights_taken_away_count_at_once(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    revoke(user=office.approver, role=Role.APPROVER, workspace=office.workspace)
    assert respond(office.approver, approval).status_code == 404


def test_a_late_answer_is_told_that_time_is_over(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    let_time_pass(approval)
    approval_timeout()(subject=approval.pk, execution_id=approval.execution_id)
    assert respond(office.approver, approval).json()["code"] == "approval_expired"
    approval.refresh_from_db()
    assert (approval.status, approval.responder, approval.responded_at) == ("expired", None, None)
    assert statuses(approval.execution)["ask"] == "failed"
    assert approval.block_execution.reason == "approval_timeout"
    assert Event.objects.filter(type="approval_timeout", execution_id=approval.execution_id).count() == 1
    assert not Timer.objects.filter(subject=approval.pk).exists()


def test_a_timer_after_the_answer_does_nothing_but_go(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    respond(office.approver, approval)
    for _ in range(2):
        approval_timeout()(subject=approval.pk, execution_id=approval.execution_id)
    approval.refresh_from_db()
    assert approval.status == "approved"
    assert not Event.objects.filter(type="approval_timeout", execution_id=approval.execution_id).exists()


def test_a_withdrawn_question_takes_no_answer(office: Office) -> None:
    execution = asking_execution(office.workspace, "one", "two")
    one = ApprovalFactory.create(execution=execution, block_id="one")
    two = ApprovalFactory.create(execution=execution, block_id="two")
    human_gate().cancel(execution_id=execution.pk, block_pks=[one.block_execution_id], reason="branch_over")
    assert respond(office.approver, one).json()["code"] == "approval_cancelled"
    assert respond(office.approver, two).status_code == 200
    one.refresh_from_db()
    assert (one.status, one.reason, one.closed_at is not None) == ("cancelled", "branch_over", True)
    assert Timer.objects.filter(kind="approval_timeout", execution=execution).count() == 0
    gone = Event.objects.get(type="approval_cancelled", execution_id=execution.pk)
    assert gone.payload is not None
    assert (gone.payload["approvalId"], gone.payload["reason"]) == (str(one.pk), "branch_over")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/approved"),
        ({"approved": "yes"}, "/approved"),
        ({"approved": 1}, "/approved"),
        ({"approved": None}, "/approved"),
        ({"approved": True, "comments": 3}, "/comments"),
        ({"approved": True, "comments": "x" * 10_001}, "/comments"),
        ({"approved": True, "status": "approved"}, "/status"),
        ({"approved": True, "responder": 1}, "/responder"),
        ({"approved": True, "contentHash": ["x"]}, "/contentHash"),
    ],
)
def test_a_malformed_body_names_its_field(office: Office, body: dict[str, Any], pointer: str) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    reply = client_of(office.approver).post(f"{URL}/{approval.pk}/respond", body, format="json")
    assert reply.status_code == 400
    assert [issue["pointer"] for issue in reply.json()["issues"]] == [pointer]
