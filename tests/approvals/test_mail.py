"""Mail by a real SMTP server: what it looks like, when it goes out, and what becomes of refusals."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import revoke
from approvals.models import Approval
from approvals.notify import outbox, wishes
from approvals.notify.channels import sender_for
from approvals.notify.models import Delivery
from approvals.notify.moments import Quiet, send_at
from approvals.notify.wishes import Given
from approvals.services import handing
from approvals.services.responding import respond
from tests.approvals.conftest import Office, make_office
from tests.approvals.notices import follow, make_due, send_all, states
from tests.factories.approvals import ApprovalFactory, ApprovalLevelFactory
from tests.factories.governance import client_of, member
from tests.mailbox import Mailbox, mailbox

URL = "/api/v1/notifications/preferences"


@pytest.fixture
def office(db: None) -> Office:
    office = make_office()
    for person in (office.approver, office.colleague, office.viewer, office.stranger):
        User.objects.filter(pk=person.pk).update(email=f"{person.username}@example.com")
        person.refresh_from_db()
    return office


@pytest.fixture
def box(settings: Any) -> Iterator[Mailbox]:
    with mailbox(settings) as box:
        yield box


def ask(office: Office, **fields: Any) -> Approval:
    approval: Approval = ApprovalFactory.create(workspace=office.workspace, **fields)
    return approval


def only(office: Office, person: User) -> None:
    """Leave one approver in the office."""
    for each in (office.approver, office.colleague, office.admin):
        if each != person:
            User.objects.filter(pk=each.pk).update(email="")


def wish(office: Office, person: User, **fields: Any) -> None:
    fields.setdefault("topics", {})
    wishes.put(user=person, workspace_id=office.workspace.pk, given=Given(**fields))


def test_everybody_who_may_answer_gets_a_mail_and_nobody_else(office: Office, box: Mailbox) -> None:
    ask(office)
    send_all()
    assert sorted(str(mail["To"]) for mail in box.mails) == sorted(
        [office.approver.email, office.colleague.email]
    )


def test_a_level_s_question_goes_to_its_group(office: Office, box: Mailbox) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, name="finance", members=[office.colleague])
    ask(office, level="finance")
    send_all()
    assert [mail["To"] for mail in box.mails] == [office.colleague.email]


def test_a_mail_shows_the_question_as_text_and_html_and_says_what_it_is(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    request = {"title": "Pay\r\nBcc: all@example.com", "facts": {"orderTotal": "<b>640</b>"}}
    approval = ask(office, request=request)
    send_all()
    (mail,) = box.mails
    row = Delivery.objects.get()
    assert mail["Subject"] == (f"[{office.workspace.name}] Your answer is needed: Pay Bcc: all@example.com")
    assert mail["Bcc"] is None
    assert mail["Message-ID"] == f"<{row.pk}@flow.example.com>"
    assert (mail["Auto-Submitted"], mail["X-Agentflow-Delivery"]) == ("auto-generated", str(row.pk))
    assert mail["List-Unsubscribe"] == "<https://flow.example.com/notifications/>"
    for text in (box.text(), box.html()):
        assert f"https://flow.example.com/inbox/{approval.pk}/" in text
        assert "Order total" in text
    assert "<b>640</b>" in box.text()
    assert "<b>640</b>" not in box.html()


def test_later_mails_about_a_question_answer_the_first(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    wish(office, office.approver, topics={"decided": ["email"]})
    approval = ask(office)
    send_all()
    respond(approval_id=approval.pk, by=office.colleague, approved=False, comments="too much")
    send_all()
    first, second = box.mails
    assert second["In-Reply-To"] == first["Message-ID"]
    assert str(first["References"]) in str(second["References"])
    assert "rejected this" in box.text()
    assert "too much" in box.text()


def test_what_is_said_under_a_question_and_who_is_asked_next_is_told(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    wish(office, office.approver, topics={"requested": ["email"], "commented": ["email"]})
    approval = ask(office)
    send_all()
    handing.comment(approval_id=approval.pk, by=office.colleague, text="Look at the invoice")
    send_all()
    assert "Look at the invoice" in box.text()
    handing.reassign(
        approval_id=approval.pk, by=office.operator, to_user=office.approver.username, reason="ill"
    )
    send_all()
    assert [mail["X-Agentflow-Event"] for mail in box.mails] == [
        "approval_requested",
        "approval_commented",
        "approval_reassigned",
    ]


def test_who_decides_gets_no_mail_about_it(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    wish(office, office.approver, topics={"decided": ["email"]})
    approval = ask(office)
    send_all()
    respond(approval_id=approval.pk, by=office.approver, approved=True)
    send_all()
    assert len(box.mails) == 1


def test_what_is_answered_or_no_longer_theirs_is_not_sent(office: Office, box: Mailbox) -> None:
    answered, open_still = ask(office), ask(office)
    follow()
    respond(approval_id=answered.pk, by=office.colleague, approved=True)
    revoke(user=office.approver, role=Role.APPROVER, workspace=office.workspace)
    send_all()
    assert [mail["To"] for mail in box.mails] == [office.colleague.email]
    assert sorted(states(approval=answered)) == ["dropped", "dropped"]
    assert sorted(states(approval=open_still)) == ["dropped", "sent"]


def test_a_server_that_is_down_is_tried_again_and_a_refused_recipient_is_not(
    office: Office, box: Mailbox, settings: Any
) -> None:
    only(office, office.approver)
    ask(office)
    settings.EMAIL_PORT = 1
    send_all()
    assert states() == ["failed"]
    assert "cannot be reached" in Delivery.objects.get().last_error
    settings.EMAIL_PORT = box.port
    box.recipient = "451 later"
    make_due()
    send_all()
    assert states() == ["failed"]
    box.recipient = "550 no such user"
    make_due()
    send_all()
    assert states() == ["dead"]
    assert box.mails == []


def test_a_mail_sent_twice_after_a_kill_has_the_same_id(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    ask(office)
    follow()
    parcel = outbox.claim("email")
    assert parcel is not None
    with sender_for("email") as sender:
        sender.send(parcel.deliveries)  # and kill -9 here
    make_due()
    send_all()
    first, second = box.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_a_burst_becomes_one_mail(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    for _ in range(7):
        ask(office)
    send_all()
    (mail,) = box.mails
    assert str(mail["Subject"]).endswith("7 messages about approvals")
    assert states() == ["sent"] * 7


def test_a_digest_waits_for_its_hour_and_is_one_mail_with_one_id_however_often_it_is_sent(
    office: Office, box: Mailbox
) -> None:
    only(office, office.approver)
    wish(office, office.approver, digest="daily")
    ask(office, timeout_ms=3 * 86_400_000)
    ask(office, timeout_ms=3 * 86_400_000)
    send_all()
    assert box.mails == []
    make_due()
    box.answer = lambda mail: "451 busy"
    send_all()
    ask(office, timeout_ms=3 * 86_400_000)  # not in the mail that was tried
    follow()
    make_due()
    box.answer = lambda mail: "250 OK"
    send_all()
    ids = [str(mail["Message-ID"]) for mail in box.mails]
    assert len(ids) == 3
    assert ids[0] in ids[1:]
    assert states() == ["sent"] * 3


def test_quiet_hours_put_off_and_never_drop(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    now = datetime.now(UTC)
    begins, ends = (now - timedelta(hours=1)).time(), (now + timedelta(hours=2)).time()
    wish(office, office.approver, quiet_from=begins, quiet_to=ends)
    ask(office)
    ask(office, timeout_ms=3_600_000)  # over before the quiet hours are
    send_all()
    assert sorted(states()) == ["pending", "sent"]
    held = Delivery.objects.get(state="pending")
    assert held.next_at.time() == ends
    make_due()
    send_all()
    assert states() == ["sent", "sent"]


def test_a_workspace_s_defaults_hold_until_a_person_chooses(office: Office, box: Mailbox) -> None:
    only(office, office.approver)
    rules = {"topics": {"requested": ["browser"]}, "zone": "Europe/Berlin"}
    assert client_of(office.approver).put("/api/v1/notifications/defaults", rules).status_code == 403
    assert client_of(office.admin).put("/api/v1/notifications/defaults", rules).status_code == 200
    ask(office)
    send_all()
    assert box.mails == []
    client = client_of(office.approver)
    held = client.get(URL).json()
    assert (held["own"], held["zone"], held["topics"]["requested"]) == (False, "Europe/Berlin", ["browser"])
    own = {
        "topics": {"requested": ["email"]},
        "quietHours": {"begins": "22:00", "ends": "07:30"},
        "zone": "Asia/Tokyo",
        "digest": "hourly",
    }
    kept = client.put(URL, own).json()
    assert (kept["own"], kept["quietHours"]["ends"], kept["digest"]) == (True, "07:30", "hourly")
    assert client.get(URL).json() == kept
    assert client.delete(URL).json()["own"] is False


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/topics"),
        ({"topics": {"requested": ["slack"]}}, "/topics/requested/0"),
        ({"topics": {"lunch": ["email"]}}, "/topics/lunch"),
        ({"topics": {}, "zone": "Mars/Base"}, "/zone"),
        ({"topics": {}, "digest": "weekly"}, "/digest"),
        ({"topics": {}, "quietHours": {"begins": "22:00"}}, "/quietHours/ends"),
        ({"topics": {}, "quietHours": {"begins": "22:00", "ends": "22:00"}}, "/quietHours"),
    ],
)
def test_preferences_that_make_no_sense_are_refused_by_field(office: Office, body: Any, pointer: str) -> None:
    reply = client_of(office.approver).put(URL, body)
    assert reply.status_code == 400
    assert pointer in [issue["pointer"] for issue in reply.json()["issues"]]


def test_preferences_are_one_s_own(office: Office) -> None:
    reply = client_of(office.stranger).get(f"{URL}?workspaceId={office.workspace.pk}")
    assert reply.status_code == 404
    assert client_of(None).get(URL).status_code == 401


BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Quiet(time(22), time(7))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-07-01T19:59:00Z", "2026-07-01T19:59:00Z"),  # 21:59 in Berlin
        ("2026-07-01T20:00:00Z", "2026-07-02T05:00:00Z"),
        ("2026-07-02T04:59:00Z", "2026-07-02T05:00:00Z"),
        ("2026-07-02T05:00:00Z", "2026-07-02T05:00:00Z"),
        ("2026-10-24T21:00:00Z", "2026-10-25T06:00:00Z"),  # the clocks go back in that night
    ],
)
def test_the_quiet_hours_follow_the_clocks_of_the_zone(now: str, expected: str) -> None:
    moment = send_at(datetime.fromisoformat(now), quiet=NIGHT, zone=BERLIN)
    assert moment.at == datetime.fromisoformat(expected)


def test_a_daily_digest_is_sent_once_the_quiet_hours_are_over() -> None:
    now = datetime.fromisoformat("2026-07-01T12:00:00Z")
    assert send_at(now, digest="daily", quiet=NIGHT, zone=BERLIN).at == datetime(2026, 7, 2, 5, tzinfo=UTC)
    assert send_at(now, digest="hourly", zone=BERLIN).at == datetime(2026, 7, 1, 13, tzinfo=UTC)
    urgent = send_at(now, digest="daily", zone=BERLIN, respond_by=now + timedelta(hours=3))
    assert (urgent.at, urgent.digest) == (now, False)


def test_people_are_members_with_the_right_and_an_address(office: Office, box: Mailbox) -> None:
    inactive = member(office.workspace, Role.APPROVER, email="gone@example.com", is_active=False)
    silent = member(office.workspace, Role.APPROVER, email="silent@example.com")
    wish(office, silent, topics={"requested": []})
    ask(office)
    send_all()
    told = {str(mail["To"]) for mail in box.mails}
    assert told == {office.approver.email, office.colleague.email}
    assert inactive.email not in told
