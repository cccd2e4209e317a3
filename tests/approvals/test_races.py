"""Two things happening to one question at once, on real connections: exactly one of them counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction

from agentflow.errors import Conflict, NotPermitted
from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry
from agentflow.governance.roles import Role
from approvals.models import Approval, Sample
from approvals.services.expiry import expire
from approvals.services.handing import claim
from approvals.services.responding import respond
from executions.ports import LevelAsk, human_gate
from executions.services import locking
from tests.approvals.conftest import Office, make_office
from tests.factories.approvals import (
    ApprovalFactory,
    ApprovalLevelFactory,
    asking_execution,
    let_time_pass,
)
from tests.factories.executions import statuses
from tests.factories.governance import member
from tests.waiting import PATIENCE_S

ROUNDS = 10
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def office(transactional_db: None) -> Office:
    return make_office()


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run all on threads of their own from one starting line; the values, or the conflicts raised."""
    line = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)

    def run(index: int, action: Callable[[], Any]) -> None:
        try:
            line.wait(PATIENCE_S)
            results[index] = action()
        except Conflict as error:
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    return results


def decided_events(approval: Approval) -> list[str]:
    rows = Event.objects.filter(execution_id=approval.execution_id, type__startswith="approval_")
    return [
        type_ for type_ in rows.order_by("pk").values_list("type", flat=True) if type_ != "approval_requested"
    ]


def test_of_two_who_decide_at_once_exactly_one_wins(office: Office) -> None:
    for _ in range(ROUNDS):
        approval = ApprovalFactory.create(workspace=office.workspace)
        results = at_once(
            partial(respond, approval_id=approval.pk, by=office.approver, approved=True),
            partial(respond, approval_id=approval.pk, by=office.colleague, approved=False),
        )
        lost = [result for result in results if isinstance(result, Conflict)]
        assert [error.code for error in lost] == ["already_decided"]
        won = Approval.objects.get(pk=approval.pk)
        yes = won.status == "approved"
        assert won.responder == (office.approver if yes else office.colleague)
        assert isinstance(results[0], Approval) is yes
        assert statuses(approval.execution)["ask"] == ("ready" if yes else "failed")
        assert decided_events(approval) == ["approval_responded"]
        assert AuditEntry.objects.filter(target_id=str(approval.pk)).count() == 1


