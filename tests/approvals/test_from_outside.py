"""The whole way on the running product: start, be asked, answer over HTTP, watch by WebSocket."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import revoke
from tests.approvals.conftest import Office, make_office
from tests.factories.approvals import asking_definition
from tests.factories.governance import PASSWORD
from tests.service import Service
from tests.waiting import PATIENCE_S


@pytest.fixture
def office(service: Service) -> Office:
    return make_office()


class Person:
    """One who signs in with a password and uses the product from outside."""

    def __init__(self, service: Service, user: User) -> None:
        self.service = service
        self.token = ""
        self.token = self.call("POST", "/auth/token", {"username": user.username, "password": PASSWORD})[
            "access"
        ]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(
            f"{self.service.base_url}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return json.load(reply)

    def socket(self, path: str, cursor: str = "") -> ClientConnection:
        ticket = self.call("POST", "/auth/ws-ticket", {})["ticket"]
        address = f"{self.service.ws_url}{path}?ticket={ticket}" + (f"&cursor={cursor}" if cursor else "")
        return connect(address, open_timeout=PATIENCE_S)


def heard(socket: ClientConnection, wanted: str) -> dict[str, Any]:
    """The next message of type `wanted`."""
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE_S))
        if message["type"] == wanted:
            return message


def start(service: Service, office: Office, **human: Any) -> str:
    """Start a run that asks before its first block; gives its id."""
    admin = Person(service, office.admin)
    body = asking_definition("ask", **human) | {"workspaceId": str(office.workspace.pk)}
    template_id = admin.call("POST", "/templates", body)["templateId"]
    execution_id: str = admin.call("POST", "/executions", {"templateId": template_id, "input": {}})[
        "executionId"
    ]
    return execution_id


def ended(service: Service, person: Person, execution_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = person.call("GET", f"/executions/{execution_id}")
        return found if found["status"] in {"completed", "failed", "cancelled"} else None

    found = service.until(look, why="the run to end")
    assert found is not None
    return found


def test_a_run_asks_waits_and_finishes_when_approved(service: Service, office: Office) -> None:
    approver = Person(service, office.approver)
    with approver.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        execution_id = start(service, office)
        asked = heard(inbox, "approval_requested")
        with approver.socket(f"/ws/executions/{execution_id}") as run:
            heard(run, "hello")
            (pending,) = approver.call("GET", f"/approvals/pending?executionId={execution_id}")["approvals"]
            assert pending["approvalId"] == asked["approvalId"]
            answer = {"approved": True, "contentHash": pending["contentHash"]}
            assert approver.call("POST", f"/approvals/{pending['approvalId']}/respond", answer) == {
                "success": True
            }
            assert heard(inbox, "approval_responded")["approvalId"] == pending["approvalId"]
            while heard(run, "execution_changed")["status"] != "completed":
                pass
    run_ = ended(service, approver, execution_id)
    assert run_["status"] == "completed"
    assert sorted(run_["completedBlocks"]) == ["after", "ask"]


def test_nobody_answers_and_the_block_fails(service: Service, office: Office) -> None:
    approver = Person(service, office.approver)
    with approver.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        execution_id = start(service, office, timeout=300)
        heard(inbox, "approval_requested")
        heard(inbox, "approval_timeout")
    run = ended(service, approver, execution_id)
    assert run["status"] == "failed"
    (block,) = [block for block in run["blockExecutions"] if block["blockId"] == "ask"]
    assert block["error"]["code"] == "approval_timeout"


def test_a_cancelled_run_withdraws_its_question(service: Service, office: Office) -> None:
    approver, admin = Person(service, office.approver), Person(service, office.admin)
    with approver.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        execution_id = start(service, office)
        asked = heard(inbox, "approval_requested")
        admin.call("POST", f"/executions/{execution_id}/cancel", {})
        assert heard(inbox, "approval_cancelled")["approvalId"] == asked["approvalId"]
    assert approver.call("GET", f"/approvals/{asked['approvalId']}")["status"] == "cancelled"


def test_a_client_that_was_away_goes_on_from_its_cursor(service: Service, office: Office) -> None:
    approver = Person(service, office.approver)
    with approver.socket("/ws/approvals") as inbox:
        cursor = heard(inbox, "hello")["cursor"]
    execution_id = start(service, office)
    service.until(lambda: approver.call("GET", "/approvals/pending")["total"], why="the question")
    with approver.socket("/ws/approvals", cursor) as inbox:
        assert heard(inbox, "approval_requested")["executionId"] == execution_id


def test_a_socket_does_not_outlive_the_rights(service: Service, office: Office) -> None:
    approver = Person(service, office.approver)
    with approver.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        revoke(user=office.approver, role=Role.APPROVER, workspace=office.workspace)
        with pytest.raises(ConnectionClosed) as closed:
            inbox.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403


@pytest.mark.slow
def test_a_socket_without_news_stays_open(service: Service, office: Office) -> None:
    approver = Person(service, office.approver)
    with approver.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        with pytest.raises(TimeoutError):
            inbox.recv(timeout=8)  # longer than any one read of the channel layer
        execution_id = start(service, office)
        assert heard(inbox, "approval_requested")["executionId"] == execution_id
