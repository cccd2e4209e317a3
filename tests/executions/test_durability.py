"""What one commit holds: `group` shares it among fast repeatable blocks, `strict` never does."""

from __future__ import annotations

import pytest
from django.db import connection

from agentflow.types import JSONObject
from executions.models import Execution

from .conftest import Start, block, drain, template

SIMULATED: JSONObject = {"scale": 0}
BLOCKS = 24


def fan(**settings: str) -> JSONObject:
    return template(*(block(f"b{number}") for number in range(BLOCKS)), **settings)


def commits(*executions: Execution) -> int:
    """In how many transactions the attempts of these runs were recorded."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT a.xmin::text) FROM executions_blockattempt a"
            " JOIN executions_blockexecution b ON b.id = a.block_id WHERE b.execution_id = ANY(%s)",
            [[execution.pk for execution in executions]],
        )
        found: int = cursor.fetchone()[0]
    return found


def test_group_commits_fast_repeatable_blocks_together(run: Start) -> None:
    execution = run(fan(), simulation=SIMULATED)
    assert (execution.status, execution.durability) == ("completed", "group")
    assert commits(execution) <= BLOCKS // 3


def test_strict_commits_each_outcome_by_itself(run: Start) -> None:
    execution = run(fan(durability="strict"), simulation=SIMULATED)
    assert (execution.status, execution.durability) == ("completed", "strict")
    assert commits(execution) == BLOCKS


@pytest.mark.parametrize(("said", "asked"), [("strict", "group"), ("group", "strict")])
def test_a_start_overrides_what_its_template_says(start: Start, said: str, asked: str) -> None:
    execution = start(fan(durability=said), simulation=SIMULATED, durability=asked)
    drain(execution)
    assert (commits(execution) == BLOCKS) is (asked == "strict")


def test_the_children_of_a_strict_run_are_strict(start: Start, run: Start) -> None:
    child = run(template(block("x")))
    child.template_version.status = "published"
    child.template_version.save(update_fields=["status"])
    calls = {"templateId": str(child.template_version.template_id)}
    parent = run(
        template({"blockId": "call", "toolType": "UseCase", "configuration": calls}), durability="strict"
    )
    started = Execution.objects.get(parent_block__execution=parent)
    assert (child.durability, started.durability, parent.status) == ("group", "strict", "completed")
