"""Events of approvals become deliveries, each once, and deliveries are sent at least once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator

import pytest
from django.db import connection

from agentflow.agents import registry
from approvals.models import Approval
from approvals.notify import following, outbox
from approvals.notify.channels import Undelivered, sender_for
from approvals.notify.duty import Notifying
from approvals.notify.models import Delivery, Follower
from approvals.services.responding import respond
from tests.approvals.conftest import Office, make_office
from tests.approvals.notices import SECRET, follow, make_due, send_all, states, target
from tests.factories.approvals import ApprovalFactory
from tests.factories.governance import client_of
from tests.servers import Exchange, HttpServer, http_server
from tests.waiting import until

committed = pytest.mark.django_db(transaction=True)


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with http_server() as server:
        server.on("/hook", lambda exchange: exchange.json({}))
        yield server


def hooked(office: Office, receiver: HttpServer, path: str = "/hook") -> Approval:
    """An open question that a webhook is to be told of."""
    target(office.workspace, office.admin, receiver.url(path))
    approval: Approval = ApprovalFactory.create(workspace=office.workspace)
    return approval


def test_a_webhook_is_told_once_of_each_event_with_a_signature(office: Office, receiver: HttpServer) -> None:
    approval = hooked(office, receiver)
    send_all()
    respond(approval_id=approval.pk, by=office.approver, approved=True)
    send_all()
    send_all()
    assert [json.loads(seen.body)["type"] for seen in receiver.seen] == [
        "approval_requested",
        "approval_responded",
    ]
    assert states() == ["sent", "sent"]
    asked = receiver.seen[0]
    body = json.loads(asked.body)["data"]
    assert (body["approvalId"], body["title"]) == (str(approval.pk), "May it go on?")
    assert "640" not in asked.body.decode()  # what is asked stays behind the API
    assert asked.headers["webhook-id"] == asked.headers["idempotency-key"] == body["deliveryId"]
    over = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    assert asked.headers["webhook-signature"] == (
        "v1," + base64.b64encode(hmac.digest(key, over, hashlib.sha256)).decode()
    )


def test_a_chat_gets_blocks_with_a_button_that_leads_to_the_question(
    office: Office, receiver: HttpServer, settings: object
) -> None:
    settings.AGENTFLOW_BASE_URL = "https://flow.example.com"  # type: ignore[attr-defined]
    target(office.workspace, office.admin, receiver.url("/hook"), channel="slack")
    approval = ApprovalFactory.create(
        workspace=office.workspace, request={"title": "<!channel> pay", "facts": {"amount": 640}}
    )
    send_all()
    body = json.loads(receiver.seen[0].body)
    kinds = [block["type"] for block in body["blocks"]]
    assert kinds == ["header", "section", "section", "context", "actions"]
    assert "<!channel>" not in json.dumps(body)
    (button,) = body["blocks"][-1]["elements"]
    assert button["url"] == f"https://flow.example.com/inbox/{approval.pk}/"


def test_a_receiver_that_fails_is_tried_again_later_and_given_up_at_last(
    office: Office, receiver: HttpServer
) -> None:
    hooked(office, receiver, "/broken")
    receiver.on("/broken", lambda exchange: exchange.reply(b"no", 503, retry_after="7200"))
    send_all()
    row = Delivery.objects.get()
    assert (row.state, row.attempts) == ("failed", 1)
    assert row.last_error == "http_503: The server answered 503."
    assert (row.next_at - row.created_at).total_seconds() > 7100  # as the server asked
    send_all()
    assert len(receiver.seen) == 1  # not before its time
    for _ in range(outbox.ATTEMPTS - 1):
        make_due()
        send_all()
    row.refresh_from_db()
    assert (row.state, row.attempts) == ("dead", outbox.ATTEMPTS)
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1


def test_what_was_given_up_is_listed_and_sent_again_by_an_administrator(
    office: Office, receiver: HttpServer
) -> None:
    hooked(office, receiver, "/broken")
    receiver.on("/broken", lambda exchange: exchange.reply(b"no", 410))
    send_all()
    listed = client_of(office.admin).get("/api/v1/notifications/deliveries?state=dead").json()
    (dead,) = listed["deliveries"]
    assert (dead["state"], dead["lastError"], listed["total"]) == (
        "dead",
        "http_410: The server answered 410.",
        1,
    )
    again = f"/api/v1/notifications/deliveries/{dead['deliveryId']}/resend"
    assert client_of(office.stranger).post(again).status_code == 404
    assert client_of(office.approver).post(again).status_code == 403
    receiver.on("/broken", lambda exchange: exchange.json({}))
    assert client_of(office.admin).post(again).status_code == 200
    send_all()
    assert states() == ["sent"]
    reply = client_of(office.admin).post(again)
    assert (reply.status_code, reply.json()["code"]) == (409, "delivery_not_dead")
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1


def test_a_sender_that_dies_between_sending_and_marking_sends_the_same_id_again(
    office: Office, receiver: HttpServer
) -> None:
    hooked(office, receiver)
    follow()
    (lane,) = outbox.lanes_due()
    parcel = outbox.claim(lane)
    assert parcel is not None
    with sender_for(lane) as sender:
        sender.send(parcel.deliveries)  # and kill -9 here
    assert outbox.lanes_due() == []  # its lease holds
    make_due()
    send_all()
    assert len(receiver.seen) == 2
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1
    # The first sender was only slow, and comes late: nothing of its own is left to mark.
    outbox.note_failure(parcel, Undelivered("too late"))
    assert states() == ["sent"]


@committed
def test_a_target_that_never_answers_holds_up_nobody_else(office: Office, receiver: HttpServer) -> None:
    other = make_office()
    target(office.workspace, office.admin, receiver.url("/stuck"))

    def hang(exchange: Exchange) -> None:
        receiver.stopping.wait(60)
        exchange.drop()

    receiver.on("/stuck", hang)
    target(other.workspace, other.admin, receiver.url("/hook"))
    ApprovalFactory.create(workspace=office.workspace)
    ApprovalFactory.create(workspace=other.workspace)
    clock = Notifying()
    clock.start_due()
    until(lambda: states(workspace=other.workspace) == ["sent"], why="the other workspace's message")
    until(lambda: any(seen.path == "/stuck" for seen in receiver.seen), why="the stuck call")
    assert states(workspace=office.workspace) == ["pending"]
    receiver.stopping.set()
    until(lambda: clock.idle, why="the end of the stuck call")
    assert states(workspace=office.workspace) == ["failed"]


@committed
def test_many_clocks_at_once_tell_each_event_once(office: Office, receiver: HttpServer) -> None:
    target(office.workspace, office.admin, receiver.url("/hook"))
    for _ in range(6):
        ApprovalFactory.create(workspace=office.workspace)
    line = threading.Barrier(4)
    clocks = [Notifying() for _ in range(4)]

    def tick(clock: Notifying) -> None:
        try:
            line.wait(10)
            for _ in range(3):
                clock.start_due()
        finally:
            connection.close()

    threads = [threading.Thread(target=tick, args=(clock,)) for clock in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    def all_sent() -> bool:
        clocks[0].start_due()
        return states() == ["sent"] * 6

    until(all_sent, why="every message")
    until(lambda: all(clock.idle for clock in clocks), why="the clocks")
    assert len(receiver.seen) == len({seen.headers["webhook-id"] for seen in receiver.seen}) == 6


@committed
def test_a_follower_that_goes_back_tells_nobody_twice(office: Office, receiver: HttpServer) -> None:
    hooked(office, receiver)
    send_all()
    Follower.objects.update(xid=2**62)  # of another server, before a restore
    send_all()
    assert len(receiver.seen) == 1
    assert Follower.objects.get().xid < 2**62


@committed
def test_an_event_nobody_can_plan_does_not_stop_the_others(
    office: Office, receiver: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hooked(office, receiver)
    ApprovalFactory.create(workspace=office.workspace)
    plan = following._for_targets

    def fails(told: list[following.Told], now: object) -> list[Delivery]:
        if any(each.approval.pk == first.pk for each in told):
            raise ValueError("a bug")
        return plan(told, now)  # type: ignore[arg-type]

    monkeypatch.setattr(following, "_for_targets", fails)
    send_all()
    assert [json.loads(seen.body)["data"]["approvalId"] for seen in receiver.seen] != [str(first.pk)]
    assert states() == ["sent"]


def test_a_target_that_may_not_be_called_is_given_up_at_once(office: Office, receiver: HttpServer) -> None:
    hooked(office, receiver)
    office.workspace.egress_allow = []
    office.workspace.save()
    follow()
    registry.forget()
    send_all()
    assert states() == ["dead"]
    assert Delivery.objects.get().last_error.startswith("egress_refused")
    assert receiver.seen == []


def test_old_messages_are_removed_and_open_ones_kept(office: Office, receiver: HttpServer) -> None:
    hooked(office, receiver, "/broken")
    receiver.on("/broken", lambda exchange: exchange.reply(b"no", 500))
    send_all()
    ApprovalFactory.create(workspace=office.workspace)
    receiver.on("/broken", lambda exchange: exchange.json({}))
    send_all()
    assert states() == ["failed", "sent"]
    Delivery.objects.update(created_at="2020-01-01T00:00:00Z")
    assert outbox.purge() == 1
    assert states() == ["failed"]
