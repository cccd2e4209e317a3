"""The page and the admin of what is told: who may, and that they write by the same rules as REST."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User
from approvals.notify import wishes
from approvals.notify.models import Delivery, Target, UserNotifications, WorkspaceNotifications
from approvals.notify.states import Topic
from approvals.notify.wishes import Given
from approvals.services import gate
from tests.approvals.conftest import Office
from tests.approvals.notices import SECRET, follow, states, target
from tests.factories.approvals import ApprovalFactory
from tests.factories.governance import client_of

TARGETS = "/api/v1/notifications/targets"
ALL_IN_BROWSER = {topic: ["browser"] for topic in Topic.values}
HOOK = {"name": "ops", "channel": "webhook", "url": "https://hooks.example.com/x", "secret": "${secrets.KEY}"}


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def staff(user: User) -> Client:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    user.refresh_from_db()
    return browser(user)


def test_a_person_chooses_on_a_page_and_goes_back(office: Office) -> None:
    client = browser(office.approver)
    assert "says; save to choose" in client.get("/notifications/").content.decode()
    chosen = {
        "workspace": str(office.workspace.pk),
        "requested:email": "on",
        "quiet_from": "22:00",
        "quiet_to": "06:30",
        "zone": "Europe/Berlin",
        "digest": "daily",
    }
    assert client.post("/notifications/", chosen).status_code == 302
    choice = wishes.choice_of(office.approver, office.workspace.pk)
    assert (choice.own, choice.zone, choice.digest) == (True, "Europe/Berlin", "daily")
    assert choice.wants("requested", "email")
    assert not choice.wants("requested", "browser")
    page = client.get("/notifications/").content.decode()
    assert "Your own choice" in page
    assert 'value="06:30"' in page
    bad = client.post("/notifications/", {**chosen, "zone": "Mars/Base", "quiet_to": ""})
    assert bad.status_code == 400
    assert "zone is no time zone" in bad.content.decode()
    client.post("/notifications/", {"workspace": str(office.workspace.pk), "reset": "1"})
    assert not UserNotifications.objects.exists()


def test_the_page_is_for_one_s_own_workspaces(office: Office) -> None:
    assert Client().get("/notifications/").status_code == 302
    page = browser(office.stranger).get(f"/notifications/?workspace={office.workspace.pk}")
    assert office.workspace.name not in page.content.decode()
    browser(office.stranger).post("/notifications/", {"workspace": str(office.workspace.pk)})
    assert not UserNotifications.objects.filter(workspace=office.workspace).exists()


def test_targets_are_kept_by_administrators_with_secrets_by_reference(office: Office) -> None:
    admin = client_of(office.admin)
    assert client_of(office.approver).post(TARGETS, HOOK).status_code == 403
    made = admin.post(TARGETS, HOOK)
    assert made.status_code == 201
    address = made.headers["Location"]
    assert client_of(office.stranger).get(address).status_code == 404
    assert client_of(office.stranger).delete(address).status_code == 404
    changed = admin.put(address, {**HOOK, "levels": ["finance"], "enabled": False})
    assert (changed.json()["levels"], changed.json()["enabled"]) == (["finance"], False)
    assert admin.get(TARGETS).json()["total"] == 1
    assert admin.delete(address).status_code == 200
    actions = AuditEntry.objects.filter(target_type="notification_target").order_by("id")
    assert [entry.action.split(".")[1] for entry in actions] == ["add", "change", "remove"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"secret": SECRET}, "/secret"),
        ({"secret": ""}, "/secret"),
        ({"url": "file:///etc/passwd"}, "/url"),
        ({"channel": "email"}, "/channel"),
        ({"channel": "slack"}, "/secret"),
        ({"name": " "}, "/name"),
        ({"topics": ["lunch"]}, "/topics/0"),
        ({"color": "red"}, "/color"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused_by_field(
    office: Office, change: dict[str, Any], pointer: str
) -> None:
    reply = client_of(office.admin).post(TARGETS, {**HOOK, **change})
    assert reply.status_code == 400
    assert pointer in [issue["pointer"] for issue in reply.json()["issues"]]
    assert not Target.objects.exists()


def test_operators_see_what_was_given_up_and_send_it_again_in_the_admin(office: Office) -> None:
    target(office.workspace, office.admin, "https://hooks.example.com/x")
    ApprovalFactory.create(workspace=office.workspace)
    follow()
    Delivery.objects.update(state="dead", last_error="http_410: gone")
    row = Delivery.objects.get()
    client = staff(office.admin)
    page = client.get("/admin/notifications/delivery/?state__exact=dead").content.decode()
    assert "Given up" in page
    assert client.get(f"/admin/notifications/delivery/{row.pk}/change/").status_code == 200
    chosen = {"action": "send_again", "_selected_action": [str(row.pk)]}
    client.post("/admin/notifications/delivery/", chosen)
    assert states() == ["pending"]
    other = staff(office.stranger)
    assert str(row.pk) not in other.get("/admin/notifications/delivery/").content.decode()
    assert other.get(f"/admin/notifications/delivery/{row.pk}/change/").status_code in {302, 403, 404}


def test_targets_and_defaults_are_written_in_the_admin_by_the_same_rules(office: Office) -> None:
    client = staff(office.admin)
    form = {
        "workspace": str(office.workspace.pk),
        **HOOK,
        "topics": ["requested", "decided"],
        "levels": "finance, legal",
        "enabled": "on",
    }
    assert client.post("/admin/notifications/target/add/", {**form, "secret": SECRET}).status_code == 200
    assert client.post("/admin/notifications/target/add/", form).status_code == 302
    made = Target.objects.get()
    assert (made.levels, made.topics) == (["finance", "legal"], ["requested", "decided"])
    assert client.get(f"/admin/notifications/target/{made.pk}/change/").status_code == 200
    defaults = {
        "workspace": str(office.workspace.pk),
        "topics": ["requested:email"],
        "zone": "Asia/Tokyo",
        "digest": "hourly",
        "link_hours": "24",
        "login_kinds": "tool, budget",
        "login_levels": "",
    }
    add = "/admin/notifications/workspacenotifications/add/"
    assert client.post(add, {**defaults, "zone": "Mars/Base"}).status_code == 200
    assert client.post(add, defaults).status_code == 302
    rules = WorkspaceNotifications.objects.get()
    assert (rules.login_kinds, rules.topics["requested"], rules.topics["decided"]) == (
        ["tool", "budget"],
        ["email"],
        [],
    )
    change = f"/admin/notifications/workspacenotifications/{office.workspace.pk}/change/"
    assert client.get(change).status_code == 200
    assert client.post(change, {**defaults, "digest": "daily"}).status_code == 302
    assert WorkspaceNotifications.objects.get().digest == "daily"
    assert staff(office.viewer).get(add).status_code == 403


def shown(user: User, *events: Any) -> list[str]:
    """What the browser of `user` is to show of these events, else of all."""
    numbers = events or Event.objects.order_by("id").values_list("id", flat=True)
    asked = "&".join(f"event={number}" for number in numbers)
    reply = browser(user).get(f"/notifications/browser?{asked}")
    assert reply.status_code == 200
    return [notice["title"] for notice in reply.json()["notices"]]


def test_the_browser_tells_by_one_s_choice_and_quiet_hours(office: Office) -> None:
    question = ApprovalFactory.create(workspace=office.workspace, request={"title": "Pay?"})

    def choose(**fields: Any) -> None:
        given = Given(**{"topics": {}, **fields})
        wishes.put(user=office.approver, workspace_id=office.workspace.pk, given=given)

    assert shown(office.approver) == ["Pay?"]
    assert shown(office.stranger) == shown(office.viewer) == []
    assert shown(office.approver, "x", "-1", "²", "9" * 30) == []
    choose(topics={"requested": ["email"]})
    assert shown(office.approver) == []
    now = timezone.now()
    choose(quiet_from=(now - timedelta(hours=1)).time(), quiet_to=(now + timedelta(hours=1)).time())
    assert shown(office.approver) == []
    Event.objects.all().delete()
    ApprovalFactory.create(workspace=office.workspace, request={"title": "Soon?"}, timeout_ms=1_800_000)
    assert shown(office.approver) == ["Soon?"]
    assert question.status == "pending"


def test_the_browser_tells_of_every_topic_to_those_whom_it_concerns(office: Office) -> None:
    question = ApprovalFactory.create(workspace=office.workspace, request={"title": "Pay?"})
    address = f"/api/v1/approvals/{question.pk}"
    wishes.put(user=office.approver, workspace_id=office.workspace.pk, given=Given(topics=ALL_IN_BROWSER))
    assert client_of(office.colleague).post(f"{address}/comments", {"text": "In stock?"}).status_code == 201
    assert shown(office.approver) == ["New comment: Pay?"]  # the last of each question
    assert shown(office.colleague) == ["Pay?"]  # not what they did themselves
    gate.tell("approval_reminder", question)
    assert shown(office.approver) == ["Still waiting for an answer: Pay?"]
    assert client_of(office.colleague).post(f"{address}/respond", {"approved": True}).status_code == 200
    assert shown(office.approver) == ["Decided: Pay?"]
    assert shown(office.colleague) == shown(office.viewer) == []
    wishes.put(user=office.approver, workspace_id=office.workspace.pk, given=Given(topics={"decided": []}))
    assert shown(office.approver) == ["New comment: Pay?"]  # what asked for an answer is over
    Event.objects.update(at=timezone.now() - timedelta(days=2))
    assert shown(office.approver) == []
