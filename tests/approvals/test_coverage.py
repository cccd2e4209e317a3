"""Before anything runs: can this gate be passed by those who are there?"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.workflow.parsing import parse
from approvals.models import Absence, ApprovalPolicy
from templates_app.services import coverage
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import ApprovalLevelFactory, asking_definition
from tests.factories.governance import client_of, member

from .test_levels import go_away


def warned(office: Office, **human: Any) -> list[str]:
    found = coverage.issues(parse(asking_definition("ask", **human)), office.workspace.pk)
    assert all(issue.severity == "warning" for issue in found)
    return [issue.code for issue in found]


@pytest.mark.parametrize(
    ("human", "enough"),
    [
        ({}, True),
        ({"quorum": 3}, True),  # two approvers and an administrator
        ({"quorum": 4}, False),
        ({"approvalLevel": "finance"}, True),
        ({"approvalLevel": "finance", "quorum": 2}, False),  # a viewer of the group decides nothing
        ({"levels": [{"level": "user", "quorum": 2}, {"level": "finance"}]}, True),
        ({"levels": [{"level": "user", "quorum": 3}, {"level": "finance"}]}, False),  # four different people
    ],
)
def test_a_gate_that_nobody_could_pass_is_told(office: Office, human: dict[str, Any], enough: bool) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver, office.viewer])
    assert warned(office, **human) == ([] if enough else ["not_enough_approvers"])


def test_who_is_away_does_not_count(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver])
    assert warned(office, approvalLevel="finance") == []
    assert go_away(office.approver).status_code == 201
    assert warned(office, approvalLevel="finance") == ["not_enough_approvers"]


def test_names_that_lead_to_nobody_are_told_and_those_named_are_counted(office: Office) -> None:
    one, two = office.approver.username, office.colleague.username
    assert warned(office, assignees={"users": [one]}) == []
    assert warned(office, assignees={"users": [one, two]}, quorum=2) == []
    assert warned(office, assignees={"users": [one]}, quorum=2) == ["not_enough_approvers"]
    assert warned(office, assignees={"users": [one, "nobody"]}) == ["unknown_assignee"]
    assert warned(office, assignees={"users": [office.viewer.username]}) == ["unknown_assignee"]
    assert warned(office, assignees={"groups": ["nowhere"]}, quorum=2) == [
        "unknown_assignee"
    ]  # the level is asked
    assert warned(office, assignees={"roles": ["approver"]}, quorum=2) == []
    assert warned(office, assignees={"users": [one], "expression": "input.boss"}, quorum=2) == []
    assert go_away(office.approver).status_code == 201
    assert warned(office, assignees={"users": [one]}) == ["not_enough_approvers"]


def test_who_wrote_it_does_not_pass_its_only_gate(office: Office) -> None:
    ApprovalPolicy.objects.filter(workspace=office.workspace).delete()
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver])

    def said(author: User, *gates: str, **human: Any) -> list[str]:
        found = coverage.issues(parse(asking_definition(*gates, **human)), office.workspace.pk, {author.pk})
        assert all(issue.pointer == "/blocks/0/humanInLoop" and issue.remedy for issue in found)
        return [issue.code for issue in found]

    alone = {"approvalLevel": "finance"}
    assert said(office.approver, "ask", **alone) == ["only_author_can_pass"]
    assert said(office.colleague, "ask", **alone) == []
    assert said(office.approver, "ask") == []  # the others of the workspace are there
    assert said(office.approver, "ask", "also", **alone) == []  # it is not the only gate
    assert said(office.approver, "ask", kind="input", **alone) == []
    policy = client_of(office.admin).patch(f"{URL}/policy", {"ownTemplates": True}, format="json")
    assert policy.status_code == 200
    assert said(office.approver, "ask", **alone) == []


def test_nobody_is_needed_at_two_levels(office: Office) -> None:
    one, two, three = (each.username for each in (office.approver, office.colleague, office.admin))

    def levels(*asked: list[str], **last: Any) -> dict[str, Any]:
        found = [{"assignees": {"users": names}} for names in asked]
        return {"levels": [*found[:-1], found[-1] | last]}

    assert warned(office, **levels([one], [one], [two, three])) == ["same_person_twice"]
    assert warned(office, **levels([one], [one, two], [two, three])) == []
    assert warned(office, **levels([one], [one, two], quorum="all")) == ["same_person_twice"]
    assert warned(office, **levels([one], [two, three], quorum="all")) == []
    found = coverage.issues(
        parse(asking_definition("ask", **levels([one], [one], [two, three]))), office.workspace.pk
    )
    assert found[0].message.startswith(f"{one} would have to answer at user")


def test_people_who_stand_in_for_each_other_are_told(office: Office) -> None:
    """Of an absence at a time that `add` did not see: two were added at once."""
    assert go_away(office.approver, deputy=office.colleague.username).status_code == 201
    first = Absence.objects.get()
    assert warned(office) == []
    other = Absence.objects.create(
        workspace=office.workspace,
        user=office.colleague,
        deputy=office.approver,
        starts_at=first.ends_at,
        ends_at=first.ends_at + timedelta(days=1),
    )
    assert warned(office) == []  # one after the other
    Absence.objects.filter(pk=other.pk).update(starts_at=first.starts_at)
    assert warned(office) == ["delegation_loop"]
    assert warned(office, assignees={"users": [office.admin.username]}) == []


def test_publishing_says_what_stands_against_it(office: Office) -> None:
    ApprovalPolicy.objects.filter(workspace=office.workspace).delete()
    author = member(office.workspace, Role.AUTHOR, Role.APPROVER)
    definition = asking_definition("ask", assignees={"users": [author.username]})
    client = client_of(author)
    made = client.post("/api/v1/templates", {**definition, "status": "draft"}, format="json").json()
    template = made["id"] if "id" in made else made["templateId"]
    checked = client.post(f"/api/v1/templates/{template}/validate", {}, format="json").json()
    reply = client.post(f"/api/v1/templates/{template}/versions/1/publish", format="json")
    assert reply.status_code == 200, reply.content
    assert [issue["code"] for issue in reply.json()["issues"]] == ["only_author_can_pass"]
    assert checked["issues"] == reply.json()["issues"]
