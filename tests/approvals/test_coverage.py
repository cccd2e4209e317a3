"""Before anything runs: can this gate be passed by those who are there?"""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.workflow.definition import parse
from templates_app.services import coverage
from tests.approvals.conftest import Office
from tests.factories.approvals import ApprovalLevelFactory, asking_definition

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
