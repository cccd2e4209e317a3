"""What stands between two workers that hold the same block, and between a row and its double."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from agentflow.conf import LIMITS
from agentflow.governance.models import User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.engine import statements
from executions.engine.judging import Change, Claim
from executions.engine.run import raw_cursor
from executions.engine.turns import take_turn
from executions.models import AttemptOutcome, BlockAttempt, BlockExecution, Execution
from executions.services import control, reconcile
from executions.states import BlockStatus
from templates_app.models import TemplateVersion
from tests.factories.executions import statuses
from tests.factories.governance import WorkspaceFactory
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import Start, block, claim, facts, finish, lose_worker, row, template


def rescued(execution: Execution, block_id: str = "a") -> tuple[Claim, Claim]:
    """The claim of a worker that was given up, and of the one that has the block now."""
    first = claim(execution)
    lose_worker(execution, block_id)
    reconcile.look(execution.pk)
    return first, claim(execution)


def failing(held: Claim, **fields: Any) -> Change:
    """What a worker brings whose call is to be tried again."""
    error: JSONObject = {"kind": "transient", "code": "http_503", "message": "busy", "outcomeUnknown": False}
    change = Change(pk=held.pk, idx=held.idx, attempt=held.attempt, status=BlockStatus.READY, reason="retry")
    return replace(change, error=error, ended=AttemptOutcome.ERROR, delay_s=0.0, **fields)


def test_a_result_of_an_earlier_attempt_leaves_the_later_one_running(start: Start) -> None:
    execution = start(template(block("a"), block("b", "a")))
    first, second = rescued(execution)
    finish(execution, first, output="old")
    a = row(execution, "a")
    assert (a.status, a.attempt, a.output) == ("running", second.attempt, None)
    assert a.late_results.get().output == "old"
    finish(execution, second, output="new")
    assert (row(execution, "a").output, row(execution, "b").status) == ("new", "ready")


def test_a_result_between_the_rescue_and_the_next_claim_is_late(start: Start) -> None:
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    finish(execution, held, output="old")
    a = row(execution, "a")
    assert (a.status, a.output, a.late_results.get().output) == ("ready", None, "old")


def test_a_failure_of_an_earlier_attempt_leaves_the_later_one_running(start: Start) -> None:
    execution = start(template(block("a")))
    first, second = rescued(execution)
    take_turn(facts(execution), uuid4(), [failing(first)], want=0)
    a = row(execution, "a")
    assert (a.status, a.attempt) == ("running", second.attempt)
    assert [each.outcome for each in a.attempts.order_by("attempt")] == ["rescued"]


def test_a_failure_after_the_block_was_cancelled_changes_nothing(start: Start) -> None:
    execution = start(
        template(block("slow"), block("quick"), block("j", "slow", "quick", join="any"), maxParallelBlocks=2)
    )
    slow = claim(execution)
    finish(execution, claim(execution), output=1, want=0)
    assert row(execution, "slow").status == "cancelled"
    take_turn(facts(execution), uuid4(), [failing(slow)], want=0)
    assert (row(execution, "slow").status, row(execution, "slow").reason) == ("cancelled", "lost_race")


def test_a_failure_in_a_run_that_is_being_cancelled_is_not_tried_again(start: Start, author: User) -> None:
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    take_turn(facts(execution), uuid4(), [failing(held)], want=1)
    execution.refresh_from_db()
    assert (execution.status, statuses(execution)) == ("cancelled", {"a": "cancelled", "b": "cancelled"})


def test_a_result_that_is_brought_twice_is_not_late(start: Start) -> None:
    """As when the answer to the commit was lost."""
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    finish(execution, held, output=1)
    finish(execution, held, output=1)
    assert not row(execution, "a").late_results.exists()


def test_a_heartbeat_of_an_earlier_attempt_extends_nothing(start: Start) -> None:
    execution = start(template(block("a")))
    first, second = rescued(execution)
    beat = {"ids": [first.pk], "lease": 30}
    assert raw_cursor().execute(statements.HEARTBEAT, beat | {"attempts": [first.attempt]}).fetchall() == []
    assert raw_cursor().execute(statements.HEARTBEAT, beat | {"attempts": [second.attempt]}).fetchall()


def test_a_sub_workflow_comes_from_the_same_workspace(run: Start, author: User) -> None:
    foreign = TemplateFactory.create(workspace=WorkspaceFactory.create(), created_by=author)
    TemplateVersionFactory.create(template=foreign, definition=template(block("x")))
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": str(foreign.pk)}}
    execution = run(template(sub))
    assert row(execution, "sub").error["code"] == "unknown_template"  # type: ignore[index]
    assert not Execution.objects.filter(parent_block__execution=execution).exists()


def test_sub_workflows_nest_so_deep_and_no_deeper(
    run: Start, version_of: Callable[[JSONObject], TemplateVersion]
) -> None:
    """As deep as templates may be when they are started; they may change while their parents run."""
    inner = version_of(template(block("x")))
    for _ in range(LIMITS.usecase_depth):
        inner = version_of(template(_calling(inner)))
    execution = run(template(_calling(inner)))
    depths = Execution.objects.filter(template_version__template__workspace=execution.workspace)
    assert max(depths.values_list("depth", flat=True)) == LIMITS.usecase_depth
    refused = BlockExecution.objects.get(status="waiting_human", execution__depth=LIMITS.usecase_depth)
    assert refused.error["code"] == "too_deep"  # type: ignore[index]


def _calling(version: TemplateVersion) -> JSONObject:
    return {"blockId": "s", "toolType": "UseCase", "configuration": {"templateId": str(version.template_id)}}


def test_an_attempt_has_one_child_and_one_row(
    run: Start, version_of: Callable[[JSONObject], TemplateVersion]
) -> None:
    inner = version_of(template(block("x", humanInLoop={"type": "approval"})))
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": str(inner.template_id)}}
    execution = run(template(block("a"), {**sub, "dependencies": ["a"]}))
    child = Execution.objects.get(parent_block__execution=execution)
    with pytest.raises(IntegrityError, match="one_child_per_attempt"), transaction.atomic():
        _double(child, pk=uuid4())
    with pytest.raises(IntegrityError, match="one_row_per_attempt"), transaction.atomic():
        _double(BlockAttempt.objects.get(block__execution=execution, block__block_id="a"), pk=None)


def test_a_block_has_one_open_question(run: Start) -> None:
    execution = run(template(block("a", humanInLoop={"type": "approval"})))
    with pytest.raises(IntegrityError, match="one_open_question_per_block"), transaction.atomic():
        _double(Approval.objects.get(execution=execution), pk=uuid4())


def _double(row: Any, *, pk: Any) -> None:
    row.pk = pk
    row._state.adding = True
    row.save(force_insert=True)
