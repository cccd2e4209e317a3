"""I7: what has ended is complete, says why, and ran what the rules say had to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentflow.workflow.expressions import ExpressionError
from executions.models import BlockExecution
from executions.states import SETTLED, TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E
from tests.reference import fails, interpret

from .reading import Story
from .violations import Violation

REFERENCE_BLOCKS = 400  # the plain interpreter looks at every block again and again


def check(story: Story) -> list[Violation]:
    if story.execution.status not in TERMINAL:
        return []
    problems = list(_complete(story)) or list(_as_interpreted(story))
    return [Violation("I7", story.execution.pk, what) for what in problems]


def _complete(story: Story) -> Iterator[str]:
    for row in story.current():
        name = f"{row.block_id}[{row.iteration}]"
        if row.status not in SETTLED:
            yield f"{name} is {row.status} although the execution has ended"
        elif row.status in (B.SKIPPED, B.CANCELLED) and not row.reason:
            yield f"{name} is {row.status} for no reason"
        elif row.status == B.FAILED and not row.error:
            yield f"{name} has failed for no reason"


def _as_interpreted(story: Story) -> Iterator[str]:
    execution = story.execution
    rows = {row.block_id: row for row in story.current() if not row.iteration}
    stopped = any(row.status == B.CANCELLED for row in rows.values())
    races = story.plan.partial or any(planned.block.end for planned in story.plan.blocks)
    large = any(row.output_blob for row in rows.values())  # its values are kept elsewhere
    if execution.status == E.CANCELLED or stopped or races or large or len(rows) > REFERENCE_BLOCKS:
        return
    definition = execution.template_version.definition
    if {block["blockId"] for block in definition["blocks"]} != rows.keys():
        return  # that is said elsewhere
    definition = {**definition, "blocks": [_as_it_went(b, rows[b["blockId"]]) for b in definition["blocks"]]}
    try:
        expected = interpret(
            definition,
            run_input=execution.input,
            outputs={name: row.shown_output for name, row in rows.items()},
            failing=frozenset(name for name, row in rows.items() if row.status == B.FAILED),
        )
    except ExpressionError:
        return  # a person decided what an expression could not
    for name, row in rows.items():
        if row.status != expected[name]:
            yield f"{name} is {row.status} and should be {expected[name]}"
    ended = E.FAILED if fails(definition, expected) else E.COMPLETED
    if execution.status != ended:
        yield f"it is {execution.status} and should be {ended}"


def _as_it_went(block: dict[str, Any], row: BlockExecution) -> dict[str, Any]:
    """The block as a call that gave what it gave: who ran and who was skipped is left to the rules."""
    kept = {name: value for name, value in block.items() if name != "humanInLoop"}
    if row.status == B.SKIPPED and row.reason in ("rejected", "by_hand"):
        return {**kept, "when": "false"}
    if row.status in (B.COMPLETED, B.FAILED):
        kept["agentId"] = kept.get("agentId") or "builtin.echo"
        if row.reason == "by_hand" or row.attempt == 0:
            kept.pop("when", None)  # a person may have decided what the guard could not
    return kept
