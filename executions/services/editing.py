"""Editing the context of a paused execution: what later blocks see of blocks that completed.

A block's own output never changes; an edit lies over it, and a restart that does not run the block
again keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from agentflow.errors import Conflict, NotFound, Unprocessable
from agentflow.events import store
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.issues import pointer
from agentflow.workflow.plan import Plan
from executions.engine.facts import as_text, facts_of
from executions.engine.run import Run, locked
from executions.models import BlockExecution
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from . import asking_again
from .forking import too_large


class NotPaused(Conflict):
    """The context of an execution is edited only while it is paused."""

    code = "not_paused"
    remedy = "Pause it first; of one that has ended, start a fork."


_EDIT = """
WITH moved AS (
  UPDATE executions_blockexecution b
  SET edit = jsonb_build_object('output', x.output::jsonb, 'by', %(by)s::text, 'at', statement_timestamp(),
                                'reason', %(reason)s::text)
  FROM unnest(%(idxs)s::int[], %(outputs)s::text[]) AS x(idx, output)
  WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.idx = x.idx AND b.iteration = 0)
UPDATE executions_execution SET edits = edits + 1 WHERE id = %(execution)s
"""


def edit(*, execution_id: UUID, outputs: Mapping[str, JSONValue], by: User, reason: str = "") -> None:
    """Put other outputs in place of what blocks gave, all of them or none.

    Raises:
        NotPaused
        Unprocessable: a block is unknown or has not completed, or an output is too large.
    """
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    with locked(facts) as run:
        if run.status is not E.PAUSED:
            raise NotPaused(f"The execution is {run.status}.")
        _check(run, facts.plan, outputs)
        overlay(run, outputs, by=by, reason=reason)
        asking_again.ask_anew(run)
        audit.record(
            action="execution.edit_context",
            by=by,
            workspace_id=facts.workspace_id,
            target_type="execution",
            target_id=str(execution_id),
            detail={"editedOutputs": list(outputs), **({"reason": reason} if reason else {})},
        )


def overlay(run: Run, outputs: Mapping[str, JSONValue], *, by: User, reason: str) -> None:
    """Lay these outputs over those that completed blocks gave."""
    facts = run.facts
    idxs = [facts.plan.index[block_id] for block_id in outputs]
    run.execute(
        _EDIT,
        idxs=idxs,
        outputs=[as_text(value) or "null" for value in outputs.values()],
        by=by.get_username(),
        reason=reason,
    )
    for idx in idxs:
        run.known.pop(idx, None)
    for block_id in outputs:
        store.append(
            type="block_edited",
            workspace_id=facts.workspace_id,
            execution_id=facts.execution_id,
            block_id=block_id,
            payload={"by": by.get_username()},
        )


def _check(run: Run, plan: Plan, outputs: Mapping[str, JSONValue]) -> None:
    completed = set(
        BlockExecution.objects.filter(
            execution=run.facts.execution_id, epoch=run.epoch, iteration=0, status=B.COMPLETED
        ).values_list("idx", flat=True)
    )
    issues: list[JSONObject] = []
    for block_id, value in outputs.items():
        idx = plan.index.get(block_id)
        if idx is None:
            issues.append(_issue(block_id, "unknown_block", "The execution has no such block."))
        elif idx not in completed:
            issues.append(_issue(block_id, "not_completed", "The block has not completed."))
        elif (words := too_large(plan, idx, value)) is not None:
            issues.append(_issue(block_id, "output_too_large", words))
    if issues:
        raise Unprocessable(str(issues[0]["message"]), issues=issues)


def _issue(block_id: str, code: str, message: str) -> JSONObject:
    remedy = "Name blocks that have completed, with outputs within the limits."
    return {"pointer": pointer("outputs", block_id), "code": code, "message": message, "remedy": remedy}
