"""Outputs above 256 KB: in blob storage, named by the row, whole for who needs them whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from agentflow.conf import KB, LIMITS, MB
from agentflow.types import JSONObject, JSONValue
from executions import blobs
from executions.models import Blob, BlockExecution, Execution, LateResult
from executions.services import repairing, restarting
from executions.services.restarting import RestartRequest
from tests import builtins

from .conftest import Start, block, claim, drain, finish, lose_worker, row, template

BIG = {"text": "é" * 200 * KB}  # 400 KB


@pytest.fixture(autouse=True)
def _fresh(transactional_db: None) -> None:
    blobs._cache.clear()


def giving(block_id: str, *dependencies: str, output: JSONValue = BIG, **fields: Any) -> JSONObject:
    """A block that gives `output`, which is too large to stand in a template."""
    builtins.given[block_id] = [output]
    return calling(block_id, *dependencies, **fields)


def calling(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    return block(block_id, *dependencies, **fields) | {
        "agentId": "test.give",
        "configuration": {"name": block_id},
    }


def code(found: BlockExecution) -> str:
    return str((found.error or {}).get("code"))


def output(found: BlockExecution) -> JSONValue:
    return blobs.filled(blobs.of_row(found.output, found.output_blob))


def test_a_big_output_is_kept_once_and_handed_on_whole(run: Start) -> None:
    execution = run(
        template(
            giving("a"),
            block("default", "a"),
            block("mapped", "a", input={"doc": "${blocks.a.output}", "small": 1}),
            giving("same", "a"),
        )
    )
    assert execution.status == "completed", execution.error
    a = row(execution, "a")
    assert (a.output, a.output_blob is not None) == (None, True)
    assert output(a) == BIG
    assert output(row(execution, "default")) == {"a": BIG}
    assert output(row(execution, "mapped")) == {"doc": BIG, "small": 1}
    assert row(execution, "mapped").input_blob == row(execution, "mapped").output_blob
    assert row(execution, "same").output_blob == a.output_blob
    assert Blob.objects.count() == 3


def test_small_outputs_stay_in_their_rows(run: Start) -> None:
    execution = run(template(giving("a", output="x" * (LIMITS.output_bytes - 2)), block("b", "a")))
    assert row(execution, "a").output_blob is None
    assert execution.status == "completed"


def test_above_eight_mb_is_a_permanent_failure(run: Start) -> None:
    large = "x" * (LIMITS.blob_bytes + 1)
    execution = run(
        template({"blockId": "a", "agentId": "builtin.echo"}), simulation={"outputs": {"a": large}}
    )
    assert execution.status == "failed"
    assert row(execution, "a").attempt == 1
    assert code(row(execution, "a")) == "output_too_large"


def test_inputs_of_more_than_eight_mb_together_are_refused(run: Start) -> None:
    half = "x" * (5 * MB)
    execution = run(
        template(block("a"), block("b"), block("c", "a", "b", retryPolicy={"onExhausted": "fail"})),
        simulation={"outputs": {"a": half, "b": half + "y"}},
    )
    assert code(row(execution, "c")) == "input_too_large"


@pytest.mark.parametrize(
    "fields",
    [
        {"when": 'blocks.a.output.text == "x"'},
        {"input": {"n": "${blocks.a.output.text}"}},
        {"input": {"text": "It says ${blocks.a.output}"}},
    ],
)
def test_an_expression_that_looks_into_a_big_output_asks_with_a_clear_reason(
    run: Start, fields: JSONObject
) -> None:
    execution = run(template(giving("a"), block("b", "a", retryPolicy={"maxRetries": 0}, **fields)))
    b = row(execution, "b")
    assert (b.status, code(b)) == ("waiting_human", "input_too_large")


def test_conditions_on_a_big_output_ask_and_show_a_note_of_it(run: Start) -> None:
    branch = {"condition": "blocks.a.output.text == 'x'", "nextBlocks": ["b"]}
    conditions = {"type": "if", "branches": [branch, {"condition": "default", "nextBlocks": ["b"]}]}
    execution = run(template(giving("a", conditions=conditions), block("b")))
    a = row(execution, "a")
    assert (a.status, code(a)) == ("waiting_human", "input_too_large")
    assert "Too large" in str(a.error)


def test_for_each_goes_through_a_big_list_and_gives_a_big_one(run: Start) -> None:
    items = ["x" * 100 * KB, "y" * 100 * KB, "z" * 300 * KB]
    execution = run(
        template(giving("list", output=items), block("each", "list", forEach={"items": "blocks.list.output"}))
    )
    assert execution.status == "completed", execution.error
    each = row(execution, "each")
    assert each.output_blob is not None
    assert output(each) == [{"item": item, "index": n} for n, item in enumerate(items)]


def test_a_sub_workflow_gives_its_big_output(run: Start) -> None:
    child = run(template(giving("x")))
    child.template_version.status = "published"
    child.template_version.save(update_fields=["status"])
    calls = {"templateId": str(child.template_version.template_id)}
    execution = run(template({"blockId": "sub", "toolType": "UseCase", "configuration": calls}))
    assert execution.status == "completed"
    assert output(row(execution, "sub")) == {"x": BIG}


def test_a_late_big_output_is_kept_by_reference(start: Start) -> None:
    execution = start(template(block("a")))
    held = claim(execution)
    lose_worker(execution, "a")
    drain_after_rescue(execution)
    value = blobs.kept(BIG, workspace_id=execution.workspace_id, locked=False)
    finish(execution, held, value)
    late = LateResult.objects.get(block__execution=execution)
    assert (late.output, blobs.filled(blobs.of_row(late.output, late.output_blob))) == (None, BIG)


def drain_after_rescue(execution: Execution) -> None:
    from executions.services import reconcile

    reconcile.look(execution.pk)
    drain(execution)


def test_a_restart_carries_the_reference(run: Start, author: Any) -> None:
    execution = run(template(giving("a"), block("b", "a")))
    before = row(execution, "a").output_blob
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="b"))
    drain(execution)
    rows = BlockExecution.objects.filter(execution=execution, block_id="a").order_by("epoch")
    assert [found.output_blob for found in rows] == [before, before]
    assert execution.status == "completed"


def test_a_block_completed_by_hand_takes_a_big_output(start: Start, author: Any) -> None:
    execution = start(template(block("a")))
    repairing.complete(
        execution_id=execution.pk, block_pk=row(execution, "a").pk, output=BIG, by=author, reason="by hand"
    )
    assert output(row(execution, "a")) == BIG


def test_a_later_small_output_of_a_repeat_leaves_no_reference(run: Start) -> None:
    builtins.given["a"] = [BIG, "small"]
    execution = run(
        template(
            calling("a", repeat={"until": "index > 0", "maxIterations": 3}),
        )
    )
    a = row(execution, "a")
    assert (execution.status, a.output, a.output_blob) == ("completed", "small", None)


def age() -> None:
    Blob.objects.update(touched_at=Now() - timedelta(seconds=blobs.GRACE_S + 60))


def test_only_what_nobody_refers_to_is_removed_and_only_after_the_grace(run: Start) -> None:
    execution = run(template(giving("a")))
    blobs.put(b'"orphan"', workspace_id=execution.workspace_id, locked=False)
    blobs.tidy()
    assert Blob.objects.count() == 2
    age()
    blobs.tidy()
    assert [found.pk for found in Blob.objects.all()] == [row(execution, "a").output_blob]
    BlockExecution.objects.filter(execution=execution).update(output_blob=None)
    blobs.tidy()
    assert not Blob.objects.exists()


def test_a_value_that_comes_again_is_saved_from_removal(run: Start) -> None:
    execution = run(template(block("a")))
    first = blobs.put(b'"again"', workspace_id=execution.workspace_id, locked=False)
    age()
    assert blobs.put(b'"again"', workspace_id=execution.workspace_id, locked=False) == first
    blobs.tidy()
    assert Blob.objects.filter(pk=first, touched_at__gt=Now() - timedelta(minutes=1)).exists()
