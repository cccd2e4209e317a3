"""Editing what later blocks of a paused execution see."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.errors import Unprocessable
from agentflow.governance.models import AuditEntry, User
from executions import snapshot
from executions.engine.walker import Walker
from executions.models import BlockExecution, Execution
from executions.services import control, editing, restarting
from executions.services.editing import NotPaused
from executions.services.restarting import RestartRequest

from .conftest import Start, block, claim, drain, facts, finish, template

TWO = template(block("a"), block("b", "a", input={"got": "${blocks.a.output}"}))


def paused(start: Start, author: User) -> Execution:
    execution = start(TWO)
    held = claim(execution)
    control.pause(execution_id=execution.pk, by=author)
    finish(execution, held, output={"n": 1})
    return execution


def row(execution: Execution, block_id: str) -> BlockExecution:
    return BlockExecution.objects.get(execution=execution, block_id=block_id, epoch=execution.epoch)


def test_later_blocks_see_the_edit_and_the_original_stays(start: Start, author: User) -> None:
    execution = paused(start, author)
    editing.edit(execution_id=execution.pk, outputs={"a": {"n": 2}}, by=author, reason="Wrong.")
    control.resume(execution_id=execution.pk, by=author)
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "a").output == {"n": 1}
    assert row(execution, "b").input == {"got": {"n": 2}}
    shown = snapshot.block_detail(execution, row(execution, "a"))
    assert (shown["output"], shown["originalOutput"]) == ({"n": 2}, {"n": 1})
    assert shown["edited"]["by"] == author.username
    entry = AuditEntry.objects.get(action="execution.edit_context")
    assert entry.detail == {"editedOutputs": ["a"], "reason": "Wrong."}
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="b"))
    drain(execution)
    assert row(execution, "b").input == {"got": {"n": 2}}
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(reset_state=True))
    drain(execution)
    assert row(execution, "a").edit is None
    assert row(execution, "b").input == {"got": row(execution, "a").output}


def test_a_walker_forgets_what_it_read_before_the_edit(start: Start, author: User) -> None:
    execution = paused(start, author)
    walker = Walker(facts(execution))
    walker.inputs.keep(0, {"n": 1})
    editing.edit(execution_id=execution.pk, outputs={"a": {"n": 2}}, by=author)
    control.resume(execution_id=execution.pk, by=author)
    walker.run()
    assert row(execution, "b").input == {"got": {"n": 2}}


@pytest.mark.parametrize("outputs", [{"x": 1}, {"b": 1}, {"a": "x" * 300_000}, {"a": 1, "b": 1}])
def test_what_cannot_be_edited_leaves_all_as_it_was(
    start: Start, author: User, outputs: dict[str, Any]
) -> None:
    execution = paused(start, author)
    with pytest.raises(Unprocessable):
        editing.edit(execution_id=execution.pk, outputs=outputs, by=author)
    assert row(execution, "a").edit is None


def test_only_a_paused_execution_is_edited(start: Start, author: User) -> None:
    execution = start(TWO)
    with pytest.raises(NotPaused):
        editing.edit(execution_id=execution.pk, outputs={"a": 1}, by=author)
