"""An execution as JSON, computed from its rows at the moment of the question.

Nothing here is stored: lists of blocks by state, the context and the progress are views of block
rows, so parallel writers have nothing to overwrite.  Values above `LIMITS.inline_value_bytes` are
given by reference: `{"$ref": "/api/v1/executions/.../blocks/fetch/output", "bytes": 20480}`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import quote
from uuid import UUID

from agentflow.conf import LIMITS
from agentflow.events.store import Cursor
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.large import NOTE

from . import blobs, facts, selectors, spending
from .facts import NOTHING_KNOWN, BlockFacts
from .incidents import reads as incidents
from .models import AgentStep, BlockExecution, Execution, RecoveryPoint
from .selectors import BlockRow, Progress
from .states import BlockStatus

CURRENT = (BlockStatus.READY, BlockStatus.RUNNING)
WAITING = (BlockStatus.WAITING_HUMAN, BlockStatus.WAITING_EXTERNAL)

POINTS_SHOWN = 20  # in the execution; the list has all

SUMMARY_FIELDS = (
    "executionId",
    "templateId",
    "templateName",
    "templateVersion",
    "versionNumber",
    "workspaceId",
    "status",
    "epoch",
    "simulated",
    "durability",
    "compensation",
    "createdAt",
    "startedAt",
    "completedAt",
    "createdBy",
    "businessKey",
    "parentExecutionId",
    "forkedFrom",
    "progress",
)
BLOCK_LISTS = ("currentBlocks", "completedBlocks", "failedBlocks", "blockedBlocks")
DETAIL_FIELDS = (
    *SUMMARY_FIELDS,
    "usage",
    "deadlineAt",
    "input",
    "error",
    *BLOCK_LISTS,
    "blockExecutions",
    "globalContext",
    "recoveryPoints",
)


def summary(execution: Execution, progress: Progress, parent: UUID | None = None) -> JSONObject:
    """One line of a list of executions."""
    version = execution.template_version
    return {
        "executionId": execution.pk,
        "templateId": version.template_id,
        "templateName": version.template.name,
        "templateVersion": version.label or str(version.number),
        "versionNumber": version.number,
        "workspaceId": execution.workspace_id,
        "status": execution.status,
        "epoch": execution.epoch,
        "simulated": execution.simulated,
        "durability": execution.durability,
        "compensation": execution.compensation or None,
        "createdAt": execution.created_at,
        "startedAt": execution.started_at,
        "completedAt": execution.completed_at,
        "createdBy": execution.created_by.get_username() if execution.created_by else None,
        "businessKey": execution.business_key,
        "parentExecutionId": parent,
        "forkedFrom": forked_from(execution),
        "progress": {"settled": progress.settled, "total": progress.total},
    }


def forked_from(execution: Execution) -> JSONObject | None:
    """Where a fork began."""
    if execution.forked_from_id is None:
        return None
    return {
        "executionId": execution.forked_from_id,
        "epoch": execution.forked_epoch,
        "recoveryPointId": execution.forked_point,
    }


def summaries(executions: Sequence[Execution]) -> list[JSONObject]:
    """Lines of a list, in three queries at most, however many executions."""
    progress = selectors.progress(execution.pk for execution in executions)
    parents = selectors.parents(executions)
    return [
        summary(execution, progress.get(execution.pk, Progress(0, 0)), parents.get(execution.pk))
        for execution in executions
    ]


def detail(execution: Execution, fields: Collection[str] = DETAIL_FIELDS) -> JSONObject:
    """The execution with its blocks: those of `fields` that were asked for, nothing else is fetched."""
    wanted = frozenset(fields)
    values = bool(wanted & {"blockExecutions", "globalContext"})
    rows: list[BlockRow] = []
    if values or wanted & {"progress", *BLOCK_LISTS}:
        rows = selectors.block_rows(execution, values=values)
    progress = Progress(sum(row.settled for row in rows), len(rows))
    parents = selectors.parents([execution]) if "parentExecutionId" in wanted else {}
    found = summary(execution, progress, parents.get(execution.pk))
    found |= {"deadlineAt": execution.deadline_at, "error": execution.error}
    if "usage" in wanted:
        found["usage"] = spending.of_run(execution.pk)
    if "recoveryPoints" in wanted:
        newest = selectors.points(execution)[:POINTS_SHOWN]
        found["recoveryPoints"] = [point(each) for each in newest]
    if "input" in wanted:
        found["input"] = _input(execution)
    found |= {
        "currentBlocks": _ids(rows, CURRENT),
        "completedBlocks": _ids(rows, (BlockStatus.COMPLETED,)),
        "failedBlocks": _ids(rows, (BlockStatus.FAILED,)),
        "blockedBlocks": _ids(rows, WAITING),
    }
    if "blockExecutions" in wanted:
        found["blockExecutions"] = blocks(execution, rows)
    if "globalContext" in wanted:
        found["globalContext"] = {
            row.block_id: _output(execution, row) for row in rows if row.status == BlockStatus.COMPLETED
        }
    return {name: found[name] for name in DETAIL_FIELDS if name in wanted}


def _ids(rows: Iterable[BlockRow], statuses: Collection[str]) -> list[str]:
    return [row.block_id for row in rows if row.status in statuses]


def point(found: RecoveryPoint) -> JSONObject:
    """A recovery point; its cursor is where the log of what came after it begins."""
    return {
        "recoveryPointId": found.pk,
        "epoch": found.epoch,
        "kind": found.kind,
        "name": found.name or None,
        "settled": found.settled_count,
        "cursor": str(Cursor.after(found.xid)),
        "createdAt": found.created_at,
        "createdBy": found.created_by.get_username() if found.created_by else None,
    }


# -- blocks --------------------------------------------------------------------


def blocks(execution: Execution, rows: Sequence[BlockRow], *, everything: bool = True) -> list[JSONObject]:
    """Blocks as JSON; `everything` says that `rows` are all blocks of the execution."""
    known = _facts(execution)
    pks = None if everything else [row.pk for row in rows]
    asked = interactions(execution, pks)
    used = spending.of_blocks(execution.pk, execution.epoch, pks)
    return [
        block(
            execution,
            row,
            known.get(row.block_id, NOTHING_KNOWN),
            asked=asked.get(row.pk, []),
            used=used.get(row.pk),
        )
        for row in rows
    ]


def block(
    execution: Execution,
    row: BlockRow,
    known: BlockFacts,
    *,
    asked: Sequence[JSONObject],
    used: JSONObject | None,
) -> JSONObject:
    return {
        "blockExecutionId": row.pk,
        "blockId": row.block_id,
        "name": known.name or row.block_id,
        "executionId": execution.pk,
        "agentId": known.agent_id,
        "toolType": known.tool_type,
        "status": row.status,
        "reason": row.reason or None,
        "startedAt": row.started_at,
        "completedAt": row.completed_at,
        "availableAt": row.available_at if row.status == BlockStatus.READY else None,
        "attempt": row.attempt,
        "retryCount": max(row.attempt - 1, 0),
        "effect": row.effect,
        "choice": row.choice,
        "dependencies": list(known.dependencies),
        "input": _value(row.input, row.input_bytes, execution, row, "input"),
        "output": _output(execution, row),
        "edited": edited(row),
        "error": row.error,
        "usage": used or spending.nothing(),
        "humanInteractions": list(asked),
    }


def edited(row: BlockRow) -> JSONObject | None:
    """Who put another output in place of a block's own."""
    if row.edited_by is None:
        return None
    return {"by": row.edited_by, "at": row.edited_at, "reason": row.edit_reason or None}


