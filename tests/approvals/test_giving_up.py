"""An execution that is given up is told of to those whom it concerns, once each, with its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import mail

from agentflow.events.models import Event
from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from approvals.models import Approval
from approvals.notify import wishes
from approvals.notify.models import Delivery
from approvals.notify.wishes import Given
from approvals.services.responding import respond
from executions.models import RecoveryPoint
from executions.services import restarting, ticking
from tests.approvals.notices import make_due, send_all, states, target
from tests.executions.conftest import (  # noqa: F401  # fixtures
    Start,
    author,
    block,
    drain,
    start,
    template,
    test_agents,
    version_of,
)
from tests.executions.recovery.test_strategies import going_back
from tests.factories.governance import client_of, member
from tests.servers import HttpServer, http_server


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with http_server() as server:
        server.on("/hook", lambda exchange: exchange.json({}))
        yield server


@pytest.fixture(autouse=True)
def mail_is_sent(settings: Any) -> None:
    settings.AGENTFLOW_EMAIL = True
    settings.AGENTFLOW_BASE_URL = "https://flow.example.com"


def failing(*ladder: str) -> JSONObject:
    paid = block("pay", compensation={"agentId": "builtin.echo"})
    recovery = {"agent": list(ladder)}
    return template(paid, block("book", "pay", agentId="test.crash", recovery=recovery))


def told() -> list[str]:
    return sorted(Delivery.objects.filter(topic="given_up").values_list("recipient", flat=True))


def test_all_are_told_once_that_an_execution_was_undone_and_failed(
    start: Start,  # noqa: F811
    author: User,  # noqa: F811
    receiver: HttpServer,
) -> None:
    execution = start(failing("compensate"))
    workspace = execution.workspace
    operator = member(workspace, Role.OPERATOR, email="op@example.com")
    member(workspace, Role.VIEWER, email="viewer@example.com")
    quiet = member(workspace, Role.OPERATOR, email="quiet@example.com")
    wishes.put(user=quiet, workspace_id=workspace.pk, given=Given(topics={"given_up": []}))
    User.objects.filter(pk=author.pk).update(email="starter@example.com")
    hook = target(workspace, author, receiver.url("/hook"))
    target(workspace, author, receiver.url("/chat"), channel="slack", topics=["requested"])
    drain(execution)
    assert (execution.status, execution.compensation) == ("failed", "done")
    assert told() == sorted([f"target:{hook.pk}", f"user:{author.pk}", f"user:{operator.pk}"])
    send_all()
    send_all()
    assert states() == ["sent"] * 3
    (seen,) = receiver.seen
    body = json.loads(seen.body)
    assert body["type"] == "execution_given_up"
    assert body["data"]["executionId"] == str(execution.pk)
    assert (body["data"]["compensation"], body["data"]["blocks"]) == ("done", ["book"])
    assert seen.headers["webhook-id"] == body["data"]["deliveryId"]
    assert {sent.to[0] for sent in mail.outbox} == {"starter@example.com", "op@example.com"}
    text = mail.outbox[0].body
    assert "What it had done was undone." in text
    assert f"https://flow.example.com/executions/{execution.pk}/" in text
    listed = client_of(author).get("/api/v1/notifications/deliveries").json()["deliveries"]
    assert {(one["executionId"], one["approvalId"]) for one in listed} == {(str(execution.pk), None)}


def test_who_answered_is_told_and_only_those_whom_the_workspace_wants(
    start: Start,  # noqa: F811
    author: User,  # noqa: F811
) -> None:
    execution = start(failing("ask"))
    workspace = execution.workspace
    rules: JSONObject = {"stakeholders": ["deciders"], "topics": {}}
    kept = client_of(author).put("/api/v1/notifications/defaults", rules, format="json").json()
    assert kept["stakeholders"] == ["deciders"]
    refused = client_of(author).put(
        "/api/v1/notifications/defaults", rules | {"stakeholders": ["all"]}, format="json"
    )
    assert refused.status_code == 400
    decider = member(workspace, Role.OPERATOR, Role.APPROVER, email="noor@example.com")
    member(workspace, Role.OPERATOR, email="op@example.com")
    drain(execution)
    asked = Approval.objects.get(execution=execution)
    respond(approval_id=asked.pk, by=decider, approved=True, response={"action": "abort"})
    drain(execution)
    assert execution.status == "failed"
    assert told() == [f"user:{decider.pk}"]


@pytest.mark.parametrize("ladder", ["ask", "critical"])
def test_a_critical_failure_and_one_that_a_person_lets_be_are_told(
    start: Start,  # noqa: F811
    author: User,  # noqa: F811
    ladder: str,
) -> None:
    User.objects.filter(pk=author.pk).update(email="starter@example.com")
    agent = "test.nan" if ladder == "critical" else "test.crash"
    body = template(block("book", agentId=agent, effect="pure", recovery={"agent": ["ask"]}))
    execution = start(body)
    drain(execution)
    if ladder == "ask":
        assert told() == []
        asked = Approval.objects.get(execution=execution)
        respond(approval_id=asked.pk, by=author, approved=True, response={"action": "fail"})
        drain(execution)
    assert (execution.status, told()) == ("failed", [f"user:{author.pk}"])


@pytest.mark.parametrize(
    ("ladder", "options"),
    [
        (("fail",), {}),
        (("compensate",), {"simulation": {"failures": {"book": [{"kind": "agent", "times": 9}]}}}),
    ],
)
def test_an_ordinary_failure_and_a_simulation_are_told_to_nobody(
    start: Start,  # noqa: F811
    author: User,  # noqa: F811
    ladder: tuple[str, ...],
    options: JSONObject,
) -> None:
    execution = start(failing(*ladder), **options)
    drain(execution)
    assert execution.status == "failed"
    assert told() == []


def test_a_restart_that_cannot_be_carried_out_is_passed_on_to_people(
    start: Start,  # noqa: F811
    author: User,  # noqa: F811
) -> None:
    User.objects.filter(pk=author.pk).update(email="starter@example.com")
    execution = start(going_back())
    drain(execution)
    assert told() == []
    RecoveryPoint.objects.filter(execution=execution).delete()
    ticking.tick()
    execution.refresh_from_db()
    assert (execution.status, execution.epoch) == ("failed", 1)
    assert Event.objects.filter(type="recovery_failed", execution_id=execution.pk).exists()
    assert told() == [f"user:{author.pk}"]


def test_each_end_is_told_anew_and_what_cannot_be_sent_is_tried_again(
    start: Start,  # noqa: F811
    author: User,  # noqa: F811
    receiver: HttpServer,
) -> None:
    receiver.on("/hook", lambda exchange: exchange.reply(b"no", 503))
    execution = start(failing("compensate"))
    target(execution.workspace, author, receiver.url("/hook"))
    drain(execution)
    send_all()
    receiver.on("/hook", lambda exchange: exchange.json({}))
    make_due()
    send_all()
    hooks = [json.loads(seen.body)["data"]["deliveryId"] for seen in receiver.seen]
    assert (len(hooks), len(set(hooks))) == (2, 1)
    restarting.restart_failed(execution_id=execution.pk, by=author)
    drain(execution)
    assert Event.objects.filter(type="execution_given_up", execution_id=execution.pk).count() == 2
    assert Delivery.objects.values("event_id").distinct().count() == 2
