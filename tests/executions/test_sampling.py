"""Of many items some are inspected, drawn by chance; they answer for all, or for none."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from agentflow.workflow.definition import parse
from agentflow.workflow.validation import check as issues_of
from approvals.models import Approval, Sample
from approvals.services import responding
from executions.models import Execution
from executions.services import ticking
from tests.factories.governance import client_of
from tests.history import check

from .conftest import Start, block, drain, row, template


def many(
    items: str = "[1, 2, 3, 4, 5, 6]", *, kind: str = "review", inspect: int = 2, **fields: Any
) -> JSONObject:
    human = {"type": kind, "sample": {"inspect": inspect}, "onReject": "skip"}
    return template(
        block("each", forEach={"items": items}, humanInLoop=human, **fields), block("end", "each")
    )


def questions(execution: Execution, **which: Any) -> list[Approval]:
    rows = Approval.objects.filter(execution=execution, kind__in=("approval", "review"), **which)
    return list(rows.order_by("block_execution__iteration").select_related("block_execution"))


def decide(approval: Approval, by: User, **decision: Any) -> None:
    decision.setdefault("approved", True)
    responding.respond(approval_id=approval.pk, by=by, **decision)


def redrawn(execution: Execution, *chosen: int) -> None:
    """As if chance had drawn these."""
    Sample.objects.filter(block=row(execution, "each")).update(chosen=list(chosen))
    for approval in questions(execution, status="pending"):
        approval.inspected = approval.block_execution.iteration in chosen
        approval.save(update_fields=["inspected"])


@pytest.mark.parametrize("kind", ["review", "approval"])
def test_those_inspected_pass_and_the_rest_is_released_each_with_its_record(
    run: Start, author: User, kind: str
) -> None:
    execution = run(many(kind=kind))
    first, second = questions(execution, inspected=True)
    rest = questions(execution, inspected=False)
    assert len(rest) == 4
    client = client_of(author)
    shown = client.get(f"/api/v1/approvals/{first.pk}").json()
    assert (shown["sample"], shown["inspected"]) == ({"inspect": 2, "of": 6, "state": "open"}, True)
    decide(first, author)
    assert len(questions(execution, status="pending")) == 5, "one of two is not enough"
    decide(second, author)
    drain(execution)
    assert execution.status == "completed"
    output = row(execution, "end").output
    assert output is not None
    assert len(output["each"]) == 6
    for approval in rest:
        shown = client.get(f"/api/v1/approvals/{approval.pk}").json()
        assert (shown["status"], shown["decision"], shown["releasedBySample"]) == (
            "approved",
            "approve",
            True,
        )
        assert shown["comments"] == "Released by sample: 2 of 6 were inspected."
        assert shown["votes"] == [], "nobody has looked at it"
        entry = AuditEntry.objects.get(target_id=str(approval.pk))
        assert entry.action == "approval.respond"
        assert entry.detail["releasedBySample"] == {"inspected": 2, "of": 6}
    assert check() == []


@pytest.mark.parametrize(
    "decision",
    [{"approved": False}, {"approved": True, "response": {"edited": {"other": True}}}],
    ids=["rejected", "changed"],
)
def test_one_that_does_not_pass_leaves_each_of_the_rest_to_a_person(
    run: Start, author: User, decision: JSONObject
) -> None:
    execution = run(many())
    first, second = questions(execution, inspected=True)
    decide(first, author, **decision)
    decide(second, author)
    rest = questions(execution, status="pending")
    assert len(rest) == 4
    assert {approval.sample.state for approval in rest if approval.sample} == {"failed"}
    for approval in rest:
        decide(approval, author)
    drain(execution)
    assert execution.status == "completed"
    assert not Approval.objects.filter(released=True).exists()
    assert check() == []


def test_what_is_asked_after_the_others_passed_is_released_by_the_clock(run: Start, author: User) -> None:
    odd: JSONObject = {"agentId": "test.odd", "input": {"n": "${item}"}, "retryPolicy": {"maxRetries": 0}}
    execution = run(many("[1, 3, 4]", inspect=1, **odd))
    redrawn(execution, 1)
    decide(questions(execution)[0], author)
    assert questions(execution)[1].released
    # The third could not be done, and a person gives it another try, by hand.
    stuck = Approval.objects.get(execution=execution, kind="fix")
    row(execution, "each")  # the whole is still open
    stuck.block_execution.item = 5
    stuck.block_execution.save(update_fields=["item"])
    decide(stuck, author, response={"action": "retry"})
    drain(execution)
    (late,) = questions(execution, status="pending")
    assert not late.inspected
    ticking.tick()
    late.refresh_from_db()
    assert (late.status, late.released) == ("approved", True)
    drain(execution)
    assert execution.status == "completed"
    assert check() == []


def test_another_is_drawn_for_one_that_ended_before_it_was_asked(run: Start, author: User) -> None:
    odd: JSONObject = {
        "agentId": "test.odd",
        "input": {"n": "${item}"},
        "retryPolicy": {"maxRetries": 0},
        "onError": "continue",
    }
    execution = run(many("[1, 4, 3]", inspect=2, **odd))
    redrawn(execution, 1, 2)
    decide(Approval.objects.get(execution=execution, kind="fix"), author, approved=False)
    first, third = questions(execution)
    decide(first, author)
    third.refresh_from_db()
    assert (third.status, third.inspected) == ("pending", True)
    decide(third, author)
    assert Sample.objects.get().state == "passed"


def test_a_sample_is_refused_where_it_makes_no_sense() -> None:
    cases: list[tuple[JSONObject, str]] = [
        ({}, "sample_without_items"),
        ({"forEach": {"items": "[1]", "maxConcurrency": 2}}, "sample_of_waiting_items"),
    ]
    for fields, code in cases:
        asks: JSONObject = {"humanInLoop": {"sample": {"inspect": 2}}}
        found = issues_of(parse(template(block("each", **fields, **asks))))
        assert [(one.code, one.pointer) for one in found] == [(code, "/blocks/0/humanInLoop/sample")]
    asks = {"humanInLoop": {"type": "input", "sample": {"inspect": 2}}}
    found = issues_of(parse(template(block("each", forEach={"items": "[1]"}, **asks))))
    assert "contradicting_fields" in {one.code for one in found}
