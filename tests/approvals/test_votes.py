"""What each person decided is kept with the evidence for it."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from agentflow.governance.models import User
from approvals.models import Approval, ApprovalVote
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import statuses
from tests.factories.governance import client_of

ARGUMENTS = {"to": "ann@example.org", "amount": 640}


def respond(user: User, approval: Approval, **body: Any) -> Any:
    return client_of(user).post(f"{URL}/{approval.pk}/respond", {"approved": True} | body, format="json")


def tool_call(office: Office, **fields: Any) -> Approval:
    request = {"title": "May it send the mail?", "editable": ARGUMENTS}
    approval: Approval = ApprovalFactory.create(
        workspace=office.workspace, kind="tool", request=request, **fields
    )
    return approval


def test_a_vote_keeps_what_was_shown_by_what_right_and_from_where(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    assert respond(office.approver, approval, comments="fine").status_code == 200
    shown = client_of(office.viewer).get(f"{URL}/{approval.pk}").json()
    (vote,) = shown["votes"]
    evidence = vote.pop("evidence")
    assert 0 <= evidence.pop("seconds") < 3600
    assert evidence.pop("requestId")
    assert evidence == {
        "contentHash": approval.content_hash,
        "request": approval.request,
        "inputSchema": {},
        "versionNumber": 1,
        "attempt": 1,
        "permission": {"name": "decide_approvals", "level": "user", "via": "level"},
    }
    assert vote.pop("at") >= shown["requestedAt"]
    assert vote == {
        "user": office.approver.username,
        "onBehalfOf": None,
        "level": "user",
        "decision": "approve",
        "response": None,
        "edits": None,
        "comments": "fine",
        "channel": "api",
        "counts": True,
    }
    assert shown["decision"] == "approve"


@pytest.mark.parametrize("how", ["respond", "respond-many", "rework"])
def test_what_is_decided_on_a_page_is_kept_as_such(office: Office, how: str) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, kind="review")
    shown = {"approvalId": str(approval.pk), "contentHash": approval.content_hash}
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "respond": (f"{approval.pk}/respond", {"approved": True}),
        "respond-many": (how, {"answers": [{**shown, "approved": True}]}),
        "rework": (f"{approval.pk}/rework", {"comments": "Not yet."}),
    }
    address, body = bodies[how]
    page = APIClient()
    page.force_login(office.approver)
    reply = page.post(f"{URL}/{address}", body, format="json")
    assert reply.status_code == 200, reply.json()
    assert ApprovalVote.objects.get().channel == "page"


@pytest.mark.parametrize(
    "change",
    [
        {"edited": {"to": "ann@example.org", "amount": 700}},
        {"edits": [{"op": "replace", "path": "/amount", "value": 700}]},
    ],
)
def test_approving_with_changes_keeps_them_as_a_patch(office: Office, change: dict[str, Any]) -> None:
    approval = tool_call(office)
    assert respond(office.approver, approval, response=change).status_code == 200
    vote = ApprovalVote.objects.get(approval=approval)
    assert vote.decision == "edit"
    assert vote.edits == [{"op": "replace", "path": "/amount", "value": 700}]
    assert vote.response == {"edited": {"to": "ann@example.org", "amount": 700}}
    approval.refresh_from_db()
    assert (approval.decision, approval.response) == ("edit", vote.response)
    assert statuses(approval.execution)["ask"] == "ready"
    assert respond(office.approver, approval, response=change).status_code == 200  # the same again
    assert respond(office.approver, approval, response={"edited": {}}).status_code == 409


def test_changing_nothing_is_a_plain_yes(office: Office) -> None:
    approval = tool_call(office)
    assert respond(office.approver, approval, response={"edited": ARGUMENTS}).status_code == 200
    assert ApprovalVote.objects.get().decision == "approve"


@pytest.mark.parametrize(
    ("response", "code", "pointer"),
    [
        ({"edits": [{"op": "remove", "path": "/nothing"}]}, "invalid_edits", "/response/edits"),
        ({"edits": {"amount": 3}}, "invalid_edits", "/response/edits"),
        ({"edits": [1, None]}, "invalid_edits", "/response/edits"),
        ({"edits": [{"op": "add", "path": "/to/x/y", "value": 1}]}, "invalid_edits", "/response/edits"),
        ({"edits": [{"op": "copy", "from": "", "path": "/a"}] * 40}, "invalid_edits", "/response/edits"),
        ({"edited": {"amount": "much"}}, "invalid_response", "/response/edited/amount"),
    ],
)
def test_changes_that_do_not_fit_change_nothing(
    office: Office, response: Any, code: str, pointer: str
) -> None:
    schema = {"type": "object", "properties": {"amount": {"type": "number"}}}
    approval = tool_call(office, input_schema=schema)
    reply = respond(office.approver, approval, response=response)
    assert (reply.status_code, reply.json()["code"]) == (400, code)
    assert pointer in str(reply.json())
    assert not ApprovalVote.objects.exists()
    assert statuses(approval.execution)["ask"] == "waiting_human"


def test_where_nothing_is_to_be_changed_a_change_is_refused(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    assert respond(office.approver, approval, response={"edited": 1}).json()["code"] == "not_editable"
    assert respond(office.approver, approval).status_code == 200
