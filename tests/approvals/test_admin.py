"""The admin shows approvals and lets administrators build the ladder."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from agentflow.governance.models import AuditEntry, User
from approvals.models import ApprovalLevel
from approvals.services import handing
from executions.engine.judging import FIX_SCHEMA
from tests.approvals.conftest import Office
from tests.factories.approvals import ApprovalFactory, ApprovalLevelFactory
from tests.factories.executions import ExecutionFactory

LIST = "/admin/approvals/approval/"
LEVELS = "/admin/approvals/approvallevel/"


def staff(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def test_staff_see_the_questions_of_their_workspaces_and_change_none(office: Office) -> None:
    own = ApprovalFactory.create(workspace=office.workspace, request={"title": "Ours <b>?"})
    foreign = ApprovalFactory.create(request={"title": "Theirs?"})
    client = staff(office.viewer)
    page = client.get("/admin/approvals/approval/", {"status__exact": "pending", "age": ""})
    assert page.status_code == 200
    assert b"Ours &lt;b&gt;?" in page.content
    assert b"Theirs?" not in page.content
    change = client.get(f"/admin/approvals/approval/{own.pk}/change/")
    assert change.status_code == 200
    assert f"/inbox/{own.pk}/".encode() in change.content
    assert client.get(f"/admin/approvals/approval/{foreign.pk}/change/").status_code == 302
    assert client.post(f"/admin/approvals/approval/{own.pk}/change/", {}).status_code == 403
    assert client.get("/admin/approvals/approval/add/").status_code == 403


@pytest.mark.parametrize("age", ["1h", "1d", "1w"])
def test_questions_are_found_by_age(office: Office, age: str) -> None:
    ApprovalFactory.create(workspace=office.workspace, request={"title": "Fresh question"})
    page = staff(office.viewer).get("/admin/approvals/approval/", {"age": age})
    assert page.status_code == 200
    assert b"Fresh question" not in page.content


def test_an_administrator_builds_the_ladder(office: Office) -> None:
    client = staff(office.admin)
    group = Group.objects.create(name="Finance people")
    form = {"workspace": str(office.workspace.pk), "name": "finance", "position": "1", "group": group.pk}
    reply = client.post(LEVELS + "add/", form)
    assert reply.status_code == 302, reply.content
    level = ApprovalLevel.objects.get()
    client.post(f"{LEVELS}{level.pk}/change/", {"name": "renamed", "position": "2", "group": group.pk})
    level.refresh_from_db()
    assert (level.name, level.position) == ("finance", 2)
    assert client.post(f"{LEVELS}{level.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not ApprovalLevel.objects.exists()
    actions = AuditEntry.objects.filter(target_type="approval_level").order_by("id")
    assert list(actions.values_list("action", flat=True)) == [
        "approval_level.add",
        "approval_level.change",
        "approval_level.remove",
    ]


@pytest.mark.parametrize("name", ["user", "two words", "x/y", ""])
def test_a_level_needs_a_name_that_templates_can_use(office: Office, name: str) -> None:
    group = Group.objects.create(name="Finance people")
    form = {"workspace": str(office.workspace.pk), "name": name, "position": "1", "group": group.pk}
    assert staff(office.admin).post(LEVELS + "add/", form).status_code == 200
    assert not ApprovalLevel.objects.exists()


def test_a_level_somebody_is_asked_at_cannot_go(office: Office) -> None:
    level = ApprovalLevelFactory.create(workspace=office.workspace)
    ApprovalFactory.create(workspace=office.workspace, level="finance")
    assert staff(office.admin).post(f"{LEVELS}{level.pk}/delete/", {"post": "yes"}).status_code == 403


def test_ladders_of_other_workspaces_are_neither_seen_nor_made(office: Office) -> None:
    foreign = ApprovalLevelFactory.create(workspace=ApprovalFactory.create().workspace)
    client = staff(office.admin)
    assert client.get(f"{LEVELS}{foreign.pk}/change/").status_code == 302
    form = {"workspace": str(foreign.workspace_id), "name": "x", "position": "5", "group": foreign.group_id}
    assert client.post(LEVELS + "add/", form).status_code == 200
    assert ApprovalLevel.objects.count() == 1
    assert staff(office.approver).get(LEVELS).status_code == 403


def test_operators_see_who_has_how_much_and_give_it_to_others(office: Office) -> None:
    approvals = [ApprovalFactory.create(workspace=office.workspace) for _ in range(3)]
    foreign = ApprovalFactory.create()
    handing.claim(approval_id=approvals[0].pk, by=office.approver)
    client = staff(office.operator)
    page = client.get("/admin/approvals/approval/").content.decode()
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert f"any approver {office.workspace.name} 3 - -" in words
    assert f"{office.approver.username} 1 - - -" in words
    for attention in ("late", "soon", "escalated", "taken"):
        assert client.get("/admin/approvals/approval/", {"attention": attention}).status_code == 200

    body = {"action": "reassign_selected", "_selected_action": [each.pk for each in [*approvals, foreign]]}
    assert b"Say to whom" in client.post("/admin/approvals/approval/", body, follow=True).content
    given = {**body, "to": office.colleague.username, "reason": "Holiday"}
    assert b"3." in client.post("/admin/approvals/approval/", given, follow=True).content
    for approval in approvals:
        (row,) = approval.assignees.all()
        assert (row.user, row.reason) == (office.colleague, "Holiday")
    assert not foreign.assignees.exists()
    viewer = staff(office.viewer).post("/admin/approvals/approval/", given, follow=True)
    assert b"Given to" not in viewer.content

    withdrawn = {**given, "action": "withdraw_selected", "reason": ""}
    assert b"Say why" in client.post(LIST, withdrawn, follow=True).content
    assert b"Withdrawn: 3." in client.post(LIST, {**withdrawn, "reason": "Twice"}, follow=True).content
    foreign.refresh_from_db()
    assert foreign.status == "pending"


def test_a_question_is_sent_back_from_the_admin(office: Office) -> None:
    execution = ExecutionFactory.create(
        workspace=office.workspace,
        definition={
            "name": "Drafts",
            "blocks": [
                {"blockId": "draft", "agentId": "builtin.echo"},
                {"blockId": "ask", "dependencies": ["draft"], "humanInLoop": {"maxRework": 1}},
            ],
        },
        completed=["draft"],
        waiting_human=["ask"],
    )
    approval = ApprovalFactory.create(execution=execution)
    client = staff(office.approver)
    page = client.get(f"/admin/approvals/approval/{approval.pk}/change/").content.decode()
    assert "Would run again: draft. 1 of 1 times left." in page
    body = {"action": "send_back_selected", "_selected_action": [approval.pk], "to": "", "reason": ""}
    assert b"what should be done otherwise" in client.post(LIST, body, follow=True).content
    assert b"Sent back: 1." in client.post(LIST, {**body, "reason": "Again."}, follow=True).content
    vote = approval.votes.get()
    assert (vote.decision, vote.comments, vote.user) == ("rework", "Again.", office.approver)


def test_a_stuck_step_is_changed_and_answered(office: Office) -> None:
    step = {"blockId": "ask", "agentId": "builtin.echo", "input": {"n": 1}}
    execution = ExecutionFactory.create(
        workspace=office.workspace,
        definition={"name": "Books", "blocks": [step]},
        waiting_human=["ask"],
    )
    approval = ApprovalFactory.create(execution=execution, kind="fix", input_schema=FIX_SCHEMA)
    path = f"/admin/approvals/approval/{approval.pk}"
    only_decides, client = staff(office.approver), staff(office.admin)
    page = only_decides.get(f"{path}/change/").content.decode()
    assert "Done with this output" in page
    assert "With this input" not in page
    typed = {"action": "retry", "input": '{"n": "${nowhere}"}', "comments": "so"}
    assert b"Only an operator" in only_decides.post(f"{path}/fix/", typed).content
    assert b"/response/input/n" in (refused := client.post(f"{path}/fix/", typed).content)
    assert b"${nowhere}" in refused
    assert b"no JSON" in client.post(f"{path}/fix/", typed | {"input": "{"}).content
    assert staff(office.viewer).post(f"{path}/fix/", typed).status_code in (200, 302, 403)
    assert staff(office.stranger).post(f"{path}/fix/", typed).status_code == 302
    approval.refresh_from_db()
    assert approval.status == "pending"
    done = client.post(f"{path}/fix/", typed | {"input": '{"n": 2}'}, follow=True)
    assert b"Answered." in done.content
    execution.refresh_from_db()
    assert execution.patches == {"ask": {"input": {"n": 2}}}
