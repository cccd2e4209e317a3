"""A user of the running product: REST and WebSockets, nothing from inside.

client = Client(service, user)
execution_id = client.start(client.create(template), input={"n": 1})
assert client.ended(execution_id)["status"] == "completed"
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from websockets.sync.client import ClientConnection, connect

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from tests.factories.governance import PASSWORD, WorkspaceFactory, member
from tests.service import Service
from tests.waiting import PATIENCE_S, until

TERMINAL = {"completed", "failed", "cancelled"}


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any


class Client:
    """One user, signed in with a password.  `workspace` is where its templates go."""

    def __init__(self, service: Service, user: User, workspace: Workspace) -> None:
        self.service = service
        self.workspace = workspace
        self._token = ""
        answer = self.post("/auth/token", {"username": user.username, "password": PASSWORD})
        self._token = answer["access"]

    # -- requests -------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Any answer, good or bad."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(
            f"{self.service.base_url}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return Reply(reply.status, json.loads(reply.read() or b"null"))
        except urllib.error.HTTPError as refused:
            with refused:
                return Reply(refused.code, json.loads(refused.read() or b"null"))

    def get(self, path: str) -> Any:
        return self._good("GET", path, None)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self._good("POST", path, body, **headers)

    def _good(self, method: str, path: str, body: Any, **headers: str) -> Any:
        reply = self.call(method, path, body, **headers)
        assert 200 <= reply.status < 300, f"{method} {path}: {reply.status} {reply.body}"
        return reply.body

    def socket(self, path: str, cursor: str = "") -> ClientConnection:
        ticket = self.post("/auth/ws-ticket", {})["ticket"]
        address = f"{self.service.ws_url}{path}?ticket={ticket}" + (f"&cursor={cursor}" if cursor else "")
        return connect(address, open_timeout=PATIENCE_S)

    # -- templates and executions ---------------------------------------------

    def create(self, template: dict[str, Any]) -> str:
        made = self.post("/templates", {**template, "workspaceId": str(self.workspace.pk)})
        return str(made["templateId"])

    def start(self, template_id: str, **fields: Any) -> str:
        """`input` and `simulation` go as they are."""
        started = self.post("/executions", {"templateId": template_id, **fields})
        return str(started["executionId"])

    def run(self, template: dict[str, Any], **fields: Any) -> str:
        return self.start(self.create(template), **fields)

    def execution(self, execution_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/executions/{execution_id}")
        return found

    def status(self, execution_id: str) -> str:
        return str(self.get(f"/executions/{execution_id}?fields=status")["status"])

    def blocks(self, execution_id: str) -> dict[str, dict[str, Any]]:
        return {block["blockId"]: block for block in self.execution(execution_id)["blockExecutions"]}

    def statuses(self, execution_id: str) -> dict[str, str]:
        return {name: block["status"] for name, block in self.blocks(execution_id).items()}

    def block(self, execution_id: str, block_id: str) -> dict[str, Any]:
        """With its attempts and late results."""
        found: dict[str, Any] = self.get(f"/executions/{execution_id}/blocks/{quote(block_id, safe='')}")
        return found

    def outcomes(self, execution_id: str, block_id: str) -> list[str]:
        return [attempt["outcome"] for attempt in self.block(execution_id, block_id)["attempts"]]

    def ended(self, execution_id: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The execution once it has ended."""
        until(lambda: self.status(execution_id) in TERMINAL, timeout_s, why=f"the end of {execution_id}")
        return self.execution(execution_id)

    def until_block(
        self, execution_id: str, block_id: str, status: str, timeout_s: float = PATIENCE_S
    ) -> None:
        path = f"/executions/{execution_id}/blocks/{quote(block_id, safe='')}"
        until(
            lambda: self.get(path)["status"] == status, timeout_s, why=f"{block_id} of the run to be {status}"
        )

    # -- people ---------------------------------------------------------------

    def asked(self, execution_id: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The one open question of a run."""
        path = f"/approvals/pending?executionId={execution_id}"
        (question,) = until(lambda: self.get(path)["approvals"], timeout_s, why="a question")
        return dict(question)

    def answer(self, question: dict[str, Any], **decision: Any) -> Reply:
        body = {"contentHash": question["contentHash"], "approved": True, **decision}
        return self.call("POST", f"/approvals/{question['approvalId']}/respond", body)


def heard(socket: ClientConnection, wanted: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """The next message of type `wanted`."""
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=timeout_s))
        if message["type"] == wanted:
            return message


def make_client(service: Service, *roles: Role, egress_allow: list[str] | None = None) -> Client:
    """A user of a workspace of its own; without roles, one who may do everything there."""
    workspace = WorkspaceFactory.create(egress_allow=egress_allow or [])
    return Client(service, member(workspace, *(roles or (Role.ADMIN, Role.APPROVER))), workspace)
