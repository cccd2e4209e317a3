"""What waits for whom, what was decided, and what follows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F, Value
from django.db.models.functions import Now, Random
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from approvals import selectors
from approvals.models import Approval
from bench.crowd import copies
from executions.models import Timer
from executions.ports import LevelAsk
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import ApprovalFactory, ApprovalLevelFactory, asking_execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import UserFactory, WorkspaceFactory, client_of

QUERIES_MAX = 8


def listed(user: User, path: str = "/pending", **query: Any) -> dict[str, Any]:
    reply = client_of(user).get(URL + path, query)
    assert reply.status_code == 200, reply.content
    body: dict[str, Any] = reply.json()
    return body


def ids(body: dict[str, Any]) -> list[str]:
    return [approval["approvalId"] for approval in body["approvals"]]


def test_a_pending_approval_says_all_that_an_approver_needs(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, input_schema={"type": "object"})
    body = listed(office.approver)
    version = approval.execution.template_version
    assert body["total"] == 1
    shown = body["approvals"][0]
    assert shown.pop("requestedAt") < shown.pop("respondBy")
    assert shown == {
        "approvalId": str(approval.pk),
        "workspaceId": str(office.workspace.pk),
        "executionId": str(approval.execution_id),
        "templateId": str(version.template_id),
        "templateName": version.template.name,
        "versionNumber": 1,
        "simulated": False,
        "blockId": "ask",
        "blockName": "Step ask",
        "attempt": 1,
        "type": "approval",
        "level": "user",
        "status": "pending",
        "request": {"title": "May it go on?", "facts": {"amount": 640}},
        "inputSchema": {"type": "object"},
        "contentHash": approval.content_hash,
        "slaState": "ok",
        "quorum": "any",
        "levelIndex": 0,
        "levelCount": 1,
        "assignmentNote": "",
        "claimedBy": None,
        "supersedes": None,
        "changes": [],
        "sample": None,
        "inspected": False,
    }


def test_pending_is_what_one_may_decide_oneself(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.colleague, office.viewer])
    anyone = ApprovalFactory.create(workspace=office.workspace)
    finance = ApprovalFactory.create(workspace=office.workspace, level="finance")
    nobody = ApprovalFactory.create(workspace=office.workspace, level="removed")
    assert set(ids(listed(office.approver))) == {str(anyone.pk)}
    assert set(ids(listed(office.colleague))) == {str(anyone.pk), str(finance.pk)}
    assert ids(listed(office.viewer)) == ids(listed(office.operator)) == ids(listed(office.stranger)) == []
    assert str(nobody.pk) in ids(listed(office.viewer, ""))


def test_a_level_of_another_workspace_with_the_same_name_does_not_count(office: Office) -> None:
    ApprovalLevelFactory.create(members=[office.approver], workspace=ApprovalFactory.create().workspace)
    ApprovalFactory.create(workspace=office.workspace, level="finance")
    assert listed(office.approver)["total"] == 0


def test_a_superuser_decides_everywhere_but_above_ones_level(office: Office) -> None:
    root = UserFactory.create(is_superuser=True)
    anyone = ApprovalFactory.create(workspace=office.workspace)
    ApprovalFactory.create(workspace=office.workspace, level="finance")
    assert ids(listed(root)) == [str(anyone.pk)]


def test_filters_orders_and_pages(office: Office) -> None:
    execution = asking_execution(office.workspace, "one", "two")
    one = ApprovalFactory.create(execution=execution, block_id="one", timeout_ms=9_000_000)
    two = ApprovalFactory.create(execution=execution, block_id="two", timeout_ms=60_000)
    fix = ApprovalFactory.create(workspace=office.workspace, kind="fix", timeout_ms=5_000_000)
    user = office.approver
    assert ids(listed(user)) == [str(two.pk), str(fix.pk), str(one.pk)]
    assert ids(listed(user, ordering="-respondBy")) == [str(one.pk), str(fix.pk), str(two.pk)]
    assert ids(listed(user, ordering="requestedAt")) == [str(one.pk), str(two.pk), str(fix.pk)]
    assert ids(listed(user, type="fix")) == [str(fix.pk)]
    assert ids(listed(user, executionId=execution.pk, blockId="one")) == [str(one.pk)]
    assert listed(user, workspaceId=office.workspace.pk)["total"] == 3
    page = listed(user, limit=1, offset=1)
    assert (ids(page), page["total"]) == ([str(fix.pk)], 3)


@pytest.mark.parametrize(
    "query",
    [
        {"type": "nonsense"},
        {"executionId": "7"},
        {"ordering": "status"},
        {"limit": "0"},
        {"limit": "501"},
        {"offset": "-1"},
        {"workspaceId": "x"},
        {"status": "nonsense"},
    ],
)
def test_a_bad_parameter_is_named(office: Office, query: dict[str, str]) -> None:
    reply = client_of(office.approver).get(f"{URL}/pending", query)
    assert reply.status_code == 400
    assert reply.json()["issues"][0]["pointer"] == f"?{next(iter(query))}"


def test_questions_are_found_by_how_their_time_stands(office: Office) -> None:
    ok, soon, late = (ApprovalFactory.create(workspace=office.workspace) for _ in range(3))
    hour = timedelta(hours=1)
    Approval.objects.filter(pk=soon.pk).update(due_soon_at=Now() - hour, respond_by=Now() + hour)
    Approval.objects.filter(pk=late.pk).update(due_soon_at=Now() - 2 * hour, respond_by=Now() - hour)
    for state, approval in (("ok", ok), ("due_soon", soon), ("overdue", late)):
        for path in ("/pending", ""):
            (found,) = listed(office.approver, path, slaState=state)["approvals"]
            assert (found["approvalId"], found["slaState"]) == (str(approval.pk), state)
    Approval.objects.filter(pk=late.pk).update(closed_at=Now() - 3 * hour, status="cancelled")
    assert set(ids(listed(office.viewer, "", slaState="ok"))) == {str(ok.pk), str(late.pk)}


def test_a_deadline_counts_while_the_workspace_works(office: Office) -> None:
    day = timezone.now() + timedelta(days=2)
    rules = {"workingDays": [day.isoweekday()], "dayBegins": "09:00", "dayEnds": "17:00", "zone": "UTC"}
    changed = client_of(office.admin).patch(
        f"{URL}/policy?workspaceId={office.workspace.pk}", rules, format="json"
    )
    assert changed.status_code == 200
    two_hours = LevelAsk("user", 2 * 3_600_000, reminders_ms=(3_600_000,))
    approval = ApprovalFactory.create(workspace=office.workspace, levels=[two_hours], business_hours=True)

    def at(hour: int, minute: int = 0) -> datetime:
        return day.replace(hour=hour, minute=minute, second=0, microsecond=0)

    assert (approval.respond_by, approval.due_soon_at) == (at(11), at(10, 36))
    assert Timer.objects.get(subject=approval.pk).due_at == at(10)  # the reminder


@pytest.mark.parametrize("path", ["/pending", ""])
def test_the_number_of_queries_does_not_grow_with_the_rows(office: Office, path: str) -> None:
    counts = []
    for more in (1, 20):
        for _ in range(more):
            ApprovalFactory.create(workspace=office.workspace)
        client = client_of(office.approver)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(URL + path).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1] <= QUERIES_MAX


def rows_read(plan: dict[str, Any]) -> int:
    """What the scans of a plan have looked at, all rounds together."""
    own = 0
    if "Scan" in plan["Node Type"] and "Relation Name" in plan:
        looked_at = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        own = round(looked_at * plan["Actual Loops"])
    return own + sum(map(rows_read, plan.get("Plans", ())))


def test_a_list_reads_no_more_of_others_than_there_is_of_ones_own(office: Office) -> None:
    """Otherwise it grows with what waits for everybody: 100,000 rows instead of a person's 1,000."""
    own, others = 200, 8
    for workspace in [office.workspace, *WorkspaceFactory.create_batch(others)]:
        asked = ApprovalFactory.create(workspace=workspace)
        copies(asked.pk, asked.execution_id, own - 1)
        grant(user=office.viewer, role=Role.VIEWER, workspace=workspace)
    Approval.objects.update(requested_at=F("requested_at") - Value(timedelta(days=30)) * Random())
    client = Client()
    client.force_login(office.approver)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        for path in ("/inbox/rows", "/inbox/rows?q=it+go", URL + "/pending", URL):
            with CaptureQueriesContext(connection) as queries:
                assert client.get(path).status_code == 200
            assert len(queries) <= QUERIES_MAX, path
            for query in queries.captured_queries:
                if query["sql"].startswith("SELECT"):
                    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query["sql"])
                    plan = cursor.fetchone()[0][0]["Plan"]
                    # Of each question a list looks at six tables at most.
                    assert rows_read(plan) <= 6 * own, (path, query["sql"][:300], rows_read(plan))
        for user, seen in (
            (office.viewer, own * (others + 1)),
            (UserFactory.create(is_superuser=True), None),
        ):
            with CaptureQueriesContext(connection) as queries:
                assert listed(user, "", limit=20)["total"] == (seen or Approval.objects.count())
            (page,) = (each["sql"] for each in queries if " LIMIT 20" in each["sql"])
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + page)
            # Of many workspaces a page is read in its order, and nothing is sorted.
            assert rows_read(cursor.fetchone()[0][0]["Plan"]) <= own, page[:300]


