"""Pause, resume and cancel, at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now

from agentflow.governance.models import AuditEntry, User
from agentflow.lifecycle import IllegalTransition
from agentflow.types import JSONObject
from approvals.models import Approval
from executions import dispatch
from executions.engine.walker import walk
from executions.models import Execution
from executions.services import control, reconcile
from tests import builtins
from tests.factories.executions import statuses
from tests.queues import hints_for
from tests.waiting import PATIENCE_S, until

from .conftest import Start, answer, block, claim, drain, finish, lose_worker, row, template


def test_pausing_lets_running_blocks_finish_but_opens_no_new_ones(start: Start, author: User) -> None:
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    control.pause(execution_id=execution.pk, by=author)
    finish(execution, held, output=1)
    drain(execution)
    assert statuses(execution) == {"a": "completed", "b": "blocked"}
    control.resume(execution_id=execution.pk, by=author)
    drain(execution)
    assert execution.status == "completed"


def test_a_run_whose_last_block_settles_while_paused_ends_on_resume(start: Start, author: User) -> None:
    execution = start(template(block("a")))
    held = claim(execution)
    control.pause(execution_id=execution.pk, by=author)
    finish(execution, held, output=1)
    execution.refresh_from_db()
    assert execution.status == "paused"
    control.resume(execution_id=execution.pk, by=author)
    execution.refresh_from_db()
    assert execution.status == "completed"


def test_a_pending_run_can_be_paused(start: Start, author: User) -> None:
    execution = start(template(block("a")))
    control.pause(execution_id=execution.pk, by=author)
    drain(execution)
    assert statuses(execution) == {"a": "ready"}
    control.resume(execution_id=execution.pk, by=author)
    drain(execution)
    assert execution.status == "completed"


def test_approvals_may_be_answered_while_paused(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop={"type": "approval"})))
    control.pause(execution_id=execution.pk, by=author)
    answer(execution, "a", author)
    assert statuses(execution) == {"a": "ready"}
    control.resume(execution_id=execution.pk, by=author)
    drain(execution)
    assert execution.status == "completed"


def test_cancelling_withdraws_what_waits(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop={"type": "approval"}), block("b", "a")))
    control.cancel(execution_id=execution.pk, by=author, reason="Not needed.")
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert statuses(execution) == {"a": "cancelled", "b": "cancelled"}
    assert Approval.objects.get(execution=execution).status == "cancelled"
    assert execution.error == {"code": "cancelled", "message": "Not needed."}
    assert not execution.timers.exists()


def test_a_call_that_ends_first_counts_in_a_cancelled_run(start: Start, author: User) -> None:
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    execution.refresh_from_db()
    assert execution.status == "cancelling"
    finish(execution, held, output=1)
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert statuses(execution) == {"a": "completed", "b": "cancelled"}


def test_a_cancelled_run_whose_worker_is_gone_ends_with_its_lease(start: Start, author: User) -> None:
    execution = start(template(block("a")))
    claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert statuses(execution) == {"a": "cancelled"}


def test_a_call_in_flight_is_stopped_by_a_cancel(start: Start, author: User) -> None:
    slow = block("a", configuration={"simulate": {"runtimeSeconds": 600}})
    execution = start(template(slow), simulation={"scale": 1})
    walker = _in_thread(walk, execution.pk)
    until(lambda: row(execution, "a").status == "running")
    control.cancel(execution_id=execution.pk, by=author)
    walker.join(PATIENCE_S)
    assert not walker.is_alive()
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert row(execution, "a").attempts.get().outcome == "cancelled"


def test_a_call_that_ignores_its_deadline_is_given_up(start: Start) -> None:
    hold = block("a", agentId="test.hold", timeout=1, retryPolicy={"maxRetries": 0})
    execution = start(template(hold))
    walker = _in_thread(walk, execution.pk)
    try:
        until(lambda: row(execution, "a").status == "waiting_human")
        assert row(execution, "a").error["code"] == "timeout"  # type: ignore[index]
    finally:
        builtins.gate.set()
        walker.join(PATIENCE_S)
    until(lambda: row(execution, "a").late_results.count() == 1)
    assert row(execution, "a").output is None


@pytest.mark.parametrize("command", [control.pause, control.resume, control.cancel])
def test_a_run_that_has_ended_takes_no_command(
    run: Start, author: User, command: Callable[..., object]
) -> None:
    execution = run(template(block("a")))
    with pytest.raises(IllegalTransition):
        command(execution_id=execution.pk, by=author)


def test_a_repeated_command_changes_nothing_and_leaves_one_audit_entry(start: Start, author: User) -> None:
    execution = start(template(block("a")))
    for command in (
        control.pause,
        control.pause,
        control.resume,
        control.resume,
        control.cancel,
        control.cancel,
    ):
        command(execution_id=execution.pk, by=author)
    actions = (
        AuditEntry.objects.filter(target_id=str(execution.pk)).order_by("pk").values_list("action", flat=True)
    )
    assert list(actions) == ["execution.start", "execution.pause", "execution.resume", "execution.cancel"]


def test_the_deadline_of_a_run_cancels_it(start: Start) -> None:
    execution = start(template(block("a", humanInLoop={"type": "approval"}), timeout=1))
    drain(execution)
    until(lambda: _past_deadline(execution))
    reconcile.look(execution.pk)
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert execution.error["code"] == "deadline"  # type: ignore[index]


def test_a_block_that_ends_the_run_cancels_the_rest(run: Start) -> None:
    asking = block("ask", humanInLoop={"type": "approval"})
    execution = run(template(asking, block("stop", end="failed"), block("after", "ask")))
    assert execution.status == "failed"
    assert statuses(execution) == {"ask": "cancelled", "stop": "completed", "after": "cancelled"}
    assert not Approval.objects.filter(execution=execution, status="pending").exists()


def _past_deadline(execution: Execution) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT deadline_at < clock_timestamp() FROM executions_execution WHERE id = %s", [execution.pk]
        )
        return bool(cursor.fetchone()[0])


def _in_thread(work: Callable[..., object], *args: object) -> threading.Thread:
    def body() -> None:
        try:
            work(*args)
        finally:
            connection.close()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "first",
    [{"wait": {"seconds": 60}}, {"humanInLoop": {"type": "approval"}}, {"forEach": {"items": "[1]"}}, {}],
    ids=["wait", "question", "items", "plain"],
)
def test_a_pending_run_whose_first_hint_was_lost_is_hinted_again(start: Start, first: JSONObject) -> None:
    """A first block that takes more than a claim is not ready: the run itself asks for a walker."""
    execution = start(template(block("a", **first)))
    assert dispatch.sender.flush(PATIENCE_S)
    before = hints_for(execution.pk)
    reconcile.look(execution.pk)
    assert dispatch.sender.flush(PATIENCE_S)
    assert hints_for(execution.pk) == before + 1
    soon = Now() + timedelta(seconds=reconcile.REHINT_S)
    assert execution.timers.filter(kind="check", due_at__lte=soon).exists()