def block_detail(execution: Execution, found: BlockExecution) -> JSONObject:
    """One block with its attempts, late results and what it was given to work on."""
    known = _facts(execution).get(found.block_id, NOTHING_KNOWN)
    row = row_of(found)
    asked = interactions(execution, [found.pk]).get(found.pk, [])
    used = spending.of_blocks(execution.pk, execution.epoch, [found.pk]).get(found.pk)
    shown = block(execution, row, known, asked=asked, used=used)
    late_results = list(selectors.late_results(found))
    sizes = blobs.sizes(late.output_blob for late in late_results)
    receipts = selectors.receipts(found)
    attempts = list(selectors.attempts(found))
    origin = found.carried_from or found.pk
    failed = found.error is not None or any(each.failure for each in attempts)
    from_dependencies = _from_dependencies(found)
    if from_dependencies:
        shown["input"] = dependency_outputs(execution, known)
    return {
        **shown,
        "originalOutput": None if found.edit is None else _original(execution, found),
        "inputSource": "dependencies" if from_dependencies else "mapping",
        "crashes": found.crashes,
        "attempts": [
            {
                "attempt": attempt.attempt,
                "outcome": attempt.outcome,
                "agentId": attempt.agent_id or None,
                "error": attempt.failure,
                "usage": attempt.usage,
                "injected": (attempt.injected or {}).get("fault"),
                "startedAt": attempt.started_at,
                "completedAt": attempt.ended_at,
                "receipt": receipts.get(attempt.attempt),
            }
            for attempt in attempts
        ],
        "incidentId": incidents.of_blocks([origin]).get(origin) if failed else None,
        "lateResults": [
            {
                "attempt": late.attempt,
                "at": late.at,
                "error": late.failure,
                # No address of its own: a big one is cut to its size, as it has no effect anyway.
                "output": _sized(late.output, late.output_blob, sizes),
            }
            for late in late_results
        ],
    }


