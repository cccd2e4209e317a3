"""One question in full: what changed, what follows each answer, where it sits, and what has been said."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from approvals import picture
from approvals.models import Approval, ApprovalComment
from approvals.services.responding import respond
from executions.models import BlockAttempt, Execution
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory, member

pytestmark = pytest.mark.django_db

REFUND: JSONObject = {
    "name": "Refund",
    "blocks": [
        {"blockId": "look", "name": "Look up", "agentId": "builtin.echo"},
        {
            "blockId": "pay",
            "name": "Pay refund",
            "agentId": "builtin.echo",
            "effect": "once",
            "dependencies": ["look"],
            "humanInLoop": {"type": "approval"},
        },
        {"blockId": "tell", "name": "Tell the customer", "agentId": "builtin.echo", "dependencies": ["pay"]},
        {"blockId": "file", "name": "File it", "agentId": "builtin.echo", "dependencies": ["tell"]},
        {
            "blockId": "sorry",
            "name": "Say sorry",
            "agentId": "builtin.echo",
            "runOn": "failure",
            "dependencies": ["pay"],
        },
    ],
}


@pytest.fixture
def approver() -> User:
    return member(WorkspaceFactory.create(), Role.APPROVER, first_name="Noor", last_name="Haddad")


def refund(approver: User) -> Approval:
    run: Execution = ExecutionFactory.create(
        workspace=approver.groups.get().workspace_role.workspace,
        definition=REFUND,
        waiting_human=["pay"],
    )
    approval: Approval = ApprovalFactory.create(
        execution=run, block_id="pay", request={"title": "Pay back 640?", "facts": {"amount": 640}}
    )
    return approval


def page(user: User, approval: Approval) -> str:
    client = Client()
    client.force_login(user)
    reply = client.get(f"/inbox/{approval.pk}/", headers={"X-Fragment": "1"})
    assert reply.status_code == 200
    return unescape(reply.content.decode())


def words_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def path_of(html: str, key: str) -> str:
    return words_of(html.split(f'data-path="{key}"')[1].split("</div>")[0])


def test_what_follows_names_what_runs_what_cannot_be_undone_and_what_is_left_out(approver: User) -> None:
    html = page(approver, refund(approver))
    approve, reject = path_of(html, "approve"), path_of(html, "reject")
    assert "Pay refund Cannot be undone" in approve
    assert "Tell the customer" in approve
    assert "Then 1 step" in approve
    assert "Say sorry" not in approve
    assert "The step fails" in reject
    assert "Say sorry" in reject
    assert "Left out: 2 steps Tell the customer, File it" in reject


def test_the_picture_marks_the_step_and_large_graphs_show_its_neighbours(approver: User) -> None:
    approval = refund(approver)
    assert "Graph with 5 steps; Step pay is marked" in page(approver, approval)
    drawn = picture.of(approval)
    assert drawn is not None
    assert [(box.name, box.look) for box in drawn.boxes if box.marked] == [("Pay refund", "human")]
    assert (len(drawn.boxes), len(drawn.lines), drawn.left_out) == (5, 4, 0)
    line: list[JSONObject] = [
        {"blockId": f"s{at}", "dependencies": [f"s{at - 1}"] if at else []} for at in range(200)
    ]
    line[100] |= {"humanInLoop": {"type": "approval"}}
    run = ExecutionFactory.create(
        workspace=approval.workspace, definition={"name": "Long", "blocks": line}, waiting_human=["s100"]
    )
    drawn = picture.of(ApprovalFactory.create(execution=run, block_id="s100"))
    assert drawn is not None
    assert (len(drawn.boxes), drawn.left_out) == (picture.MOST, 160)
    assert {"s99", "s100", "s101"} <= {box.name for box in drawn.boxes}


def test_what_changed_since_it_was_last_asked_is_marked(approver: User) -> None:
    approval = refund(approver)
    changes = [{"pointer": "/facts/amount", "before": 590, "after": 640}]
    Approval.objects.filter(pk=approval.pk).update(changes=changes)
    html = page(approver, approval)
    assert "Asked again, one thing changed. Amount: 590 640" in words_of(html)
    assert re.search(r"<dd><del>.*590.*</del> <ins>.*640.*</ins></dd>", html)


def test_history_tells_who_said_what_also_of_earlier_questions(approver: User) -> None:
    approval = refund(approver)
    ApprovalComment.objects.create(approval=approval, user=approver, text="Is shipping in?")
    respond(approval_id=approval.pk, by=approver, approved=True, comments="fine")
    after = words_of(page(approver, approval))
    assert re.search(r"Asked, any approver .*Noor Haddad wrote Is shipping in\? .*approved fine", after)
    again = ApprovalFactory.create(execution=approval.execution, block_id="pay")
    assert "Before: Noor Haddad approved this fine" in words_of(page(approver, again))


def test_money_that_was_spent_is_told_and_weighed(approver: User) -> None:
    workspace = approver.groups.get().workspace_role.workspace
    run = ExecutionFactory.create(workspace=workspace, definition=REFUND, waiting_human=["pay"])
    BlockAttempt.objects.create(
        block=run.blocks.get(block_id="look"),
        attempt=1,
        usage={"cost": {"USD": 2.5}},
        outcome="ok",
        started_at=Now(),
        ended_at=Now(),
    )
    approval = ApprovalFactory.create(execution=run, block_id="pay")
    assert (approval.spent, approval.pulled_s) == ({"USD": 2.5}, 3 * 60 + 25 * 60)
    assert "2.50 USD spent" in words_of(page(approver, approval))


def test_a_question_s_page_takes_a_bounded_number_of_queries(approver: User) -> None:
    approval = refund(approver)
    page(approver, approval)
    client = Client()
    client.force_login(approver)
    with CaptureQueriesContext(connection) as captured:
        client.get(f"/inbox/{approval.pk}/", headers={"X-Fragment": "1"})
    assert len(captured) <= 18
