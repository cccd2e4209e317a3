"""Concurrency keys: at most so many executions, or blocks, of a workspace work for one key."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from agentflow.errors import InvalidInput
from agentflow.governance.models import User
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check
from approvals.models import Approval
from approvals.services import responding
from executions.engine.walker import walk
from executions.explain import explain
from executions.models import BlockExecution, Execution, Place, Timer
from executions.services import control, reconcile, repairing, restarting
from executions.services.restarting import NoPlace, RestartRequest
from tests.factories.executions import statuses
from tests.waiting import PATIENCE_S

from .conftest import Start, answer, block, claim, drain, finish, lose_worker, row, template

PER_CUSTOMER: JSONObject = {"key": "customer:${input.customer}", "limit": 1}


def asking(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    return block(block_id, *dependencies, humanInLoop={"type": "approval"}, **fields)


def one_at_a_time(**more: Any) -> JSONObject:
    return template(asking("a"), concurrency={**PER_CUSTOMER, **more})


def begin(*executions: Execution) -> None:
    """Their first messages: one to take a place, one to begin."""
    for execution in executions:
        walk(execution.pk)
        drain(execution)


def go_on(*executions: Execution) -> None:
    """What the clock and the workers do for those whose timers are due."""
    due = Timer.objects.filter(due_at__lte=Now()).values_list("execution_id", flat=True)
    for execution in executions:
        if execution.pk in set(due):
            reconcile.look(execution.pk)
            begin(execution)
        execution.refresh_from_db()


def reason(execution: Execution) -> Any:
    execution.refresh_from_db()
    return explain(execution)["reason"]


def test_an_execution_over_the_limit_stays_pending_and_says_why(start: Start, author: User) -> None:
    first, second, third = (start(one_at_a_time(), input={"customer": 7}) for _ in range(3))
    other = start(one_at_a_time(), input={"customer": 8})
    begin(first, second, third, other)
    assert [e.status for e in (first, second, third, other)] == ["running", "pending", "pending", "running"]
    why = reason(third)
    assert (why["code"], why["key"], why["limit"]) == ("waiting_concurrency", "customer:7", 1)
    assert why["waitsFor"] == [str(first.pk), str(second.pk)]
    answer(first, "a", author)
    go_on(second, third)
    assert [e.status for e in (first, second, third)] == ["completed", "running", "pending"]


def test_a_higher_priority_is_served_first_and_equals_in_their_order(start: Start, author: User) -> None:
    runs = [start(one_at_a_time(priority=0), input={"customer": 7})]
    begin(*runs)
    runs += [start(one_at_a_time(priority=p), input={"customer": 7}) for p in (0, 0, 5)]
    begin(*runs)
    begun = [runs[0]]
    for _ in range(3):
        answer(begun[-1], "a", author)
        go_on(*runs)
        begun += [run for run in runs if run.status == "running"]
    assert [runs.index(run) for run in begun] == [0, 3, 1, 2]


def test_each_execution_is_measured_by_the_limit_of_its_own_version(start: Start) -> None:
    runs = [start(one_at_a_time(limit=limit), input={"customer": 7}) for limit in (1, 1, 3)]
    begin(*runs)
    assert [e.status for e in runs] == ["running", "pending", "running"]


def test_a_paused_execution_keeps_its_place_and_one_that_waits_lets_others_pass(
    start: Start, author: User
) -> None:
    first, second, third = (start(one_at_a_time(), input={"customer": 7}) for _ in range(3))
    begin(first, second, third)
    control.pause(execution_id=first.pk, by=author)
    control.pause(execution_id=second.pk, by=author)
    go_on(third)
    assert third.status == "pending"
    control.resume(execution_id=second.pk, by=author)
    assert reason(second)["code"] == "waiting_concurrency"  # it does not slip in with the resume
    control.pause(execution_id=second.pk, by=author)
    control.cancel(execution_id=first.pk, by=author)
    go_on(first, third)
    assert [first.status, third.status] == ["cancelled", "running"]
    answer(third, "a", author)
    control.resume(execution_id=second.pk, by=author)
    go_on(second)
    assert second.status == "running"


def test_an_input_that_gives_no_key_is_refused(start: Start) -> None:
    given: list[JSONObject] = [{}, {"customer": None}, {"customer": []}, {"customer": "x" * 300}]
    for input in given:
        with pytest.raises(InvalidInput) as refused:
            start(template(block("a"), concurrency={"key": "${input.customer}", "limit": 1}), input=input)
        assert refused.value.issues[0]["pointer"] == "/input"
        assert refused.value.issues[0]["code"] == "no_concurrency_key"
    assert not Execution.objects.exists()


def test_a_restart_takes_a_place_or_is_refused(start: Start, author: User) -> None:
    first, second = (start(one_at_a_time(), input={"customer": 7}) for _ in range(2))
    drain(first)
    control.cancel(execution_id=first.pk, by=author)
    begin(second)
    with pytest.raises(NoPlace):
        restarting.restart(execution_id=first.pk, by=author, request=RestartRequest())
    first.refresh_from_db()
    assert (first.status, first.epoch) == ("cancelled", 1)
    control.cancel(execution_id=second.pk, by=author)
    restarting.restart(execution_id=first.pk, by=author, request=RestartRequest())
    answer(first, "a", author)
    assert first.status == "completed"
    assert not Place.objects.exists()


# -- blocks -----------------------------------------------------------------------------


def critical(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    return block(block_id, *dependencies, concurrency=PER_CUSTOMER, **fields)


def test_a_block_over_the_limit_waits_as_a_row_until_the_holder_is_settled(start: Start) -> None:
    first, second = (start(template(critical("a")), input={"customer": 7}) for _ in range(2))
    held = claim(first)
    drain(second)
    assert statuses(second) == {"a": "waiting_external"}
    found = explain(second)["blocks"][0]["reason"]
    assert (found["code"], found["key"], found["limit"]) == ("waiting_concurrency", "customer:7", 1)
    assert found["waitsFor"] == [str(first.pk)]
    finish(first, held, output={})
    go_on(second)
    assert second.status == "completed"
    assert not Place.objects.exists()


def test_a_waiting_block_holds_its_siblings_up_not_at_all(start: Start) -> None:
    first, second = (start(template(critical("a"), block("b")), input={"customer": 7}) for _ in range(2))
    held = claim(first)
    drain(second)
    assert statuses(second) == {"a": "waiting_external", "b": "completed"}
    finish(first, held, output={})


def test_a_place_outlives_its_worker_and_a_failed_attempt(start: Start) -> None:
    """The holder keeps it until it is settled: through the rescue, the backoff and the next attempt."""
    policy = {"initialDelay": 60_000}
    first = start(
        template(critical("a", agentId="test.odd", retryPolicy=policy)), input={"customer": 7, "n": 2}
    )
    second = start(template(critical("a")), input={"customer": 7})
    claim(first)
    lose_worker(first, "a")
    reconcile.look(first.pk)
    drain(first)  # the next attempt fails, and is put off
    assert row(first, "a").available_at is not None
    drain(second)
    go_on(second)
    assert statuses(second) == {"a": "waiting_external"}


def test_a_failed_block_gives_its_place_up_and_takes_another_when_it_is_tried_again(
    start: Start, author: User
) -> None:
    policy = {"maxRetries": 0, "onExhausted": "fail"}
    failing = critical("a", agentId="test.odd", retryPolicy=policy, onError="continue")
    first = start(template(failing, asking("b")), input={"customer": 7, "n": 2})
    second = start(template(critical("a")), input={"customer": 7})
    drain(first)
    held = claim(second)
    repairing.retry(execution_id=first.pk, block_pk=row(first, "a").pk, by=author, reason="again")
    assert statuses(first)["a"] == "waiting_external"
    finish(second, held, output={})
    go_on(first)
    assert statuses(first)["a"] == "failed"  # it was tried


@pytest.mark.parametrize("how", ["cancel", "skip", "pause"])
def test_who_leaves_the_queue_lets_the_next_one_in(start: Start, author: User, how: str) -> None:
    first, second, third = (start(template(critical("a")), input={"customer": 7}) for _ in range(3))
    held = claim(first)
    for execution in (second, third):
        drain(execution)
    finish(first, held, output={})  # the second is told, but has not come yet
    if how == "skip":
        repairing.skip(execution_id=second.pk, block_pk=row(second, "a").pk, by=author, reason="no")
    else:
        getattr(control, how)(execution_id=second.pk, by=author)
    go_on(third)
    assert third.status == "completed"


def test_each_item_takes_a_place(start: Start) -> None:
    each = block(
        "a", forEach={"items": "input.items"}, concurrency={"key": "${item.to}", "limit": 2}, input={}
    )
    items = [{"to": to} for to in ("x", "x", "x", "y", "x")]
    execution = start(template(each), input={"items": items})
    held = claim(execution)
    rows = BlockExecution.objects.filter(execution=execution, iteration__gt=0).order_by("iteration")
    at_work = [r.status for r in rows]
    assert at_work == ["running", "ready", "waiting_external", "ready", "waiting_external"]
    finish(execution, held, output={})
    drain(execution)
    assert execution.status == "completed"
    assert not Place.objects.exists()


def test_an_item_that_a_person_lets_through_waits_for_its_place(start: Start, author: User) -> None:
    each = asking("a", forEach={"items": "input.items"}, concurrency={"key": "${item}", "limit": 1}, input={})
    execution = start(template(each), input={"items": ["x", "x"]})
    drain(execution)
    for asked in Approval.objects.filter(execution=execution):
        responding.respond(approval_id=asked.pk, by=author, approved=True)
    rows = BlockExecution.objects.filter(execution=execution, iteration__gt=0).order_by("iteration")
    assert sorted(r.status for r in rows) == ["ready", "waiting_external"]
    drain(execution)
    assert execution.status == "completed"


def test_a_key_that_is_none_asks_a_person(start: Start, author: User) -> None:
    execution = start(template(block("a", concurrency={"key": "${input.customer}", "limit": 1})))
    drain(execution)
    assert statuses(execution) == {"a": "waiting_human"}
    answer(execution, "a", author, response={"action": "skip"})
    assert execution.status == "completed"


def test_a_sub_workflow_works_within_the_place_of_the_block_that_started_it(start: Start) -> None:
    child = start(template(critical("inner")), input={"customer": 7})
    control.cancel(execution_id=child.pk, by=None)
    version = child.template_version
    calling = {
        "blockId": "a",
        "toolType": "UseCase",
        "configuration": {"templateId": str(version.template_id)},
        "input": {"customer": "${input.customer}"},
        "concurrency": PER_CUSTOMER,
    }
    execution = start(template(calling), input={"customer": 7})
    drain(execution)
    assert execution.status == "completed"


def test_a_simulated_run_needs_no_place(start: Start) -> None:
    start(one_at_a_time(), input={"customer": 7})
    definition = template(critical("a"), concurrency=PER_CUSTOMER)
    simulated = start(definition, input={}, simulation={"outputs": {}})
    drain(simulated)
    assert simulated.status == "completed"
    assert Place.objects.count() == 1


def test_never_more_than_the_limit_are_at_work_however_many_come_at_once(start: Start) -> None:
    definition = template(
        block("a"),
        block("b", "a", concurrency={"key": "k", "limit": 2}),
        block("c", "b", concurrency={"key": "l", "limit": 1}),
        concurrency={"key": "${input.key}", "limit": 3},
    )
    runs = [start(definition, input={"key": f"k{n % 2}"}) for n in range(16)]
    over: list[tuple[str, int]] = []
    stop = threading.Event()

    def observe() -> None:
        while not stop.wait(0.005):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT key, count(*) FROM executions_place p"
                    " JOIN executions_execution e ON e.id = p.execution_id"
                    " LEFT JOIN executions_blockexecution b ON b.id = p.block_id"
                    " WHERE held AND e.completed_at IS NULL AND (b.id IS NULL OR b.completed_at IS NULL)"
                    " GROUP BY key, places HAVING count(*) > places"
                )
                over.extend(cursor.fetchall())
        connection.close()

    def work() -> None:
        for _ in range(60):
            for run in runs:
                reconcile.look(run.pk)
                walk(run.pk)
            if not Execution.objects.filter(completed_at=None).exists():
                break
        connection.close()

    watching = threading.Thread(target=observe)
    workers = [threading.Thread(target=work) for _ in range(4)]
    for thread in (watching, *workers):
        thread.start()
    for thread in workers:
        thread.join(PATIENCE_S)
    stop.set()
    watching.join(PATIENCE_S)
    assert not over
    assert set(Execution.objects.values_list("status", flat=True)) == {"completed"}
    assert not Place.objects.exists()


@pytest.mark.parametrize(
    ("where", "concurrency", "pointer", "code"),
    [
        ("block", {"key": "", "limit": 1}, "/blocks/0/concurrency/key", "too_short"),
        ("block", {"key": "x" * 201, "limit": 1}, "/blocks/0/concurrency/key", "too_long"),
        ("block", {"key": 5, "limit": 1}, "/blocks/0/concurrency/key", "wrong_type"),
        ("block", {"key": "k", "limit": 0}, "/blocks/0/concurrency/limit", "out_of_range"),
        ("block", {"key": "k", "limit": 10_001}, "/blocks/0/concurrency/limit", "out_of_range"),
        ("block", {"key": "k"}, "/blocks/0/concurrency/limit", "missing_field"),
        ("block", {"key": "${item}", "limit": 1}, "/blocks/0/concurrency/key", "unknown_name"),
        ("block", {"key": "${blocks.a.output}", "limit": 1}, "/blocks/0/concurrency/key", "not_upstream"),
        ("noop", {"key": "k", "limit": 1}, "/blocks/0/concurrency", "contradicting_fields"),
        ("run", {"key": "${blocks.a.output}", "limit": 1}, "/globalSettings/concurrency/key", "unknown_name"),
        ("run", {"key": "${", "limit": 1}, "/globalSettings/concurrency/key", "syntax_error"),
    ],
)
def test_a_malformed_key_is_named(where: str, concurrency: JSONObject, pointer: str, code: str) -> None:
    if where == "run":
        body = template(block("a"), concurrency=concurrency)
    elif where == "block":
        body = template(block("a", concurrency=concurrency))
    else:
        body = template({"blockId": "a", "concurrency": concurrency})
    try:
        found = [issue.as_json() for issue in check(parse(body))]
    except InvalidInput as refused:
        found = refused.issues
    assert [(issue["pointer"], issue["code"]) for issue in found] == [(pointer, code)]
