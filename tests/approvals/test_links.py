"""Answering by a link from a mail: who, once, for how long, and what scanners may do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import revoke
from approvals.models import Approval, ApprovalVote
from approvals.notify import pages, wishes
from approvals.notify.models import SignedLink
from approvals.notify.wishes import Given
from approvals.services.responding import respond
from tests.approvals.conftest import Office, make_office
from tests.approvals.notices import follow, send_all
from tests.approvals.test_races import at_once
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import statuses
from tests.mailbox import Mailbox, mailbox


@pytest.fixture
def office(db: None) -> Office:
    office = make_office()
    User.objects.filter(pk=office.approver.pk).update(email="approver@example.com")
    return office


@pytest.fixture
def box(settings: Any) -> Iterator[Mailbox]:
    with mailbox(settings) as box:
        yield box


def mailed(office: Office, box: Mailbox, **fields: Any) -> tuple[Approval, dict[str, str]]:
    """A question, and the paths of the links in the approver's mail."""
    approval = ApprovalFactory.create(workspace=office.workspace, **fields)
    send_all()
    found = re.findall(r"^(Approve|Reject): https://flow\.example\.com(\S+)$", box.text(), re.MULTILINE)
    return approval, {action.lower(): path for action, path in found}


def browser(user: User | None = None) -> Client:
    """One that brings forgery checks along."""
    client = Client(enforce_csrf_checks=True)
    if user is not None:
        client.force_login(user)
    return client


def press(client: Client, path: str, **fields: str) -> Any:
    """Open the page and press its button."""
    client.get(path)
    token = client.cookies["csrftoken"].value
    return client.post(path, {"csrfmiddlewaretoken": token, **fields})