def _original(execution: Execution, found: BlockExecution) -> JSONValue:
    """What an edited block gave itself."""
    url = f"{block_address(execution, row_of(found))}/output?original=true"
    url += f"&epoch={execution.epoch}" if execution.past else ""
    if found.output_blob is not None:
        return {"$ref": url, "bytes": blobs.sizes([found.output_blob]).get(found.output_blob, 0)}
    return _inline(found.output, url)


def steps(rows: Iterable[AgentStep]) -> list[JSONObject]:
    """Steps of a block's agent; a result that is too large is given by its size."""
    return [
        {
            "number": step.number,
            "path": step.path,  # type: ignore[attr-defined]  # annotated by the selector
            "kind": step.kind,
            "name": step.name,
            "status": step.status,
            "attempt": step.attempt,
            "request": step.request,
            "requestHash": step.request_hash,
            "result": _sized(step.result),
            "error": step.failure,
            "usage": step.usage,
            "decision": step.decision,
            "idempotencyKey": f"{step.operation}:step:{step.number}",
            "startedAt": step.began_at,
            "completedAt": step.ended_at,
        }
        for step in rows
    ]


def items(rows: Sequence[BlockExecution]) -> list[JSONObject]:
    """Items of a `forEach`; values that are too large are given by their size."""
    sizes = blobs.sizes(row.output_blob for row in rows)
    return [_item(row, sizes) for row in rows]


def _item(found: BlockExecution, sizes: Mapping[UUID, int]) -> JSONObject:
    return {
        "blockExecutionId": found.pk,
        "index": found.iteration - 1,
        "item": _sized(found.item),
        "status": found.status,
        "reason": found.reason or None,
        "attempt": found.attempt,
        "startedAt": found.started_at,
        "completedAt": found.completed_at,
        "output": _sized(found.output, found.output_blob, sizes),
        "error": found.error,
    }


def _sized(value: JSONValue, blob: UUID | None = None, sizes: Mapping[UUID, int] | None = None) -> JSONValue:
    if blob is not None:
        return {"bytes": (sizes or {}).get(blob, 0)}
    return value if _fits(value) else {"bytes": json_bytes(value)}


def _from_dependencies(found: BlockExecution) -> bool:
    return found.input is None and found.input_blob is None and found.attempt > 0


def row_of(found: BlockExecution) -> BlockRow:
    """The row of one block that was fetched whole."""
    output, edit = found.shown_output, found.edit or {}
    output_blob = None if edit else found.output_blob
    sizes = blobs.sizes([found.input_blob, output_blob])

    def size(value: JSONValue, blob: UUID | None) -> int | None:
        return (None if value is None else json_bytes(value)) if blob is None else sizes.get(blob, 0)

    return BlockRow(
        pk=found.pk,
        block_id=found.block_id,
        status=found.status,
        attempt=found.attempt,
        effect=found.effect,
        reason=found.reason,
        started_at=found.started_at,
        completed_at=found.completed_at,
        available_at=found.available_at,
        lease_expires_at=found.lease_expires_at,
        todo=found.todo,
        choice=found.choice,
        error=found.error,
        input=found.input if _fits(found.input) else None,
        input_bytes=size(found.input, found.input_blob),
        output=output if _fits(output) else None,
        output_bytes=size(output, output_blob),
        edited_by=edit.get("by"),
        edited_at=edit.get("at"),
        edit_reason=edit.get("reason"),
    )


