"""One block is skipped, completed or tried again by hand while its execution goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.conf import LIMITS
from agentflow.errors import AgentflowError, InvalidInput, Unprocessable
from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.models import Execution
from executions.services import control, reconcile, repairing
from executions.services.repairing import BlockNotOpen, ExecutionEnded, NothingToRetry, SuccessorsMoved
from tests.factories.executions import statuses
from tests.history import check

from .conftest import Start, answer, block, claim, drain, finish, row, template

ASKING = {"type": "approval"}
ONCE_ONLY = {"maxRetries": 0, "onExhausted": "fail"}


def skip(execution: Execution, block_id: str, by: User) -> None:
    repairing.skip(execution_id=execution.pk, block_pk=row(execution, block_id).pk, by=by, reason="why")
    drain(execution)


def complete(execution: Execution, block_id: str, by: User, output: Any = None) -> None:
    repairing.complete(
        execution_id=execution.pk, block_pk=row(execution, block_id).pk, output=output, by=by, reason="why"
    )
    drain(execution)


def retry(execution: Execution, block_id: str, by: User) -> None:
    repairing.retry(execution_id=execution.pk, block_pk=row(execution, block_id).pk, by=by, reason="why")
    drain(execution)


def failing(block_id: str, kind: str = "critical", times: int = 1) -> JSONObject:
    return {"failures": {block_id: [{"kind": kind, "times": times}]}}


def test_a_ready_block_is_skipped_or_completed(start: Start, author: User) -> None:
    execution = start(template(block("a"), block("b"), block("c", "a", "b")))
    repairing.skip(execution_id=execution.pk, block_pk=row(execution, "a").pk, by=author, reason="why")
    complete(execution, "b", author, {"by": "hand"})
    assert statuses(execution) == {"a": "skipped", "b": "completed", "c": "completed"}
    assert execution.status == "completed"
    assert row(execution, "a").reason == row(execution, "b").reason == "by_hand"
    assert row(execution, "b").output == {"by": "hand"}
    assert row(execution, "c").output is not None


def test_a_question_is_withdrawn_with_its_block(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop=ASKING), block("b", "a")))
    complete(execution, "a", author, 1)
    assert Approval.objects.get(execution=execution).status == "cancelled"
    assert (execution.status, statuses(execution)) == ("completed", {"a": "completed", "b": "completed"})
    assert not execution.timers.exists()


def test_a_wait_is_cut_short(run: Start, author: User) -> None:
    wait = {"blockId": "a", "wait": {"seconds": 3600}}
    execution = run(template(wait, block("b", "a")))
    assert statuses(execution) == {"a": "waiting_external", "b": "blocked"}
    skip(execution, "a", author)
    assert statuses(execution) == {"a": "skipped", "b": "skipped"}


def test_a_child_is_cancelled_when_nobody_waits_for_it(
    run: Start, author: User, version_of: Callable[[JSONObject], Any]
) -> None:
    inner = version_of(template(block("x", humanInLoop=ASKING)))
    outer = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": str(inner.template_id)}}
    execution = run(template(outer, block("b", "sub")))
    complete(execution, "sub", author, {"x": 1})
    child = Execution.objects.get(parent_block__execution=execution)
    reconcile.look(child.pk)
    child.refresh_from_db()
    assert (execution.status, child.status) == ("completed", "cancelled")
    assert check() == []


def test_the_items_of_a_block_end_with_it(run: Start, author: User) -> None:
    each = block("each", forEach={"items": "input.numbers"}, humanInLoop=ASKING)
    execution = run(template(each, block("b", "each")), input={"numbers": [1, 2]})
    assert Approval.objects.filter(execution=execution, status="pending").count() == 2
    complete(execution, "each", author, [1, 2])
    assert not Approval.objects.filter(execution=execution, status="pending").exists()
    assert execution.status == "completed"
    assert {item.status for item in execution.blocks.filter(iteration__gt=0)} == {"cancelled"}


def test_conditions_choose_on_an_output_given_by_hand(run: Start, author: User) -> None:
    choosing = block(
        "a",
        humanInLoop=ASKING,
        conditions={
            "type": "switch",
            "expression": "blocks.a.output.way",
            "branches": [
                {"condition": "left", "nextBlocks": ["l"]},
                {"condition": "right", "nextBlocks": ["r"]},
            ],
        },
    )
    execution = run(template(choosing, block("l"), block("r")))
    with pytest.raises(Unprocessable):
        complete(execution, "a", author, {"way": "up"})
    assert Approval.objects.get(execution=execution).status == "pending"
    complete(execution, "a", author, {"way": "right"})
    assert statuses(execution) == {"a": "completed", "l": "skipped", "r": "completed"}


def test_an_output_given_by_hand_is_no_larger_than_others(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop=ASKING)))
    with pytest.raises(InvalidInput):
        complete(execution, "a", author, "x" * LIMITS.blob_bytes)
    assert statuses(execution) == {"a": "waiting_human"}


def test_what_is_settled_by_hand_in_a_pause_goes_on_with_it(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop=ASKING), block("b", "a")))
    control.pause(execution_id=execution.pk, by=author)
    complete(execution, "a", author, 1)
    assert statuses(execution) == {"a": "completed", "b": "blocked"}
    control.resume(execution_id=execution.pk, by=author)
    drain(execution)
    assert execution.status == "completed"


@pytest.mark.parametrize("command", [skip, complete])
def test_what_runs_waits_for_others_or_is_settled_stays(
    start: Start, author: User, command: Callable[..., None]
) -> None:
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    for block_id in ("a", "b"):
        with pytest.raises(BlockNotOpen):
            command(execution, block_id, author)
    finish(execution, held, output=1)
    with pytest.raises(BlockNotOpen):
        command(execution, "a", author)
    drain(execution)
    with pytest.raises(ExecutionEnded):
        command(execution, "a", author)


def test_a_backoff_is_cut_short(run: Start, author: User) -> None:
    patient = block("a", retryPolicy={"maxRetries": 3, "initialDelay": 600_000, "jitter": False})
    execution = run(template(patient), simulation=failing("a", "transient"))
    assert statuses(execution) == {"a": "ready"}
    retry(execution, "a", author)
    assert execution.status == "completed"
    assert row(execution, "a").attempt == 2


def test_a_retry_by_hand_answers_the_question_what_to_do(run: Start, author: User) -> None:
    once = block("a", retryPolicy={"maxRetries": 0})
    execution = run(template(once), simulation=failing("a", "transient"))
    assert Approval.objects.get(execution=execution).kind == "fix"
    retry(execution, "a", author)
    assert execution.status == "completed"
    assert Approval.objects.get(execution=execution).status == "cancelled"


def test_a_failed_block_is_tried_again_while_nothing_behind_it_moved(run: Start, author: User) -> None:
    execution = run(
        template(
            block("a", agentId="test.odd", input={"n": 2}, retryPolicy=ONCE_ONLY),
            block("ask", humanInLoop=ASKING),
            block("join", "a", "ask"),
            block("end", agentId="test.odd", input={"n": 4}, retryPolicy=ONCE_ONLY),
        )
    )
    assert statuses(execution) == {"a": "failed", "ask": "waiting_human", "join": "blocked", "end": "failed"}
    for block_id in ("a", "end"):
        retry(execution, block_id, author)
        found = row(execution, block_id)
        assert (found.status, found.attempt, found.attempts.count()) == ("failed", 2, 2)
    answer(execution, "ask", author)
    assert statuses(execution)["join"] == "skipped"
    assert (execution.status, execution.failed_blocks, execution.open_sinks) == ("failed", 2, 0)


def test_a_block_mended_after_its_failure_lets_the_run_complete(run: Start, author: User) -> None:
    execution = run(
        template(block("a", agentId="sim.x"), block("ask", humanInLoop=ASKING), block("join", "a", "ask")),
        simulation=failing("a"),
    )
    retry(execution, "a", author)
    assert statuses(execution)["a"] == "completed"
    answer(execution, "ask", author)
    assert (execution.status, statuses(execution)["join"]) == ("completed", "completed")


def test_a_refused_step_is_asked_about_again(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop=ASKING), block("ask", humanInLoop=ASKING)))
    answer(execution, "a", author, approved=False)
    assert statuses(execution) == {"a": "failed", "ask": "waiting_human"}
    retry(execution, "a", author)
    assert statuses(execution) == {"a": "waiting_human", "ask": "waiting_human"}
    answer(execution, "a", author)
    answer(execution, "ask", author)
    assert execution.status == "completed"


def test_a_failure_that_moved_others_is_not_taken_back(run: Start, author: User) -> None:
    execution = run(
        template(block("a"), block("b", "a"), block("ask", humanInLoop=ASKING)), simulation=failing("a")
    )
    with pytest.raises(SuccessorsMoved):
        retry(execution, "a", author)
    assert statuses(execution) == {"a": "failed", "b": "skipped", "ask": "waiting_human"}


@pytest.mark.parametrize("block_id", ["done", "ask", "later"])
def test_what_has_not_failed_is_not_tried_again(run: Start, author: User, block_id: str) -> None:
    execution = run(template(block("done"), block("ask", humanInLoop=ASKING), block("later", "ask")))
    with pytest.raises(NothingToRetry):
        retry(execution, block_id, author)


@pytest.mark.parametrize("command", [skip, complete, retry])
def test_a_refused_repair_leaves_no_trace(run: Start, author: User, command: Callable[..., None]) -> None:
    execution = run(template(block("a"), block("b", "a")))
    with pytest.raises(AgentflowError):
        command(execution, "b", author)
    assert not AuditEntry.objects.filter(action__endswith="_block").exists()


def test_each_repair_is_one_audit_entry(run: Start, author: User) -> None:
    execution = run(template(block("a", humanInLoop=ASKING), block("b", humanInLoop=ASKING), block("c", "a")))
    complete(execution, "a", author, 7)
    skip(execution, "b", author)
    entries = AuditEntry.objects.filter(target_id=str(execution.pk)).order_by("pk")
    assert [(entry.action, entry.detail.get("blockId")) for entry in entries][1:] == [
        ("execution.complete_block", "a"),
        ("execution.skip_block", "b"),
    ]
    assert entries[1].detail == {"blockId": "a", "reason": "why", "outputBytes": 1}