def test_a_link_shows_the_question_and_its_button_decides(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    client = browser()
    page = client.get(paths["approve"])
    assert page.status_code == 200
    assert "May it go on?" in page.content.decode()
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert "no-store" in page.headers["Cache-Control"]
    reply = press(client, paths["approve"], comments="from the train")
    assert (reply.status_code, reply.headers["Location"]) == (302, paths["approve"])
    approval.refresh_from_db()
    assert (approval.status, approval.responder, approval.comments) == (
        "approved",
        office.approver,
        "from the train",
    )
    assert statuses(approval.execution)["ask"] == "ready"
    vote = ApprovalVote.objects.get(approval=approval)
    entry = AuditEntry.objects.get(action="approval.respond", target_id=str(approval.pk))
    assert (vote.channel, entry.channel, entry.actor_id) == ("link", "link", office.approver.pk)
    again = client.get(paths["approve"])
    assert (again.status_code, "approved this" in again.content.decode()) == (200, True)
    assert "<form" not in again.content.decode()


def test_scanners_and_previews_decide_nothing(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    for path in paths.values():
        for headers in ({}, {"Sec-Purpose": "prefetch"}, {"User-Agent": "Mail Scanner"}):
            assert browser().get(path, headers=headers).status_code == 200
        assert browser().head(path).status_code == 200
    approval.refresh_from_db()
    assert approval.status == "pending"
    assert not SignedLink.objects.exclude(used_at=None).exists()


def test_the_rejecting_link_rejects(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    press(browser(), paths["reject"])
    approval.refresh_from_db()
    assert approval.status == "rejected"


def test_a_form_from_elsewhere_decides_nothing(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    assert browser().post(paths["approve"]).status_code == 403
    client = browser()
    client.get(paths["approve"])
    token = client.cookies["csrftoken"].value
    foreign = client.post(
        paths["approve"], {"csrfmiddlewaretoken": token}, headers={"Origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    approval.refresh_from_db()
    assert approval.status == "pending"


def test_a_link_is_used_once_and_the_other_one_then_shows_the_outcome(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    press(browser(), paths["approve"])
    replayed = press(browser(), paths["approve"], comments="again")
    other = press(browser(), paths["reject"])
    for reply in (replayed, other):
        assert reply.status_code == 409
        assert "approved this" in reply.content.decode()
    approval.refresh_from_db()
    assert (approval.status, approval.comments) == ("approved", "")
    assert ApprovalVote.objects.filter(approval=approval).count() == 1


def test_a_link_that_ran_out_decides_nothing(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    SignedLink.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert browser().get(paths["approve"]).status_code == 410
    assert press(browser(), paths["approve"]).status_code == 409
    approval.refresh_from_db()
    assert approval.status == "pending"


def test_a_link_that_was_not_given_out_is_not_there(office: Office, box: Mailbox) -> None:
    _, paths = mailed(office, box)
    name, _, signature = paths["approve"].strip("/").split("/")[1].partition(".")
    other = SignedLink.objects.get(action="reject").pk.hex
    for forged in (f"{name}.{signature[:-2]}xx", f"{other}.{signature}", name, "x", f"{name}."):
        assert browser().get(f"/decide/{forged}/").status_code == 404


def test_a_link_ends_with_the_right_of_its_person(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    client = browser()
    client.get(paths["approve"])
    revoke(user=office.approver, role=Role.APPROVER, workspace=office.workspace)
    reply = press(client, paths["approve"])
    assert reply.status_code in {403, 409}
    page = client.get(paths["approve"])
    assert page.status_code == 403
    assert "May it go on?" not in page.content.decode()
    approval.refresh_from_db()
    assert approval.status == "pending"


def test_a_link_ends_with_its_person_s_account(office: Office, box: Mailbox) -> None:
    _, paths = mailed(office, box)
    User.objects.filter(pk=office.approver.pk).update(is_active=False)
    assert browser().get(paths["approve"]).status_code == 403


def test_a_link_decides_only_what_its_mail_showed(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    Approval.objects.filter(pk=approval.pk).update(content_hash="f" * 64, request={"title": "Other"})
    page = browser().get(paths["approve"])
    assert page.status_code == 409
    assert "<form" not in page.content.decode()
    assert press(browser(), paths["approve"]).status_code == 409
    approval.refresh_from_db()
    assert approval.status == "pending"


@pytest.mark.parametrize("rule", [{"login_kinds": ["approval"]}, {"login_levels": ["*"]}])
def test_what_the_workspace_finds_risky_needs_the_login_of_the_same_person(
    office: Office, box: Mailbox, rule: dict[str, list[str]]
) -> None:
    rules = {"login_kinds": [], "login_levels": [], "link_hours": 24, "given": Given(topics={}), **rule}
    wishes.put_rules(by=office.admin, workspace_id=office.workspace.pk, **rules)  # type: ignore[arg-type]
    approval, paths = mailed(office, box)
    page = browser().get(paths["approve"]).content.decode()
    assert f"/login/?next={paths['approve']}" in page
    assert "May it go on?" not in page
    assert press(browser(), paths["approve"]).status_code == 409
    other = browser(office.colleague).get(paths["approve"])
    assert (other.status_code, "May it go on?" in other.content.decode()) == (403, False)
    assert press(browser(office.approver), paths["approve"]).status_code == 302
    approval.refresh_from_db()
    assert (approval.status, approval.responder) == ("approved", office.approver)


def test_questions_that_need_more_than_a_yes_have_no_links(office: Office, box: Mailbox) -> None:
    schema = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}}
    assert mailed(office, box, kind="input", input_schema=schema)[1] == {}
    assert mailed(office, box, input_schema=schema)[1] == {}


def test_a_workspace_may_have_no_links_at_all(office: Office, box: Mailbox) -> None:
    wishes.put_rules(
        by=office.admin,
        workspace_id=office.workspace.pk,
        given=Given(topics={}),
        link_hours=0,
        login_kinds=[],
        login_levels=[],
    )
    assert mailed(office, box)[1] == {}


def test_who_tries_too_often_waits(office: Office, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    _, paths = mailed(office, box)
    monkeypatch.setattr(pages, "VISITS_A_MINUTE", 2)
    for client, path in ((browser(), paths["approve"]), (Client(REMOTE_ADDR="192.0.2.7"), "/decide/guess/")):
        last = [client.get(path) for _ in range(5)][-1]  # in two windows at most
        assert last.status_code == 429
        assert 1 <= int(last.headers["Retry-After"]) <= 60
    assert browser().get(paths["reject"]).status_code == 200  # others are not held up


def test_a_link_to_what_others_decided_shows_the_outcome(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    respond(approval_id=approval.pk, by=office.colleague, approved=True)
    reply = press(browser(), paths["reject"])
    assert reply.status_code == 409
    assert "approved this" in reply.content.decode()


def test_where_several_must_agree_a_link_is_one_vote_and_then_says_so(office: Office, box: Mailbox) -> None:
    approval, paths = mailed(office, box)
    Approval.objects.filter(pk=approval.pk).update(quorum="2")
    assert press(browser(), paths["approve"]).status_code == 302
    approval.refresh_from_db()
    assert approval.status == "pending"
    for path in paths.values():
        page = browser().get(path)
        assert (page.status_code, "Your answer is recorded" in page.content.decode()) == (200, True)
    assert press(browser(), paths["reject"]).status_code == 409
    respond(approval_id=approval.pk, by=office.colleague, approved=True)
    assert "approved this" in browser().get(paths["reject"]).content.decode()


@pytest.mark.django_db(transaction=True)
def test_of_many_who_press_at_once_one_decides(office: Office, box: Mailbox) -> None:
    follow()
    approval, paths = mailed(office, box)

    def pressing(path: str) -> Any:
        return lambda: press(browser(), path).status_code

    found = at_once(*[pressing(paths["approve"]), pressing(paths["reject"])] * 3)
    connection.close()
    assert sorted(found) == [302, 409, 409, 409, 409, 409]
    assert ApprovalVote.objects.filter(approval=approval).count() == 1
