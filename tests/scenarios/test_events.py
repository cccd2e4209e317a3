"""An event told over HTTP moves a run that waits for it, whoever is dead meanwhile."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from agentflow.api.authentication import access_token
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from tests.factories.governance import WorkspaceFactory, member
from tests.factories.templates import write_template
from tests.service import Service

pytestmark = pytest.mark.slow

PAID: JSONObject = {"blockId": "paid", "wait": {"event": "paid", "correlation": "input.order"}}


def client_and_run(service: Service, order: str) -> tuple[httpx.Client, Any]:
    workspace = WorkspaceFactory.create()
    person = member(workspace, Role.AUTHOR, Role.OPERATOR)
    version = write_template(workspace, person, PAID, name="Wait for the money")
    client = httpx.Client(
        base_url=f"{service.base_url}/api/v1", headers={"Authorization": f"Bearer {access_token(person)}"}
    )
    reply = client.post(
        "/executions", json={"templateId": str(version.template_id), "input": {"order": order}}
    )
    assert reply.status_code == 201, reply.text
    run = reply.json()["executionId"]

    def read(field: str) -> Any:
        return client.get(f"/executions/{run}").json()[field]

    service.until(lambda: read("blockExecutions")[0]["status"] == "waiting_external")
    return client, read


def test_an_event_is_there_within_moments(service: Service) -> None:
    client, read = client_and_run(service, "A-1")
    assert (
        client.post("/events", json={"type": "paid", "correlation": "A-1", "payload": 12}).status_code == 201
    )
    service.until(lambda: read("status") == "completed")
    assert read("globalContext") == {"paid": 12}


def test_an_event_told_while_no_worker_and_no_clock_lives_is_not_lost(service: Service) -> None:
    client, read = client_and_run(service, "A-2")
    service.kill_worker()
    service.kill("clock")
    assert client.post("/events", json={"type": "paid", "correlation": "A-2"}).status_code == 201
    service.start_clock()
    service.until(lambda: read("status") == "completed")
    service.start_worker()
