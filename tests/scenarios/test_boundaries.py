"""What may not be seen, not happen twice, and not do harm."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from executions.recovery.rule_models import FailureRule
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.factories.executions import IncidentFactory, ProposalFactory, RepairFactory
from tests.outside import Client, Reply, make_client
from tests.scenarios.agents import calling, echo, template
from tests.servers import Exchange, HttpServer
from tests.service import Service
from tests.waiting import PATIENCE_S

OPENAPI = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"
OBJECTS = re.compile(
    r"^/api/v1(/(?:executions|approvals|templates|agents|scripts|incidents|failure-rules|proposals)/\{.*)$"
)

# -- other people's workspaces -------------------------------------------------

BODIES: dict[str, Any] = {
    "respond": {"approved": True},
    "delegate": {"to": "somebody", "reason": "away"},
    "reassign": {"to": "somebody", "reason": "away"},
    "comments": {"text": "why?"},
    "rework": {"comments": "why?"},
    "comment": {"text": "why?"},
    "assign": {"to": None},
    "adapt": {},
    "dismiss": {"reason": "no"},
    "proposals": {},
    "repair-plan": {"fix": {"action": "skip"}},
    "stop": {},
    "faults": {"minutes": 5, "rules": [{"kind": "slow", "ms": 1, "share": 1}]},
    "repairs": {"fix": {"action": "skip"}},
    "snooze": {"until": "2100-01-01T00:00:00Z"},
    "link": {"url": "https://tickets.example/7"},
    "agents": {
        "agentId": "x",
        "name": "x",
        "toolType": "API",
        "configuration": {"url": "https://x.example/"},
    },
}


def operations() -> Iterator[tuple[str, str]]:
    """Every operation on one object of a workspace, as the API describes itself."""
    for address, methods in yaml.safe_load(OPENAPI.read_text())["paths"].items():
        found = OBJECTS.match(address)
        if found:
            for method in sorted(methods.keys() & {"get", "put", "post", "patch", "delete"}):
                yield method.upper(), found[1]


@pytest.fixture
def stranger(service: Service) -> Client:
    """One who may do everything, but elsewhere."""
    return make_client(service)


def test_what_is_in_another_workspace_does_not_exist(client: Client, stranger: Client) -> None:
    template_id = client.create(template({"blockId": "a", "humanInLoop": {"type": "approval"}}))
    execution_id = client.start(template_id)
    incident = IncidentFactory.create(template_id=template_id, workspace=client.workspace)
    own = {
        "template_id": template_id,
        "execution_id": execution_id,
        "approval_id": client.asked(execution_id)["approvalId"],
        "block_id": "a",
        "number": "1",
        "point_id": client.post(f"/executions/{execution_id}/recovery-points", {})["recoveryPointId"],
        "incident_id": str(incident.pk),
        "repair_id": str(RepairFactory.create(incident=incident).pk),
        "proposal_id": str(ProposalFactory.create(template_id=template_id, workspace=client.workspace).pk),
        "rule_id": str(
            FailureRule.objects.create(
                workspace=client.workspace, name="x", condition="failure.code == 'x'", kind="agent"
            ).pk
        ),
    }
    ids = {
        "agents": str(AgentFactory.create(workspace=client.workspace).pk),
        "scripts": str(ScriptFactory.create(workspace=client.workspace).pk),
    }
    absent = {name: str(uuid.uuid4()) for name in own} | {
        "block_id": "a",
        "number": "1",
        "point_id": "999999999",
    }
    tried = 0
    for method, address in operations():
        body = _body_for(client, method, address, template_id)
        kind = address.split("/")[1]
        foreign = stranger.call(method, address.format(**own, id=ids.get(kind, "")), body)
        missing = stranger.call(method, address.format(**absent, id=uuid.uuid4()), body)
        assert foreign.status == 404, (method, address, foreign)
        assert _shape(foreign) == _shape(missing), (method, address)
        tried += 1
    assert tried >= 20
    assert client.status(execution_id) == "running"  # and nothing of it had an effect
    assert client.asked(execution_id)["status"] == "pending"
    assert client.get(f"/templates/{template_id}")["versionNumber"] == 1


def _body_for(client: Client, method: str, address: str, template_id: str) -> Any:
    """A good body, so that nothing but the object can be what is refused."""
    if method in ("GET", "DELETE"):
        return None
    if method == "PUT" and address.startswith("/templates"):
        return template(echo("b"))
    if address.endswith("/validate"):
        return None
    for part, body in BODIES.items():
        if part in address:
            return body
    return {}


def _shape(reply: Reply) -> dict[str, Any]:
    return {name: reply.body.get(name) for name in ("type", "title", "status", "code", "remedy")}


def test_lists_hold_nothing_of_another_workspace(client: Client, stranger: Client) -> None:
    execution_id = client.run(template({"blockId": "a", "humanInLoop": {"type": "approval"}}))
    client.asked(execution_id)
    foreign = f"workspaceId={client.workspace.pk}"
    for kind in (
        "executions",
        "templates",
        "approvals",
        "approvals/pending",
        "agents",
        "scripts",
        "incidents",
        "proposals",
    ):
        name = "approvals" if kind == "approvals/pending" else kind
        assert stranger.get(f"/{kind}")[name] == []
        listed = stranger.call("GET", f"/{kind}?{foreign}")
        assert listed.status in (400, 404) or listed.body[name] == []
    assert stranger.get(f"/approvals/pending?executionId={execution_id}")["approvals"] == []


def test_a_foreign_template_cannot_be_started_or_called(client: Client, stranger: Client) -> None:
    template_id = client.create(template(echo("a")))
    assert stranger.call("POST", "/executions", {"templateId": template_id}).status == 404
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": template_id}}
    own = stranger.create(template(sub))
    refused = stranger.call("POST", "/executions", {"templateId": own})
    assert (refused.status, refused.body["code"]) == (422, "not_startable")


# -- once ----------------------------------------------------------------------


def test_a_start_sent_twice_at_once_starts_one_run(client: Client) -> None:
    template_id = client.create(template(echo("a")))
    barrier = threading.Barrier(2)

    def start(_: int) -> Reply:
        barrier.wait(PATIENCE_S)
        return client.call("POST", "/executions", {"templateId": template_id}, Idempotency_Key="order-7")

    with ThreadPoolExecutor(2) as both:
        replies = list(both.map(start, range(2)))
    for reply in replies:
        # The second may come while the first is still worked on.
        assert reply.status == 201 or (reply.status, reply.body["code"]) == (409, "idempotency_in_progress")
    again = client.call("POST", "/executions", {"templateId": template_id}, Idempotency_Key="order-7")
    started = {reply.body["executionId"] for reply in [*replies, again] if reply.status == 201}
    assert len(started) == 1
    other = client.call(
        "POST", "/executions", {"templateId": template_id, "input": {"n": 1}}, Idempotency_Key="order-7"
    )
    assert (other.status, other.body["code"]) == (409, "idempotency_key_reused")
    assert client.get(f"/executions?templateId={template_id}")["total"] == 1


# -- agents that do harm -------------------------------------------------------

MB = 1024**2
GB = 1024**3


def garbage(server: HttpServer, exchange: Exchange) -> None:
    exchange.reply(b"\x00\xff{{{" * 500, content_type="application/json")


def announced_bytes(server: HttpServer, exchange: Exchange) -> None:
    exchange.start(content_length=str(GB), content_type="application/json")
    for _ in range(GB // MB):
        exchange.write(b"1" * MB)


def unannounced_bytes(server: HttpServer, exchange: Exchange) -> None:
    """In chunks, of which nobody knows how many follow."""
    exchange.start(transfer_encoding="chunked", content_type="application/json")
    for _ in range(GB // MB):
        exchange.write(b"%x\r\n%b\r\n" % (MB, b"1" * MB))


def a_byte_at_a_time(server: HttpServer, exchange: Exchange) -> None:
    """Never silent, never done."""
    exchange.start(transfer_encoding="chunked", content_type="application/json")
    while not server.stopping.wait(0.1):
        exchange.write(b"1\r\n1\r\n")


def never(server: HttpServer, exchange: Exchange) -> None:
    server.hold(exchange)


@pytest.mark.parametrize(
    ("agent", "kind", "code"),
    [
        (garbage, "agent", "response_not_json"),
        (announced_bytes, "agent", "response_too_large"),
        (unannounced_bytes, "agent", "response_too_large"),
        (a_byte_at_a_time, "transient", "timeout"),
        (never, "transient", "timeout"),
    ],
)
def test_an_agent_that_misbehaves_is_a_failed_attempt_and_no_dead_worker(
    client: Client,
    service: Service,
    server: HttpServer,
    agent: Callable[[HttpServer, Exchange], None],
    kind: str,
    code: str,
) -> None:
    server.on("/bad", partial(agent, server))
    policy = {"maxRetries": 0, "onExhausted": "fail"}
    bad = calling(server, "bad", path="/bad", timeout=1000, effect="pure", retryPolicy=policy)
    execution_id = client.run(template(bad, echo("after", "bad")))
    run = client.ended(execution_id)
    assert run["status"] == "failed"
    block = client.block(execution_id, "bad")
    assert (block["status"], block["error"]["kind"], block["error"]["code"]) == ("failed", kind, code)
    assert [attempt["outcome"] for attempt in block["attempts"]] == ["error"]
    lines = client.get(f"/executions/{execution_id}/logs?blockId=bad&limit=500")["logs"]
    assert any(line["level"] == "error" and block["error"]["message"] in line["message"] for line in lines)
    assert len(service.workers) == 1
    following = client.run(template(echo("a"), echo("b", "a")))
    assert client.ended(following)["status"] == "completed"
