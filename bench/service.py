"""agentflow as a system to be measured: by its service functions, and by its HTTP interface."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from .blocks import BlockLog
from .graphs import Graph, sinks
from .measuring import TIMEOUT_S

USER, PASSWORD = "bench", "only-for-this-benchmark"
MAX_PARALLEL = 50
POLL_S = 0.001
LOOK_ANYWAY_S = 0.5
TOKEN_S = 200.0
KEPT_ALIVE_S = 3.0  # the server closes a connection that is silent for five
TERMINAL = ("completed", "failed", "cancelled")


def definition(name: str, graph: Graph) -> dict[str, Any]:
    return {
        "name": name,
        "blocks": [
            {
                "blockId": node.name,
                "agentId": "bench.block",
                "configuration": {"n": node.n},
                "dependencies": list(node.after),
            }
            for node in graph
        ],
        "globalSettings": {"maxParallelBlocks": MAX_PARALLEL},
    }


@dataclass(frozen=True, slots=True)
class Started:
    pk: UUID
    blocks: int


class Agentflow:
    """Executions of a stored template, started by `starting.start`."""

    def __init__(self, name: str = USER) -> None:
        from agentflow.governance.models import User
        from agentflow.governance.services.workspaces import create_workspace

        self.user = User.objects.create_user(name, password=PASSWORD, is_superuser=True)
        self.workspace = create_workspace(slug=name, name=name.capitalize(), by=self.user)
        self._versions: dict[str, Any] = {}

    def prepare(self, name: str, graph: Graph) -> None:
        self.store(name, definition(name, graph))

    def store(self, name: str, body: dict[str, Any]) -> Any:
        """A template of any definition, kept under `name`."""
        from agentflow.workflow.parsing import parse
        from templates_app.services import authoring

        if name not in self._versions:
            self._versions[name] = authoring.create_template(
                workspace_id=self.workspace.pk, by=self.user, definition=parse(body)
            )
        return self._versions[name]

    def refresh(self) -> None:
        """Nothing: the database's connection stays."""

    def start(self, name: str, graph: Graph, run: str) -> Started:
        from executions.services import starting

        execution = starting.start(version=self._versions[name], by=self.user, input={"run": run})
        return Started(execution.pk, len(graph))

    def wait(self, handles: Sequence[Started], log: BlockLog) -> None:
        ids = [handle.pk for handle in handles]
        await_end(log, lambda: not self._open(ids), blocks=sum(handle.blocks for handle in handles))

    def _open(self, ids: list[UUID]) -> int:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM executions_execution WHERE id = ANY(%s) AND completed_at IS NULL",
                [ids],
            )
            return int(cursor.fetchone()[0])

    def answers(self, handle: Started, graph: Graph) -> dict[str, int]:
        from executions.models import BlockExecution

        rows = BlockExecution.objects.filter(execution_id=handle.pk)
        found: dict[str, tuple[str, int, Any]] = {
            row.block_id: (row.status, row.attempt, row.output)
            for row in rows.only("block_id", "status", "attempt", "output")
        }
        assert set(found) == {node.name for node in graph}, "the rows are not the graph's blocks"
        odd = [name for name, (status, attempt, _) in found.items() if (status, attempt) != ("completed", 1)]
        assert not odd, f"{len(odd)} blocks are not completed at their first attempt, as {odd[0]}"
        return {name: found[name][2]["v"] for name in sinks(graph)}


class AgentflowHttp:
    """The same templates, started and followed through REST by one client on one connection."""

    def __init__(self, ours: Agentflow, port: int) -> None:
        self.ours = ours
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._token, self._token_at = "", float("-inf")
        self._used_at = 0.0
        self._templates: dict[str, str] = {}

    def prepare(self, name: str, graph: Graph) -> None:
        self._templates[name] = str(self.ours.store(name, definition(name, graph)).template_id)

    def start(self, name: str, graph: Graph, run: str) -> Started:
        body = {
            "templateId": self._templates[name],
            "workspaceId": str(self.ours.workspace.pk),
            "input": {"run": run},
        }
        started = self.call("POST", "/api/v1/executions", body)
        return Started(UUID(started["executionId"]), len(graph))

    def wait(self, handles: Sequence[Started], log: BlockLog) -> None:
        open_ = list(handles)

        def ended() -> bool:
            while open_ and self._status(open_[0].pk) in TERMINAL:
                open_.pop(0)
            return not open_

        await_end(log, ended, blocks=sum(handle.blocks for handle in handles))

    def _status(self, execution_id: UUID) -> str:
        return str(self.call("GET", f"/api/v1/executions/{execution_id}?fields=status")["status"])

    def answers(self, handle: Started, graph: Graph) -> dict[str, int]:
        return self.ours.answers(handle, graph)

    def refresh(self) -> None:
        """Sign in again in time: a token lives a few minutes."""
        if time.monotonic() - self._token_at > TOKEN_S:
            self._token = ""
            credentials = {"username": USER, "password": PASSWORD}
            self._token = self.call("POST", "/api/v1/auth/token", credentials)["access"]
            self._token_at = time.monotonic()
        self.call("GET", "/ready")  # so that no run pays for a new connection

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if time.monotonic() - self._used_at > KEPT_ALIVE_S:
            self._connection.close()
        self._used_at = time.monotonic()
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{method} {path} answered {reply.status}: {text[:500].decode()}")
        return json.loads(text)


def await_end(log: BlockLog, ended: Callable[[], bool], *, blocks: int) -> None:
    """Return once `ended`, which is asked for when the last block has run: looking costs the system time.

    Now and then it is asked anyway, for a run in which a block failed.

    Raises:
        TimeoutError: it never ended.
    """
    now = time.monotonic()
    until, next_look = now + TIMEOUT_S, now + LOOK_ANYWAY_S
    while True:
        now = time.monotonic()
        if sum(map(len, log.read().values())) >= blocks or now > next_look:
            if ended():
                return
            next_look = now + LOOK_ANYWAY_S
        if now > until:
            raise TimeoutError("an execution did not end")
        time.sleep(POLL_S)