def block_input(execution: Execution, found: BlockExecution) -> JSONValue:
    """What a block was given to work on, in full; outputs it depends on by reference where they are big."""
    if _from_dependencies(found):
        known = _facts(execution).get(found.block_id, NOTHING_KNOWN)
        return dependency_outputs(execution, known)
    return found.input


def dependency_outputs(execution: Execution, known: BlockFacts) -> JSONObject:
    """What a block without an `input` mapping was given: the outputs of what it depends on."""
    rows = selectors.outputs(execution, known.dependencies)
    return {row.block_id: _output(execution, row) for row in rows}


def interactions(execution: Execution, block_pks: Sequence[int] | None = None) -> dict[int, list[JSONObject]]:
    """What people were asked, by the block's row, oldest first."""
    found: dict[int, list[JSONObject]] = {}
    carried = selectors.carried(execution)
    if block_pks is not None:
        wanted = set(block_pks)
        block_pks = [*wanted, *(origin for origin, shown in carried.items() if shown in wanted)]
    for asked in selectors.questions(execution, block_pks):
        found.setdefault(carried.get(asked.block_pk, asked.block_pk), []).append(
            {
                "approvalId": asked.approval_id,
                "type": asked.kind,
                "level": asked.level,
                "status": asked.status,
                "requestedAt": asked.requested_at,
                "respondBy": asked.respond_by,
                "respondedAt": asked.responded_at,
                "approved": asked.approved,
                "response": asked.response,
                "comments": asked.comments or None,
                "approver": asked.approver or None,
                "carriedFrom": asked.carried_from,
            }
        )
    return found


# -- values --------------------------------------------------------------------


def address(execution: Execution) -> str:
    return f"/api/v1/executions/{execution.pk}"


def block_address(execution: Execution, row: BlockRow) -> str:
    """Where a block is found.  An id that a path cannot carry unharmed gives way to the row's number."""
    awkward = "/" in row.block_id or row.block_id in {".", ".."}
    return f"{address(execution)}/blocks/{row.pk if awkward else quote(row.block_id, safe='')}"


def _output(execution: Execution, row: BlockRow) -> JSONValue:
    return _value(row.output, row.output_bytes, execution, row, "output")


def _value(value: JSONValue, size: int | None, execution: Execution, row: BlockRow, name: str) -> JSONValue:
    if value is None and size is not None and size > len("null"):
        epoch = f"?epoch={execution.epoch}" if execution.past else ""
        return {"$ref": f"{block_address(execution, row)}/{name}{epoch}", "bytes": size}
    return value


def _input(execution: Execution) -> JSONValue:
    url = f"{address(execution)}/input"
    if execution.input_blobs is None:
        return _inline(execution.input, url)
    sizes = blobs.sizes(UUID(key) for key in execution.input_blobs)
    noted = sum(len(names) for names in execution.input_blobs.values()) * json_bytes(NOTE)
    parts = sum(sizes.get(UUID(key), 0) * len(names) for key, names in execution.input_blobs.items())
    return {"$ref": url, "bytes": json_bytes(execution.input) - noted + parts}


def _inline(value: JSONValue, url: str) -> JSONValue:
    size = json_bytes(value)
    return value if size <= LIMITS.inline_value_bytes else {"$ref": url, "bytes": size}


def json_bytes(value: JSONValue) -> int:
    """The size of a value as PostgreSQL would write it."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def _fits(value: JSONValue) -> bool:
    return json_bytes(value) <= LIMITS.inline_value_bytes


def _facts(execution: Execution) -> dict[str, BlockFacts]:
    return facts.of_version(execution.template_version_id)
