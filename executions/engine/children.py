"""Sub-workflows that have ended: what they gave, or why they gave nothing."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

from agentflow.agents.calls import Completed, Failed
from agentflow.types import JSONObject
from agentflow.workflow.failures import Failure, FailureKind
from executions import blobs, spending
from executions.states import TERMINAL
from executions.states import ExecutionStatus as E

from .facts import facts_of
from .rows import loads
from .run import raw_cursor

PARENT_ENDED = "parent_ended"  # the code of a child that was stopped because its parent waits no longer


def outputs_of(cursor: psycopg.Cursor[Any], child_id: UUID, epoch: int) -> JSONObject:
    """A sub-workflow's output: what its last blocks gave, by blockId."""
    child = facts_of(child_id)
    assert child is not None
    rows = cursor.execute(
        "SELECT block_id, CASE WHEN edit IS NULL THEN output ELSE edit -> 'output' END,"
        " CASE WHEN edit IS NULL THEN output_blob END"
        " FROM executions_blockexecution WHERE execution_id = %s AND epoch = %s"
        " AND idx = ANY(%s::int[]) AND status = 'completed' ORDER BY idx",
        (child_id, epoch, list(child.plan.sinks)),
    )
    return {block_id: blobs.of_row(output, blob) for block_id, output, blob in rows}


def failure_of(child_id: UUID, status: str, error: JSONObject) -> Failure:
    return Failure(
        FailureKind.CRITICAL,
        f"child_{status}",
        f"The sub-workflow ended as {status}: {error.get('message', 'no reason given')}",
        evidence={"executionId": str(child_id)},
    )


def end_of(child_id: UUID) -> Completed | Failed | None:
    """How a sub-workflow ended that an agent called; None: it was stopped, for nobody waited for it.

    Read outside of locks: what it gave may have to be fetched.

    Raises:
        LargeUnavailable
    """
    cursor = raw_cursor()
    row = cursor.execute(
        "SELECT status, epoch, error FROM executions_execution WHERE id = %s", (child_id,)
    ).fetchone()
    if row is None or row[0] not in TERMINAL:
        return None
    status, epoch, said = row
    error = loads(said) or {}
    if status != E.COMPLETED and error.get("code") == PARENT_ENDED:
        return None
    used = spending.of_run(child_id)
    if status != E.COMPLETED:
        return Failed(failure_of(child_id, status, error), used)
    try:
        return Completed(blobs.filled(outputs_of(cursor, child_id, epoch)), usage=used)
    except blobs.TooLarge as large:
        return Failed(large.failure, used)
