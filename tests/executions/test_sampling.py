"""Of many items some are inspected, drawn by chance; they answer for all, or for none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check as issues_of
from approvals.models import Approval, Sample
from approvals.services import responding
from executions.models import Execution
from executions.services import control, starting, ticking
from tests.factories.approvals import let_time_pass
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


@pytest.fixture
def again(author: User, version_of: Any) -> Callable[..., list[Execution]]:
    """So many runs of one version that asks about one in three."""
    human = {"type": "approval", "sample": {"inspect": 1, "of": 3}, "onReject": "skip", "onTimeout": "wait"}
    version = version_of(template(block("pay", humanInLoop=human), block("end", "pay")))

    def make(count: int, **options: Any) -> list[Execution]:
        made = [starting.start(version=version, by=author, input={}, **options) for _ in range(count)]
        for execution in made:
            drain(execution)
        return made

    return make


def of_runs(executions: list[Execution], **which: Any) -> list[Approval]:
    return list(Approval.objects.filter(execution__in=executions, **which).order_by("sample_place"))


def test_of_successive_questions_of_a_block_some_answer_for_the_rest(
    again: Callable[..., list[Execution]], author: User
) -> None:
    early = again(2)
    first = Sample.objects.get()
    assert (first.asked, first.of, len(first.chosen)) == (2, 3, 1)
    third = again(1)
    (drawn,) = of_runs([*early, *third], inspected=True)
    decide(drawn, author)
    ticking.tick()
    rest = of_runs([*early, *third], inspected=False)
    assert [(each.status, each.released, each.responder) for each in rest] == [("approved", True, author)] * 2
    for execution in (*early, *third):
        drain(execution)
        assert execution.status == "completed"
    entry = AuditEntry.objects.get(target_id=str(rest[0].pk))
    assert entry.detail["releasedBySample"] == {"inspected": 1, "of": 3}
    # The next three are a sample of their own, and one that is refused leaves the others to people.
    later = again(2)
    second = Sample.objects.exclude(pk=first.pk).get()
    Sample.objects.filter(pk=second.pk).update(chosen=[1])
    Approval.objects.filter(sample=second).update(inspected=False)
    Approval.objects.filter(sample=second, sample_place=1).update(inspected=True)
    decide(of_runs(later)[0], author, approved=False)
    later += again(1)
    ticking.tick()
    assert [each.status for each in of_runs(later)] == ["rejected", "pending", "pending"]
    assert check() == []


def test_the_rest_whose_time_was_over_and_that_waited_on_is_released_too(
    again: Callable[..., list[Execution]], author: User
) -> None:
    executions = again(3)
    rest = of_runs(executions, inspected=False)
    for approval in rest:
        let_time_pass(approval)
    ticking.tick()
    assert Event.objects.filter(type="approval_overdue").count() == 2
    (drawn,) = of_runs(executions, inspected=True)
    decide(drawn, author)
    ticking.tick()
    assert [each.released for each in of_runs(executions, inspected=False)] == [True, True]
    assert check() == []


def test_for_one_that_was_withdrawn_another_is_drawn_and_what_is_simulated_is_in_no_sample(
    again: Callable[..., list[Execution]], author: User
) -> None:
    (simulated,) = again(1, simulation={"scale": 0})
    assert [each.sample for each in of_runs([simulated])] in ([], [None])
    runs = again(3)
    (drawn,) = of_runs(runs, inspected=True)
    control.cancel(execution_id=drawn.execution_id, by=author)
    (other,) = of_runs(runs, inspected=True, status="pending")
    assert Sample.objects.get().chosen == [other.sample_place]
    decide(other, author)
    ticking.tick()
    assert sorted(each.status for each in of_runs(runs)) == ["approved", "approved", "cancelled"]
    assert check() == []


def test_a_sample_is_refused_where_it_makes_no_sense() -> None:
    cases: list[tuple[JSONObject, str]] = [
        ({}, "sample_without_items"),
        ({"forEach": {"items": "[1]", "maxConcurrency": 2}}, "sample_of_waiting_items"),
    ]
    for fields, code in cases:
        asks: JSONObject = {"humanInLoop": {"sample": {"inspect": 2}}}
        found = issues_of(parse(template(block("each", **fields, **asks))))
        assert [(one.code, one.pointer) for one in found] == [(code, "/blocks/0/humanInLoop/sample")]
    for sample, each, code in (
        ({"inspect": 2, "of": 2}, {}, "sample_of_all"),
        ({"inspect": 1, "of": 2}, {"forEach": {"items": "[1]"}}, "contradicting_fields"),
    ):
        found = issues_of(parse(template(block("each", **each, humanInLoop={"sample": sample}))))
        assert [one.code for one in found] == [code]
    asks = {"humanInLoop": {"type": "input", "sample": {"inspect": 2}}}
    found = issues_of(parse(template(block("each", forEach={"items": "[1]"}, **asks))))
    assert "contradicting_fields" in {one.code for one in found}
