"""Who is at a question, who else is asked, to whom it went; and those alike side by side."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.test import Client

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from approvals.models import Approval
from approvals.services import handing
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory, member

from .test_inbox import shown
from .test_question import REFUND, page, path_of, words_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory.create()


@pytest.fixture
def noor(workspace: Workspace) -> User:
    return member(workspace, Role.APPROVER, first_name="Noor", last_name="Haddad")


@pytest.fixture
def tom(workspace: Workspace) -> User:
    return member(workspace, Role.APPROVER, first_name="Tom", last_name="Berg")


def test_a_question_that_somebody_took_says_so_until_the_claim_lapses(
    workspace: Workspace, noor: User, tom: User
) -> None:
    approval = ApprovalFactory.create(workspace=workspace)
    handing.claim(approval_id=approval.pk, by=tom)
    question = ["May it go on?"]
    assert "Tom Berg is at it" in words_of(page(noor, approval))
    assert "Taken by you" in words_of(page(tom, approval))
    assert "Let others have it" in words_of(page(tom, approval))
    assert (shown(noor, who="others"), shown(noor, who="free")) == (question, [])
    assert (shown(tom, who="mine"), shown(noor, who="mine")) == (question, [])
    Approval.objects.update(claimed_at=Now() - timedelta(hours=1))
    assert "is at it" not in words_of(page(noor, approval))
    assert (shown(noor, who="free"), shown(tom, who="mine")) == (question, [])


def test_what_was_given_away_is_told_with_its_reason(workspace: Workspace, noor: User, tom: User) -> None:
    approval = ApprovalFactory.create(workspace=workspace)
    assert "Also asked: Tom Berg" in words_of(page(noor, approval))
    handing.comment(approval_id=approval.pk, by=noor, text="Is shipping in?")
    handing.delegate(approval_id=approval.pk, by=noor, to=tom.username, reason="She knows the customer")
    told = words_of(page(tom, approval))
    assert "Noor Haddad wrote Is shipping in?" in told
    assert "Noor Haddad gave it to Tom Berg She knows the customer" in told
    assert shown(noor) == []
    assert 'id="approve"' not in page(noor, approval)


def test_who_is_asked_after_the_time_is_named(workspace: Workspace, noor: User) -> None:
    approval = ApprovalFactory.create(workspace=workspace)
    levels = [{"level": "user"}, {"level": "finance-leads"}]
    Approval.objects.filter(pk=approval.pk).update(levels=levels, on_timeout="reject")
    path = path_of(page(noor, approval), "timeout")
    assert "finance-leads is asked" in path
    assert "It counts as rejected if nobody there answers either" in path


def test_questions_alike_are_a_table(workspace: Workspace, noor: User) -> None:
    first = ExecutionFactory.create(workspace=workspace, definition=REFUND, waiting_human=["pay"])
    approvals = [ApprovalFactory.create(execution=first, block_id="pay")]
    for amount in (12, 13):
        run = ExecutionFactory.create(template_version=first.template_version, waiting_human=["pay"])
        request = {"title": f"Pay back {amount}?", "facts": {"amount": amount, "orderNumber": 7}}
        approvals.append(ApprovalFactory.create(execution=run, block_id="pay", request=request))
    ApprovalFactory.create(workspace=workspace)
    assert "2 more like this" in words_of(page(noor, approvals[0]))
    client = Client()
    client.force_login(noor)
    html = client.get(f"/inbox/{approvals[1].pk}/alike").content.decode()
    assert html.count("<tr data-id") == 3
    assert "Amount" in html
    assert "Order number" in html
    for approval in approvals:
        assert f'data-hash="{approval.content_hash}"' in html
    stranger = Client()
    stranger.force_login(member(WorkspaceFactory.create(), Role.ADMIN))
    assert stranger.get(f"/inbox/{approvals[1].pk}/alike").status_code == 404
