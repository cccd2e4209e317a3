"""Who is asked, how many of them, one level after the other, and what time does to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone

from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from approvals.models import Approval, ApprovalPolicy
from approvals.services.expiry import expire
from executions.models import Timer
from executions.ports import LevelAsk
from templates_app.services import checking
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import (
    ApprovalFactory,
    ApprovalLevelFactory,
    asking_definition,
    let_time_pass,
)
from tests.factories.executions import ExecutionFactory, statuses
from tests.factories.governance import client_of, member
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

DAY = 86_400_000


def go_away(who: User, /, **fields: Any) -> Any:
    now = timezone.now()
    body = {"startsAt": now - timedelta(hours=1), "endsAt": now + timedelta(days=1)}
    return client_of(who).post(f"{URL}/absences", body | fields, format="json")


def respond(user: User, approval: Approval, **body: Any) -> Any:
    return client_of(user).post(f"{URL}/{approval.pk}/respond", {"approved": True} | body, format="json")


def pending(user: User) -> list[str]:
    return [one["approvalId"] for one in client_of(user).get(f"{URL}/pending").json()["approvals"]]


def asked(office: Office, *levels: LevelAsk, **fields: Any) -> Approval:
    approval: Approval = ApprovalFactory.create(workspace=office.workspace, levels=levels, **fields)
    return approval


def told(approval: Approval) -> list[str]:
    rows = Event.objects.filter(execution_id=approval.execution_id, type__startswith="approval_")
    return list(rows.order_by("id").values_list("type", flat=True))


def time_passes(approval: Approval) -> Approval:
    let_time_pass(approval)
    expire(subject=approval.pk, execution_id=approval.execution_id)
    approval.refresh_from_db()
    return approval


def test_two_of_many_have_to_agree_and_nobody_twice(office: Office) -> None:
    approval = asked(office, LevelAsk("user", DAY, quorum="2"))
    assert respond(office.approver, approval).status_code == 200
    approval.refresh_from_db()
    assert (approval.status, statuses(approval.execution)["ask"]) == ("pending", "waiting_human")
    assert pending(office.approver) == []
    assert respond(office.approver, approval).status_code == 200  # the same again
    again = respond(office.approver, approval, approved=False)
    assert (again.status_code, again.json()["code"]) == (409, "already_voted")
    assert respond(office.colleague, approval).status_code == 200
    approval.refresh_from_db()
    assert (approval.status, approval.responder) == ("approved", office.colleague)
    assert told(approval) == ["approval_requested", "approval_voted", "approval_responded"]
    actions = AuditEntry.objects.filter(target_id=str(approval.pk)).values_list("action", flat=True)
    assert sorted(actions) == ["approval.respond", "approval.vote"]


def test_one_refusal_decides(office: Office) -> None:
    approval = asked(office, LevelAsk("user", DAY, quorum="2"))
    respond(office.approver, approval)
    assert respond(office.colleague, approval, approved=False).status_code == 200
    assert statuses(approval.execution)["ask"] == "failed"


def test_all_are_those_who_are_there(office: Office) -> None:
    people = [member(office.workspace, Role.APPROVER) for _ in range(3)]
    outsider = member(office.workspace, Role.VIEWER)  # of the group, and may not decide
    ApprovalLevelFactory.create(workspace=office.workspace, members=[*people, outsider])
    approval = asked(office, LevelAsk("finance", DAY, quorum="all"))
    assert go_away(people[2]).status_code == 201
    for person in people[:2]:
        approval.refresh_from_db()
        assert approval.status == "pending"
        assert respond(person, approval).status_code == 200
    approval.refresh_from_db()
    assert approval.status == "approved"


def test_levels_follow_one_another_with_other_people_each(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.colleague, office.approver])
    approval = asked(office, LevelAsk("user", DAY), LevelAsk("finance", 1000))
    assert respond(office.approver, approval).status_code == 200
    approval.refresh_from_db()
    assert (approval.status, approval.level, approval.level_index) == ("pending", "finance", 1)
    assert Timer.objects.get(subject=approval.pk).due_at == approval.respond_by
    assert respond(office.approver, approval, comments="again").json()["code"] == "already_voted"
    assert pending(office.approver) == []
    assert pending(office.colleague) == [str(approval.pk)]
    assert respond(office.colleague, approval).status_code == 200
    approval.refresh_from_db()
    assert approval.status == "approved"
    assert told(approval) == ["approval_requested", "approval_advanced", "approval_responded"]
    shown = client_of(office.viewer).get(f"{URL}/{approval.pk}").json()
    assert [(one["level"], one["user"]) for one in shown["votes"]] == [
        ("user", office.approver.username),
        ("finance", office.colleague.username),
    ]


def test_a_change_by_one_of_two_is_what_the_other_decides_on(office: Office) -> None:
    request = {"title": "Send it?", "editable": {"amount": 640}}
    approval = asked(office, LevelAsk("user", DAY, quorum="2"), kind="tool", request=request)
    shown = approval.content_hash
    assert respond(office.approver, approval).status_code == 200
    assert respond(office.colleague, approval, response={"edited": {"amount": 500}}).status_code == 200
    approval.refresh_from_db()
    assert (approval.status, approval.request["editable"]) == ("pending", {"amount": 500})
    assert approval.changes == [{"pointer": "/editable/amount", "before": 640, "after": 500}]
    late = respond(office.approver, approval, contentHash=shown)
    assert (late.status_code, late.json()["code"]) == (409, "content_changed")
    assert respond(office.approver, approval, contentHash=approval.content_hash).status_code == 200
    approval.refresh_from_db()
    assert (approval.status, approval.response) == ("approved", {"edited": {"amount": 500}})


def test_people_groups_and_roles_are_asked_by_name(office: Office) -> None:
    group = Group.objects.create(name="Account managers")
    office.colleague.groups.add(group)
    one = asked(office, LevelAsk("user", DAY, users=(office.approver.username,)))
    two = asked(office, LevelAsk("user", DAY, groups=("Account managers",)))
    three = asked(office, LevelAsk("user", DAY, roles=("admin",)))
    assert pending(office.approver) == [str(one.pk)]
    assert pending(office.colleague) == [str(two.pk)]
    assert pending(office.admin) == [str(three.pk)]
    reply = respond(office.colleague, one)
    assert (reply.status_code, reply.json()["code"]) == (403, "not_permitted")
    assert respond(office.approver, one).status_code == 200
    vote = one.votes.get()
    assert vote.evidence["permission"]["via"] == "assignment"


def test_whom_nobody_knows_leaves_it_to_the_level_with_a_reason(office: Office) -> None:
    names = ("nobody", office.viewer.username)
    approval = asked(office, LevelAsk("user", DAY, names=names, groups=("No such group",)))
    assert pending(office.approver) == [str(approval.pk)]
    (shown,) = client_of(office.approver).get(f"{URL}/pending").json()["approvals"]
    for name in (*names, "No such group"):
        assert name in shown["assignmentNote"]


def test_nobody_decides_about_their_own(office: Office) -> None:
    ApprovalPolicy.objects.filter(workspace=office.workspace).delete()
    approval = ApprovalFactory.create(workspace=office.workspace)
    starter = approval.execution.created_by
    author = approval.execution.template_version.created_by
    approval.refresh_from_db()
    assert starter is not None
    assert approval.barred[str(starter.pk)] == "own_request"
    assert str(author.pk) in approval.barred
    policy = f"{URL}/policy?workspaceId={office.workspace.pk}"
    body = {"ownRequests": True, "ownTemplates": True}
    assert client_of(office.admin).patch(policy, body, format="json").status_code == 200
    free = ApprovalFactory.create(workspace=office.workspace)
    assert free.barred == {}


def test_who_edited_a_template_does_not_pass_its_only_gate(office: Office) -> None:
    ApprovalPolicy.objects.filter(workspace=office.workspace).delete()
    template = TemplateFactory.create(workspace=office.workspace)
    authors = [office.approver, office.colleague, office.admin]
    definition = asking_definition("ask")
    versions = [
        TemplateVersionFactory.create(template=template, number=n, created_by=by, definition=definition)
        for n, by in enumerate(authors, 1)
    ]
    execution = ExecutionFactory.create(
        template_version=versions[1], created_by=office.operator, waiting_human=["ask"]
    )
    approval = ApprovalFactory.create(execution=execution)
    own = [str(office.approver.pk), str(office.colleague.pk)]
    assert approval.barred == {**dict.fromkeys(own, "own_template"), str(office.operator.pk): "own_request"}
    warned = [[issue.code for issue in checking.of_version(version)] for version in versions]
    assert warned == [[], [], ["only_author_can_pass"]]  # all who decide have edited it by then
    draft = f"/api/v1/templates/{template.pk}/validate"
    checked = client_of(office.admin).post(draft, definition, format="json").json()
    assert [issue["code"] for issue in checked["issues"]] == ["only_author_can_pass"]


def test_the_barred_are_told_and_not_asked(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    Approval.objects.filter(pk=approval.pk).update(barred={str(office.approver.pk): "own_request"})
    assert pending(office.approver) == []
    reply = respond(office.approver, approval)
    assert (reply.status_code, reply.json()["code"]) == (403, "barred")
    assert respond(office.colleague, approval).status_code == 200


def test_a_level_that_lets_its_time_pass_hands_over_to_the_next_and_then_up_the_ladder(
    office: Office,
) -> None:
    for position, name in enumerate(("finance", "board"), 1):
        ApprovalLevelFactory.create(
            workspace=office.workspace, name=name, position=position, members=[office.colleague]
        )
    approval = asked(office, LevelAsk("user", DAY), LevelAsk("finance", DAY), escalate=True)
    assert time_passes(approval).level == "finance"
    assert time_passes(approval).level == "board"
    assert approval.sla_state == "ok"
    assert pending(office.approver) == []
    assert time_passes(approval).status == "expired"
    assert told(approval) == [
        "approval_requested",
        "approval_escalated",
        "approval_escalated",
        "approval_timeout",
    ]
    assert statuses(approval.execution)["ask"] == "failed"


def test_a_rung_above_needs_no_other_after_it(office: Office) -> None:
    for position, name in enumerate(("finance", "board"), 1):
        ApprovalLevelFactory.create(
            workspace=office.workspace, name=name, position=position, members=[office.colleague]
        )
    approval = time_passes(asked(office, LevelAsk("user", DAY), escalate=True))
    assert approval.level == "finance"
    assert respond(office.colleague, approval).status_code == 200
    assert statuses(approval.execution)["ask"] == "ready"


@pytest.mark.parametrize(
    ("on_timeout", "status", "block", "event"),
    [
        ("approve", "expired", "ready", "approval_timeout"),
        ("reject", "expired", "failed", "approval_timeout"),
        ("wait", "pending", "waiting_human", "approval_overdue"),
    ],
)
def test_what_follows_when_nobody_is_left_to_ask(
    office: Office, on_timeout: str, status: str, block: str, event: str
) -> None:
    approval = time_passes(asked(office, on_timeout=on_timeout))
    assert (approval.status, statuses(approval.execution)["ask"]) == (status, block)
    assert told(approval)[-1] == event
    assert Timer.objects.filter(subject=approval.pk).exists() == (status == "pending")
    if status == "pending":
        assert approval.sla_state == "overdue"
        assert Timer.objects.get(subject=approval.pk).due_at > timezone.now() + timedelta(days=3650)
        time_passes(approval)  # the clock looks at it again
        assert told(approval).count(event) == 1
        assert Timer.objects.get(subject=approval.pk).due_at > timezone.now() + timedelta(days=3650)
        assert respond(office.approver, approval).status_code == 200


def test_reminders_come_before_the_end_and_move_nothing(office: Office) -> None:
    approval = asked(office, LevelAsk("user", DAY, reminders_ms=(3_600_000, 7_200_000)))
    timer = Timer.objects.get(subject=approval.pk)
    hours = (approval.respond_by - timer.due_at).total_seconds() / 3600
    assert round(hours, 3) == 2
    expire(subject=approval.pk, execution_id=approval.execution_id)
    assert told(approval) == ["approval_requested", "approval_reminder"]
    approval.refresh_from_db()
    assert approval.status == "pending"
