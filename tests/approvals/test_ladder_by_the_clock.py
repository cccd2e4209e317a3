"""The ladder with the real clock: seconds in place of hours."""

from __future__ import annotations

import pytest

from tests.approvals.conftest import Office, make_office
from tests.approvals.test_from_outside import Person, ended, heard, start
from tests.factories.approvals import ApprovalLevelFactory
from tests.service import Service


@pytest.fixture
def office(service: Service) -> Office:
    return make_office()


def test_a_question_is_reminded_of_escalated_and_ended_by_the_clock(service: Service, office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.colleague])
    approver = Person(service, office.approver)
    with approver.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        levels = [{"level": "user", "timeout": 1500, "reminders": [1000]}]
        execution_id = start(service, office, levels=levels, escalate=True, onTimeout="approve")
        asked = heard(inbox, "approval_requested")
        assert heard(inbox, "approval_reminder")["level"] == "user"
        assert heard(inbox, "approval_escalated")["level"] == "finance"
        assert approver.call("GET", f"/approvals/pending?executionId={execution_id}")["total"] == 0
        assert heard(inbox, "approval_timeout")["decision"] == "approve"
    assert ended(service, approver, execution_id)["status"] == "completed"
    shown = approver.call("GET", f"/approvals/{asked['approvalId']}")
    assert (shown["status"], shown["level"], shown["votes"]) == ("expired", "finance", [])