def test_history_holds_what_was_decided_for_all_members(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    client_of(office.approver).post(
        f"{URL}/{approval.pk}/respond", {"approved": False, "comments": "no"}, format="json"
    )
    ApprovalFactory.create(workspace=office.workspace)
    assert listed(office.viewer, "")["total"] == 2
    (record,) = listed(office.viewer, "", status="approved,rejected")["approvals"]
    assert (record["status"], record["approved"], record["approver"], record["comments"]) == (
        "rejected",
        False,
        office.approver.username,
        "no",
    )
    assert record["respondedAt"] == record["closedAt"] is not None
    assert listed(office.stranger, "")["total"] == 0


def test_one_approval_tells_who_may_decide_and_what_follows(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    own = listed(office.approver, f"/{approval.pk}")
    assert own["mayDecide"] is True
    assert own["follows"] == {
        "approve": [{"blockId": "ask", "name": "Step ask", "maybe": False}],
        "reject": [],
        "onReject": "fail",
    }
    assert listed(office.viewer, f"/{approval.pk}")["mayDecide"] is False
    assert client_of(office.stranger).get(f"{URL}/{approval.pk}").status_code == 404


def test_what_follows_names_branches_and_those_who_hear_of_a_failure(office: Office) -> None:
    definition = {
        "name": "Refund",
        "blocks": [
            {
                "blockId": "form",
                "humanInLoop": {"type": "input", "onReject": "fail"},
                "conditions": {
                    "type": "if",
                    "branches": [
                        {"condition": "blocks.form.output.amount > 10.0", "nextBlocks": ["pay"]},
                        {"condition": "default", "nextBlocks": ["close"]},
                    ],
                },
            },
            {"blockId": "pay", "name": "Pay back", "agentId": "builtin.echo"},
            {"blockId": "close", "agentId": "builtin.echo"},
            {"blockId": "sorry", "agentId": "builtin.echo", "dependencies": ["form"], "runOn": "failure"},
            {"blockId": "log", "agentId": "builtin.echo", "dependencies": ["form"], "runOn": "always"},
        ],
    }
    execution = ExecutionFactory.create(
        workspace=office.workspace, definition=definition, waiting_human=["form"]
    )
    approval = ApprovalFactory.create(execution=execution, block_id="form", kind="input")
    follows = selectors.what_follows(selectors.find(office.approver, approval.pk))
    assert [(step.name, step.maybe) for step in follows.approve] == [
        ("Pay back", True),
        ("close", True),
        ("log", False),
    ]
    assert [step.name for step in follows.reject] == ["sorry", "log"]


def test_what_follows_a_decision_that_branches_look_at_is_known_beforehand(office: Office) -> None:
    definition = {
        "name": "Refund",
        "blocks": [
            {
                "blockId": "decide",
                "humanInLoop": {"type": "approval", "onReject": "continue"},
                "conditions": {
                    "type": "if",
                    "branches": [
                        {"condition": "blocks.decide.output.approved", "nextBlocks": ["pay"]},
                        {"condition": "default", "nextBlocks": ["refuse"]},
                    ],
                },
            },
            {"blockId": "pay", "agentId": "builtin.echo"},
            {"blockId": "refuse", "agentId": "builtin.echo"},
        ],
    }
    execution = ExecutionFactory.create(
        workspace=office.workspace, definition=definition, waiting_human=["decide"]
    )
    approval = ApprovalFactory.create(execution=execution, block_id="decide")
    follows = selectors.what_follows(selectors.find(office.approver, approval.pk))
    assert [(step.name, step.maybe) for step in follows.approve] == [("pay", False)]
    assert [(step.name, step.maybe) for step in follows.reject] == [("refuse", False)]


def test_an_execution_knows_what_people_were_asked(office: Office) -> None:
    execution = asking_execution(office.workspace, "one", "two")
    one = ApprovalFactory.create(execution=execution, block_id="one")
    ApprovalFactory.create(execution=execution, block_id="two")
    client_of(office.approver).post(f"{URL}/{one.pk}/respond", {"approved": True}, format="json")
    told = selectors.history(execution_id=execution.pk)
    assert [(each.approval_id == one.pk, each.status, each.approved, each.approver) for each in told] == [
        (True, "approved", True, office.approver.username),
        (False, "pending", None, ""),
    ]
    only = selectors.history(execution_id=execution.pk, block_pks=[one.block_execution_id])
    assert [each.block_pk for each in only] == [one.block_execution_id]


def test_the_timer_is_due_when_the_time_to_respond_is_over(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace, timeout_ms=3_600_000)
    timer = approval.execution.timers.get(kind="approval_timeout")
    assert timer.subject == approval.pk
    assert timedelta(0) <= timer.due_at - approval.respond_by < timedelta(seconds=1)
    assert approval.respond_by - approval.requested_at == timedelta(hours=1)
    assert not Approval.objects.filter(respond_by__lt=Now()).exists()


def test_the_hash_stands_for_everything_that_is_seen() -> None:
    from approvals.services.gate import content_hash

    base: dict[str, Any] = {
        "request": {"a": 1, "b": 2},
        "input_schema": {},
        "version_hash": "v",
        "attempt": 1,
    }
    same = content_hash(**base | {"request": {"b": 2, "a": 1}})
    assert content_hash(**base) == same
    others: list[dict[str, Any]] = [
        {"request": {"a": 1, "b": 3}},
        {"input_schema": {"type": "object"}},
        {"version_hash": "w"},
        {"attempt": 2},
    ]
    assert len({same, *(content_hash(**base | other) for other in others)}) == 5
