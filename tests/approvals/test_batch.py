"""Many answers in one call, each with a record of its own."""

from __future__ import annotations

from typing import Any

from agentflow.governance.models import AuditEntry, User
from approvals.models import Approval, ApprovalVote
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import ApprovalFactory, asking_execution
from tests.factories.governance import client_of


def send(user: User, *answers: dict[str, Any]) -> Any:
    return client_of(user).post(f"{URL}/respond-many", {"answers": list(answers)}, format="json")


def says(approval: Approval, *, yes: bool = True, **fields: Any) -> dict[str, Any]:
    known = {"approvalId": str(approval.pk), "contentHash": approval.content_hash}
    return {**known, "approved": yes, **fields}


def test_each_item_is_answered_by_itself(office: Office) -> None:
    first = ApprovalFactory.create(workspace=office.workspace)
    version = first.execution.template_version
    execution = asking_execution(office.workspace, "ask")
    execution.template_version = version
    execution.save()
    second = ApprovalFactory.create(execution=execution)
    stale = says(second, contentHash="0" * 64)
    reply = send(office.approver, says(first, comments="fine"), stale)
    assert reply.status_code == 200
    assert [(one["ok"], one["code"]) for one in reply.json()["results"]] == [
        (True, ""),
        (False, "content_changed"),
    ]
    again = send(office.approver, says(first, comments="fine"), says(second, yes=False))
    assert all(one["ok"] for one in again.json()["results"])
    votes = ApprovalVote.objects.order_by("at").values_list("approval", "decision")
    assert list(votes) == [(first.pk, "approve"), (second.pk, "reject")]


def test_only_what_is_alike_goes_together_and_nothing_foreign(office: Office) -> None:
    ours, other = (ApprovalFactory.create(workspace=office.workspace) for _ in range(2))
    refused = send(office.approver, says(ours), says(other))
    assert (refused.status_code, refused.json()["code"]) == (422, "not_alike")
    foreign = send(office.stranger, says(ours)).json()["results"][0]
    assert (foreign["ok"], foreign["code"]) == (False, "not_found")
    assert not ApprovalVote.objects.exists()
    body: dict[str, Any]
    for body in ({}, {"answers": []}, {"answers": [{}]}, {"answers": [says(ours)] * 201}, {"answers": "x"}):
        malformed = client_of(office.approver).post(f"{URL}/respond-many", body, format="json")
        assert malformed.status_code == 400


def take_back(user: User, *approvals: Approval, reason: str = "Wrong order") -> Any:
    body = {"approvalIds": [str(each.pk) for each in approvals], "reason": reason}
    return client_of(user).post(f"{URL}/withdraw-many", body, format="json")


def test_an_operator_withdraws_many_and_their_steps_fail(office: Office) -> None:
    ours = [ApprovalFactory.create(workspace=office.workspace) for _ in range(2)]
    tool = ApprovalFactory.create(workspace=office.workspace, kind="fix")
    decided = ApprovalFactory.create(workspace=office.workspace)
    client_of(office.approver).post(f"{URL}/{decided.pk}/respond", {"approved": True}, format="json")
    for user, code in ((office.approver, "not_permitted"), (office.stranger, "not_found")):
        assert {one["code"] for one in take_back(user, *ours).json()["results"]} == {code}
    assert take_back(office.operator, *ours, reason="").status_code == 400
    for _ in range(2):  # the second time changes nothing
        found = take_back(office.operator, *ours, tool, decided).json()["results"]
        assert [(one["ok"], one["code"]) for one in found] == [
            *[(True, "")] * 3,
            (False, "already_decided"),
        ]
    for approval in (*ours, tool):
        approval.refresh_from_db()
        assert (approval.status, approval.reason, approval.comments) == (
            "cancelled",
            "withdrawn",
            "Wrong order",
        )
        block = approval.block_execution
        assert (block.status, (block.error or {})["code"]) == ("failed", "approval_withdrawn")
    late = client_of(office.approver).post(f"{URL}/{ours[0].pk}/respond", {"approved": True}, format="json")
    assert (late.status_code, late.json()["code"]) == (409, "approval_cancelled")
    said = AuditEntry.objects.filter(action="approval.withdraw")
    assert {(entry.actor_id, entry.detail["reason"]) for entry in said} == {
        (office.operator.pk, "Wrong order")
    }
    assert said.count() == 3