def test_of_ten_approvers_one_decides(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    people = [member(office.workspace, Role.APPROVER) for _ in range(10)]
    results = at_once(*(partial(respond, approval_id=approval.pk, by=by, approved=True) for by in people))
    assert sum(isinstance(result, Approval) for result in results) == 1
    assert Approval.objects.get(pk=approval.pk).version == 2
    assert decided_events(approval) == ["approval_responded"]


def test_an_answer_and_the_timeout_never_both_count(office: Office) -> None:
    for _ in range(ROUNDS):
        approval = ApprovalFactory.create(workspace=office.workspace)
        let_time_pass(approval)
        answer, _ = at_once(
            partial(respond, approval_id=approval.pk, by=office.approver, approved=True),
            partial(expire, subject=approval.pk, execution_id=approval.execution_id),
        )
        approval.refresh_from_db()
        if isinstance(answer, Conflict):
            assert (answer.code, approval.status) == ("approval_expired", "expired")
            assert statuses(approval.execution)["ask"] == "failed"
            assert decided_events(approval) == ["approval_timeout"]
        else:
            assert approval.status == "approved"
            assert statuses(approval.execution)["ask"] == "ready"
            assert decided_events(approval) == ["approval_responded"]


def test_an_answer_and_a_withdrawal_never_both_count(office: Office) -> None:
    def withdraw(approval: Approval) -> None:
        with transaction.atomic():
            locking.lock(approval.execution_id)
            human_gate().cancel(execution_id=approval.execution_id, block_pks=None, reason="cancelled")

    for _ in range(ROUNDS):
        approval = ApprovalFactory.create(workspace=office.workspace)
        answer, _ = at_once(
            partial(respond, approval_id=approval.pk, by=office.approver, approved=True),
            partial(withdraw, approval),
        )
        approval.refresh_from_db()
        lost = isinstance(answer, Conflict)
        assert approval.status == ("cancelled" if lost else "approved")
        assert decided_events(approval) == ["approval_cancelled" if lost else "approval_responded"]


def test_the_same_answer_sent_many_times_at_once_succeeds_each_time(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    results = at_once(
        *[partial(respond, approval_id=approval.pk, by=office.approver, approved=True, comments="yes")] * 8
    )
    assert all(isinstance(result, Approval) for result in results)
    assert Approval.objects.get(pk=approval.pk).version == 2
    assert decided_events(approval) == ["approval_responded"]
    assert AuditEntry.objects.filter(target_id=str(approval.pk)).count() == 1


def test_of_many_votes_at_once_two_decide_and_no_vote_is_lost(office: Office) -> None:
    people = [office.approver, office.colleague, *(member(office.workspace, Role.APPROVER) for _ in range(4))]
    for _ in range(3):
        approval = ApprovalFactory.create(
            workspace=office.workspace, levels=[LevelAsk("user", 60_000, quorum="2")]
        )
        results = at_once(*(partial(respond, approval_id=approval.pk, by=by, approved=True) for by in people))
        lost = [result for result in results if isinstance(result, Conflict)]
        assert [error.code for error in lost] == ["already_decided"] * 4
        assert approval.votes.count() == 2
        assert decided_events(approval) == ["approval_voted", "approval_responded"]
        assert statuses(approval.execution)["ask"] == "ready"


def test_an_answer_and_an_escalation_never_both_count(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.colleague])
    for _ in range(ROUNDS):
        approval = ApprovalFactory.create(
            workspace=office.workspace, levels=[LevelAsk("user", 60_000)], escalate=True
        )
        let_time_pass(approval)
        answer, _ = at_once(
            partial(permitted, respond, approval_id=approval.pk, by=office.approver, approved=True),
            partial(expire, subject=approval.pk, execution_id=approval.execution_id),
        )
        approval.refresh_from_db()
        if isinstance(answer, Approval):
            assert (approval.status, approval.level) == ("approved", "user")
            assert decided_events(approval) == ["approval_responded"]
        else:
            assert answer == "not_permitted"
            assert (approval.status, approval.level) == ("pending", "finance")
            assert decided_events(approval) == ["approval_escalated"]


def test_of_two_who_claim_at_once_one_has_it(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    results = at_once(
        *(partial(claim, approval_id=approval.pk, by=by) for by in (office.approver, office.colleague))
    )
    lost = [result for result in results if isinstance(result, Conflict)]
    assert [error.code for error in lost] == ["claimed_by_other"]


def permitted(action: Callable[..., Any], **fields: Any) -> Any:
    """What it gives, or the code of the refusal."""
    try:
        return action(**fields)
    except NotPermitted as error:
        return error.code


def test_a_sample_of_successive_questions_is_drawn_and_passes_once_whoever_comes_first(
    office: Office,
) -> None:
    for _ in range(3):
        runs = [asking_execution(office.workspace, "ask") for _ in range(4)]
        version = runs[0].template_version
        for run in runs[1:]:
            run.template_version = version
            run.save(update_fields=["template_version"])
        at_once(*(partial(ApprovalFactory.create, execution=run, sample=2, sample_of=4) for run in runs))
        rows = Approval.objects.filter(execution__in=runs)
        assert sorted(place or 0 for place in rows.values_list("sample_place", flat=True)) == [1, 2, 3, 4]
        sample = Sample.objects.get(version=version)
        assert (sample.asked, len(sample.chosen)) == (4, 2)
        drawn, rest = rows.filter(inspected=True), list(rows.filter(inspected=False))
        assert {each.sample_place for each in drawn} == set(sample.chosen)
        # One of the rest is answered by hand at the same moment; the others are for the clock.
        at_once(
            *(partial(respond, approval_id=each.pk, by=office.approver, approved=True) for each in drawn),
            partial(respond, approval_id=rest[0].pk, by=office.colleague, approved=True),
        )
        sample.refresh_from_db()
        assert sample.state == "passed"
        at_once(*(partial(expire, subject=each.pk, execution_id=each.execution_id) for each in rest * 2))
        assert set(rows.values_list("status", flat=True)) == {"approved"}
        assert [rows.get(pk=each.pk).released for each in rest] == [False, True]
        assert {statuses(run)["ask"] for run in runs} == {"ready"}
