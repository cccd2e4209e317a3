"""Compensation: what completed blocks did is undone, the last first, before a run ends without success."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from agentflow.errors import Conflict
from agentflow.governance.models import User
from agentflow.lifecycle import IllegalTransition
from agentflow.types import JSONObject
from approvals.models import Approval
from executions import explain, planning, snapshot
from executions.engine.ahead import Ahead
from executions.engine.judging import Change
from executions.engine.turns import Wanted, take_turn
from executions.engine.walker import walk
from executions.models import Execution
from executions.services import control, forking, marking, reconcile, repairing, restarting
from executions.services.forking import ForkRequest
from executions.services.restarting import RestartRequest
from executions.states import BlockStatus
from templates_app.models import TemplateVersion
from tests import builtins
from tests.history import check
from tests.waiting import PATIENCE_S

from .conftest import Start, answer, block, claim, drain, facts, finish, lose_worker, make_due, row, template


def undo(block_id: str, agent: str = "test.record", **fields: Any) -> JSONObject:
    """Remembers its name; see `builtins.calls`."""
    return {"agentId": agent, "configuration": {"name": f"undo {block_id}"}, **fields}


def done(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    """A block with a compensation."""
    return block(block_id, *dependencies, compensation=undo(block_id), **fields)


def fails(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    return block(
        block_id,
        *dependencies,
        **({"agentId": "test.crash", "retryPolicy": {"maxRetries": 0, "onExhausted": "fail"}} | fields),
    )


def statuses(execution: Execution) -> dict[str, str]:
    return dict(execution.blocks.filter(epoch=execution.epoch, iteration=0).values_list("block_id", "status"))


def undone() -> list[str]:
    return [name.removeprefix("undo ") for name in builtins.calls if str(name).startswith("undo ")]


@pytest.fixture(autouse=True)
def histories(transactional_db: None) -> Iterator[None]:
    """Whatever a test did, what is recorded of it could have come of a correct engine."""
    yield
    runs = list(Execution.objects.filter(forked_from=None).values_list("pk", flat=True))
    found = [violation for violation in check(runs) if " ended at " not in violation.what]
    assert found == []


# -- when, what and in which order -------------------------------------------------


def test_a_failed_run_undoes_what_completed_the_last_first(run: Start) -> None:
    execution = run(template(done("a"), block("plain", "a"), done("b", "plain"), fails("c", "b")))
    assert (execution.status, execution.compensation) == ("failed", "done")
    assert undone() == ["b", "a"]
    assert statuses(execution) == {
        "a": "completed",
        "plain": "completed",
        "b": "completed",
        "c": "failed",
        "a:compensation": "completed",
        "b:compensation": "completed",
    }
    assert (execution.error or {})["blocks"] == ["c"]


def test_a_completed_run_compensates_nothing_and_has_no_rows_for_it(run: Start) -> None:
    execution = run(template(done("a"), done("b", "a")))
    assert (execution.status, execution.compensation) == ("completed", "")
    assert statuses(execution) == {"a": "completed", "b": "completed"}


def test_what_failed_or_was_skipped_is_not_compensated(run: Start) -> None:
    execution = run(template(done("a"), fails("b", "a", compensation=undo("b")), done("c", "b")))
    assert execution.status == "failed"
    assert undone() == ["a"]


def test_a_failure_with_nothing_to_undo_ends_at_once(run: Start) -> None:
    execution = run(template(fails("a", compensation=undo("a"))))
    assert (execution.status, execution.compensation) == ("failed", "")


def test_a_caught_failure_compensates_nothing(run: Start) -> None:
    execution = run(template(done("a"), fails("b", "a"), block("mend", "b", runOn="failure")))
    assert (execution.status, undone()) == ("completed", [])


def test_end_failed_compensates_and_end_completed_does_not(run: Start) -> None:
    failed = run(template(done("a"), block("stop", "a", end="failed"), block("never", "stop")))
    assert (failed.status, failed.compensation, undone()) == ("failed", "done", ["a"])
    builtins.calls.clear()
    completed = run(template(done("a"), block("stop", "a", end="completed"), block("never", "stop")))
    assert (completed.status, completed.compensation, undone()) == ("completed", "", [])


def test_a_refusal_compensates(run: Start, author: User) -> None:
    execution = run(template(done("a"), block("b", "a", humanInLoop={"type": "approval"})))
    answer(execution, "b", author, approved=False)
    assert (execution.status, undone()) == ("failed", ["a"])


def test_the_deadline_compensates_and_does_not_stop_the_compensation(run: Start) -> None:
    asked = block("b", "a", humanInLoop={"type": "approval"})
    execution = run(template(done("a"), asked, timeout=60_000))
    Execution.objects.filter(pk=execution.pk).update(deadline_at=execution.created_at)
    reconcile.look(execution.pk)
    reconcile.look(execution.pk)
    drain(execution)
    assert (execution.status, (execution.error or {})["code"], undone()) == ("cancelled", "deadline", ["a"])


def test_a_compensation_gets_the_blocks_output_or_its_own_mapping(run: Start) -> None:
    mapped = undo(
        "b", "builtin.echo", input={"undo": "${blocks['b'].output.n}", "first": "${blocks.a.output}"}
    )
    execution = run(
        template(
            block("a", input={"n": 1}, compensation=undo("a", "builtin.echo")),
            block("b", "a", input={"n": 2}, compensation=mapped),
            fails("c", "b"),
        )
    )
    assert row(execution, "a:compensation").output == {"a": {"n": 1}}
    assert row(execution, "b:compensation").output == {"undo": 2, "first": {"n": 1}}


def test_a_for_each_has_one_compensation_that_sees_the_whole_list(run: Start) -> None:
    each = block("each", forEach={"items": "input.list"}, input={"n": "${item}"})
    each["compensation"] = undo("each", "builtin.echo")
    execution = run(template(each, fails("b", "each")), input={"list": [1, 2, 3]})
    assert row(execution, "each:compensation").output == {"each": [{"n": 1}, {"n": 2}, {"n": 3}]}


def test_independent_compensations_run_side_by_side_within_the_places(start: Start) -> None:
    slow = [block(name, compensation=undo(name, "builtin.echo")) for name in ("x", "y", "z")]
    last = block("last", "x", "y", "z", compensation=undo("last", "builtin.echo"))
    execution = start(template(*slow, last, fails("f", "last"), maxParallelBlocks=2))
    while not Execution.objects.filter(pk=execution.pk, compensation="running").exists():
        _step(execution)
    held = claim(execution)
    assert facts(execution).plan[held.idx].block_id == "last:compensation"
    assert not take_turn(facts(execution), uuid4(), [], want=Wanted(5, all_fast=True)).claims
    finish(execution, held, None)
    assert len(take_turn(facts(execution), uuid4(), [], want=1).claims) == 1
    assert len(take_turn(facts(execution), uuid4(), [], want=1).claims) == 1
    assert not take_turn(facts(execution), uuid4(), [], want=1).claims  # both places are taken


def _step(execution: Execution) -> None:
    """Settle one block as its agent would; `f` fails."""
    held = claim(execution)
    if facts(execution).plan[held.idx].block_id == "f":
        from agentflow.agents.calls import Failed
        from agentflow.workflow.failures import Failure, FailureKind
        from executions.engine.judging import judge

        failure = Failed(Failure(FailureKind.CRITICAL, "broken", "It broke."))
        change = judge(facts(execution).plan[held.idx], held, failure, scope=dict)
        take_turn(facts(execution), uuid4(), [change], want=0)
    else:
        finish(execution, held, {})


# -- cancel ------------------------------------------------------------------------


def waiting(run: Start, *more: JSONObject) -> Execution:
    """A run whose first blocks are done, and whose last waits for a person."""
    asked = block("asked", "b", humanInLoop={"type": "approval"}, compensation=undo("asked"))
    return run(template(done("a"), done("b", "a"), asked, *more))


def test_a_plain_cancel_compensates_nothing(run: Start, author: User) -> None:
    execution = waiting(run)
    control.cancel(execution_id=execution.pk, by=author)
    drain(execution)
    assert (execution.status, execution.compensation, undone()) == ("cancelled", "", [])


def test_a_cancel_with_compensate_undoes_and_then_ends_as_cancelled(run: Start, author: User) -> None:
    execution = waiting(run)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    execution.refresh_from_db()
    assert (execution.status, execution.compensation) == ("cancelling", "running")
    assert explain.explain(execution)["reason"]["code"] == "compensating"
    assert planning.execution_plan(execution)["parallelGroups"] == [["b:compensation"], ["a:compensation"]]
    assert snapshot.detail(execution, ["compensation"]) == {"compensation": "running"}
    control.cancel(execution_id=execution.pk, by=author, compensate=True)  # again: changes nothing
    drain(execution)
    assert (execution.status, execution.compensation, undone()) == ("cancelled", "done", ["b", "a"])
    control.cancel(execution_id=execution.pk, by=author, compensate=True)  # and again


def test_compensation_waits_until_the_calls_in_flight_have_stopped(start: Start, author: User) -> None:
    execution = start(template(done("a"), done("b", "a"), done("c", "b")))
    finish(execution, claim(execution), {})
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    assert not take_turn(facts(execution), uuid4(), [], want=1).claims
    assert Execution.objects.get(pk=execution.pk).compensation == "due"
    finish(execution, held, {})  # its call came to its end before it was stopped: it counts
    drain(execution)
    assert (execution.status, undone()) == ("cancelled", ["b", "a"])
    assert statuses(execution)["c"] == "cancelled"


def test_a_worker_that_vanishes_before_compensation_begins_holds_it_up_no_longer_than_its_lease(
    start: Start, author: User
) -> None:
    execution = start(template(done("a"), done("b", "a")))
    finish(execution, claim(execution), {})
    claim(execution)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    lose_worker(execution, "b")
    reconcile.look(execution.pk)
    drain(execution)
    assert (execution.status, undone()) == ("cancelled", ["a"])


def test_a_plain_cancel_stops_a_compensation_and_lists_what_is_left(run: Start, author: User) -> None:
    execution = waiting(run)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    assert not take_turn(facts(execution), uuid4(), [], want=1).claims
    finish(execution, held, {})
    execution.refresh_from_db()
    assert (execution.status, execution.compensation) == ("cancelled", "stopped")
    assert statuses(execution)["b:compensation"] == "completed"
    left = row(execution, "a:compensation")
    assert (left.status, left.reason) == ("cancelled", "compensation_stopped")


def test_a_stopped_compensation_is_not_begun_again(start: Start, author: User) -> None:
    execution = start(template(done("a"), done("b", "a")))
    finish(execution, claim(execution), {})
    claim(execution)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    control.cancel(execution_id=execution.pk, by=author)
    with pytest.raises(Conflict) as refused:
        control.cancel(execution_id=execution.pk, by=author, compensate=True)
    assert refused.value.code == "not_compensable"


def test_a_run_that_is_being_cancelled_may_still_be_asked_to_compensate(start: Start, author: User) -> None:
    execution = start(template(done("a"), done("b", "a")))
    finish(execution, claim(execution), {})
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    finish(execution, held, {})
    drain(execution)
    assert (execution.status, undone()) == ("cancelled", ["b", "a"])


def test_a_compensating_run_cannot_be_paused_and_one_that_has_ended_cannot_be_compensated(
    run: Start, author: User
) -> None:
    execution = waiting(run)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    with pytest.raises(IllegalTransition):
        control.pause(execution_id=execution.pk, by=author)
    drain(execution)
    plain = waiting(run)
    control.cancel(execution_id=plain.pk, by=author)
    with pytest.raises(IllegalTransition):
        control.cancel(execution_id=plain.pk, by=author, compensate=True)


def test_a_paused_run_is_compensated_too(run: Start, author: User) -> None:
    execution = waiting(run)
    control.pause(execution_id=execution.pk, by=author)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    drain(execution)
    assert (execution.status, undone()) == ("cancelled", ["b", "a"])


# -- compensations that fail ---------------------------------------------------------


def stuck(run: Start, agent: str = "test.crash", **fields: Any) -> Execution:
    """A failed run with two arms, of which the longer cannot be undone at its end."""
    bad = undo("b", agent, retryPolicy={"maxRetries": 0}, **fields)
    return run(template(done("a"), block("b", "a", compensation=bad), done("x"), fails("f", "b", "x")))


def test_a_failed_compensation_asks_a_person_while_the_others_go_on(run: Start, author: User) -> None:
    execution = stuck(run)
    assert (execution.status, execution.compensation) == ("cancelling", "running")
    assert undone() == ["x"]
    assert statuses(execution)["a:compensation"] == "blocked"
    asked = Approval.objects.get(execution=execution, status="pending")
    assert (asked.kind, asked.block_id) == ("fix", "b:compensation")
    assert "undoes what it did" in asked.request["description"]
    codes = {each["blockId"]: each["reason"]["code"] for each in explain.explain(execution)["blocks"]}
    assert codes == {"b:compensation": "waiting_fix", "a:compensation": "compensation_order"}
    answer(execution, "b:compensation", author, response={"action": "complete", "output": {}})
    assert (execution.status, undone()) == ("failed", ["x", "a"])


@pytest.mark.parametrize(("action", "status"), [("skip", "skipped"), ("fail", "failed")])
def test_what_a_person_skips_or_lets_fail_holds_nothing_up(
    run: Start, author: User, action: str, status: str
) -> None:
    execution = stuck(run)
    answer(execution, "b:compensation", author, response={"action": action})
    assert (execution.status, execution.compensation, undone()) == ("failed", "done", ["x", "a"])
    assert statuses(execution)["b:compensation"] == status
    assert (execution.error or {})["blocks"] == ["f"]


def test_a_compensation_is_retried_by_its_own_policy_and_by_hand(run: Start, author: User) -> None:
    bad = undo("a", "test.crash", retryPolicy={"maxRetries": 1, "initialDelay": 60_000})
    execution = run(
        template(block("a", compensation=bad), fails("f", "a"), defaultRetryPolicy={"onExhausted": "fail"})
    )
    assert statuses(execution)["a:compensation"] == "ready"
    make_due(execution)
    drain(execution)
    assert statuses(execution)["a:compensation"] == "waiting_human"  # whatever the template's default says
    again = row(execution, "a:compensation")
    repairing.retry(execution_id=execution.pk, block_pk=again.pk, by=author, reason="again")
    drain(execution)
    assert row(execution, "a:compensation").attempt == 3
    repairing.skip(execution_id=execution.pk, block_pk=again.pk, by=author, reason="by phone")
    execution.refresh_from_db()
    assert execution.status == "failed"


def test_blocks_that_are_over_cannot_be_mended_while_the_run_compensates(run: Start, author: User) -> None:
    execution = stuck(run)
    with pytest.raises(Conflict):
        repairing.retry(execution_id=execution.pk, block_pk=row(execution, "f").pk, by=author, reason="no")


def test_an_unknown_outcome_is_not_compensated_and_its_question_says_so(run: Start, author: User) -> None:
    unsure = block("b", "a", agentId="test.unsure", effect="once", compensation=undo("b"))
    execution = run(template(done("a"), unsure))
    asked = Approval.objects.get(execution=execution, status="pending")
    assert "compensated only if you say that it is done" in asked.request["description"]
    answer(execution, "b", author, response={"action": "fail"})
    assert (execution.status, undone()) == ("failed", ["a"])


# -- faults ------------------------------------------------------------------------


def test_a_worker_lost_at_a_compensation_is_replaced(run: Start, author: User) -> None:
    execution = waiting(run)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    claim(execution)
    lose_worker(execution, "b:compensation")
    reconcile.look(execution.pk)
    drain(execution)
    assert (execution.status, undone()) == ("cancelled", ["b", "a"])
    assert row(execution, "b:compensation").attempt == 2


def test_compensation_begins_by_a_look_where_the_hint_got_lost(start: Start, author: User) -> None:
    execution = start(template(done("a"), done("b", "a")))
    finish(execution, claim(execution), {})
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    finish(execution, held, {})
    assert Execution.objects.get(pk=execution.pk).compensation == "running"
    reconcile.look(execution.pk)  # the clock's; it hints again
    walk(execution.pk)
    execution.refresh_from_db()
    assert (execution.status, undone()) == ("cancelled", ["b", "a"])


@pytest.mark.parametrize("second", [False, True])
def test_cancels_and_walkers_at_once_leave_one_consistent_end(
    start: Start, author: User, second: bool
) -> None:
    execution = start(template(*(done(f"n{i}", *([f"n{i - 1}"] if i else [])) for i in range(6))))
    barrier = threading.Barrier(4)

    def at_once(work: Any) -> None:
        from django.db import connection

        try:
            barrier.wait(PATIENCE_S)
            work()
        except (Conflict, IllegalTransition):
            pass
        finally:
            connection.close()

    works = [
        lambda: walk(execution.pk),
        lambda: walk(execution.pk),
        lambda: control.cancel(execution_id=execution.pk, by=author, compensate=True),
        lambda: control.cancel(execution_id=execution.pk, by=author, compensate=second),
    ]
    threads = [threading.Thread(target=at_once, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    reconcile.look(execution.pk)
    drain(execution)
    found = statuses(execution)
    assert execution.status in {"completed", "cancelled"}
    assert all(status in {"completed", "cancelled"} for status in found.values())
    names = [name for name in found if not name.endswith(":compensation")]
    completed = [name for name in names if found[name] == "completed"]
    if execution.compensation == "done":
        assert undone() == completed[::-1]
    elif execution.compensation == "":
        assert undone() == []


# -- children ----------------------------------------------------------------------


def usecase(block_id: str, version: TemplateVersion, *dependencies: str, **fields: Any) -> JSONObject:
    return {
        "blockId": block_id,
        "toolType": "UseCase",
        "configuration": {"templateId": str(version.template_id)},
        "dependencies": list(dependencies),
        **fields,
    }


def test_children_undo_their_part_before_the_parent_does(run: Start, version_of: Any, author: User) -> None:
    asked = block("asked", "inner", humanInLoop={"type": "approval"})
    child = version_of(template(done("inner"), asked))
    execution = run(template(done("a"), usecase("sub", child, "a", compensation=undo("sub"))))
    (inside,) = Execution.objects.filter(parent_block__execution=execution)
    control.cancel(execution_id=execution.pk, by=author, compensate=True)
    assert Execution.objects.get(pk=execution.pk).compensation == "due"
    reconcile.look(inside.pk)
    walk(execution.pk)
    assert undone() == []
    drain(inside)
    assert (inside.status, inside.compensation) == ("cancelled", "done")
    reconcile.look(execution.pk)
    drain(execution)
    assert (execution.status, undone()) == ("cancelled", ["inner", "a"])


def test_a_completed_child_is_undone_by_its_blocks_compensation_alone(run: Start, version_of: Any) -> None:
    child = version_of(template(done("inner")))
    execution = run(template(usecase("sub", child, compensation=undo("sub")), fails("f", "sub")))
    assert (execution.status, undone()) == ("failed", ["sub"])


def test_a_compensation_may_be_a_workflow_and_its_failure_asks(
    run: Start, version_of: Any, author: User
) -> None:
    child = version_of(template(fails("inner")))
    called = {"toolType": "UseCase", "configuration": {"templateId": str(child.template_id)}}
    execution = run(template(block("a", compensation=called), fails("f", "a")))
    drain(execution)
    assert statuses(execution)["a:compensation"] == "waiting_human"
    answer(execution, "a:compensation", author, response={"action": "skip"})
    assert execution.status == "failed"


# -- restart -----------------------------------------------------------------------


def test_a_restart_runs_again_what_was_undone_with_a_new_key(run: Start, author: User) -> None:
    execution = run(template(done("a"), done("b", "a"), block("free"), fails("f", "b")))
    request = RestartRequest()
    plan = restarting.preview(execution_id=execution.pk, request=request)
    assert plan["reruns"] == ["a", "b", "f"]
    assert plan["carried"] == ["free"]
    restarting.restart(execution_id=execution.pk, by=author, request=request)
    builtins.calls.clear()
    execution.refresh_from_db()
    assert (execution.compensation, set(statuses(execution))) == ("", {"a", "b", "free", "f"})
    drain(execution)
    assert (execution.status, execution.compensation, undone()) == ("failed", "done", ["b", "a"])
    rows = execution.blocks.filter(epoch=2).values_list("block_id", "effect_seq")
    assert {("a", 1), ("a:compensation", 1)} <= set(rows)


def test_a_restart_carries_what_was_not_undone_and_its_duty(run: Start, author: User) -> None:
    execution = stuck(run)
    answer(execution, "b:compensation", author, response={"action": "fail"})
    assert undone() == ["x", "a"]
    builtins.calls.clear()
    execution = run(template(done("a"), block("c", "a", humanInLoop={"type": "approval"})))
    control.cancel(execution_id=execution.pk, by=author)
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest())
    assert row_of(execution, 2, "a").carried_from == row_of(execution, 1, "a").pk
    drain(execution)
    answer(execution, "c", author, approved=False)
    assert (execution.status, undone()) == ("failed", ["a"])
    assert row_of(execution, 2, "a:compensation").effect_seq == 0


def row_of(execution: Execution, epoch: int, block_id: str) -> Any:
    return execution.blocks.get(epoch=epoch, block_id=block_id, iteration=0)


def test_a_restart_cannot_begin_at_a_compensation(run: Start, author: User) -> None:
    execution = run(template(done("a"), fails("f", "a")))
    with pytest.raises(Exception, match="no such block"):
        restarting.restart(
            execution_id=execution.pk, by=author, request=RestartRequest(from_block="a:compensation")
        )


def test_going_back_to_a_recovery_point_runs_again_what_was_undone_since(run: Start, author: User) -> None:
    execution = run(template(done("a"), block("free"), block("c", "a", humanInLoop={"type": "approval"})))
    point = marking.mark(execution_id=execution.pk, by=author)
    answer(execution, "c", author, approved=False)
    assert undone() == ["a"]
    plan = restarting.preview(execution_id=execution.pk, request=RestartRequest(point_id=point.pk))
    assert (plan["reruns"], plan["carried"]) == (["a", "c"], ["free"])


def test_a_fork_does_again_what_was_undone_and_undoes_only_what_it_did(run: Start, author: User) -> None:
    execution = run(template(done("a"), done("b"), block("c", "a", "b", humanInLoop={"type": "approval"})))
    early = forking.fork(source=execution, by=author, request=ForkRequest(from_block="b"))
    answer(execution, "c", author, approved=False)
    late = forking.fork(source=execution, by=author, request=ForkRequest())
    builtins.calls.clear()
    for fork, expected in ((early, ["b"]), (late, ["a", "b"])):
        fork.refresh_from_db()
        drain(fork)
        answer(fork, "c", author, approved=False)
        assert (fork.status, sorted(undone())) == ("failed", expected)
        builtins.calls.clear()


def test_what_has_a_compensation_is_never_done_ahead_of_its_claim(start: Start) -> None:
    execution = start(template(*(done(f"n{i}", *([f"n{i - 1}"] if i else [])) for i in range(3))))
    ahead = Ahead(facts(execution), closed={}, is_fast=lambda planned: True)
    held = claim(execution)
    change = Change(pk=held.pk, idx=held.idx, attempt=1, status=BlockStatus.COMPLETED, output={})
    assert ahead.add(change)
    assert ahead.next() is None
    finish(execution, held, {})
    drain(execution)


def test_a_simulation_scripts_compensations_too(run: Start) -> None:
    simulation = {
        "scale": 0,
        "failures": {
            "f": [{"kind": "critical", "times": 1}],
            "a:compensation": [{"kind": "critical", "times": 1}],
        },
    }
    execution = run(template(done("a"), block("f", "a")), simulation=simulation)
    assert statuses(execution)["a:compensation"] == "waiting_human"
    assert undone() == []
