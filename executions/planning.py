"""The dynamic execution plan: what is ready, what comes next, what can go side by side, how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentflow.types import JSONObject
from agentflow.workflow.compensation import waves
from agentflow.workflow.plan import Plan

from . import history, selectors
from .engine.facts import version_facts
from .models import Execution
from .selectors import BlockRow
from .states import BlockStatus as B


def execution_plan(execution: Execution) -> JSONObject:
    """The plan of what is left, from the rows of this moment and the attempts of earlier runs."""
    plan = version_facts(execution.template_version_id).plan
    rows = {plan.index[row.block_id]: row for row in selectors.block_rows(execution)}
    expected = history.expected_ms(execution.template_version_id, simulated=execution.simulated)
    left = [idx for idx in sorted(rows) if not rows[idx].settled]
    return {
        "executionId": execution.pk,
        "status": execution.status,
        "epoch": execution.epoch,
        "ready": _ids(plan, rows, B.READY),
        "running": _ids(plan, rows, B.RUNNING),
        "waiting": _ids(plan, rows, B.WAITING_HUMAN, B.WAITING_EXTERNAL),
        "next": [plan[idx].block_id for idx in left if _is_next(plan, idx, rows)],
        "parallelGroups": [[plan[idx].block_id for idx in group] for group in _groups(plan, left)],
        "progress": _progress(plan, rows, left, expected),
    }


def _groups(plan: Plan, left: Sequence[int]) -> list[list[int]]:
    """While compensations are left nothing else is: they go in their own order."""
    undo = [idx for idx in left if plan[idx].compensates is not None]
    return waves(plan, undo) if undo else levels(plan, left)


def levels(plan: Plan, left: Sequence[int]) -> list[list[int]]:
    """Blocks by how many unsettled blocks, one after the other, stand before them."""
    depth: dict[int, int] = {}
    groups: list[list[int]] = []
    for idx in left:  # in topological order
        depth[idx] = 1 + max((depth[pred] for pred in plan[idx].preds if pred in depth), default=-1)
        if depth[idx] == len(groups):
            groups.append([])
        groups[depth[idx]].append(idx)
    return groups


def _ids(plan: Plan, rows: Mapping[int, BlockRow], *statuses: B) -> list[str]:
    return [plan[idx].block_id for idx in sorted(rows) if rows[idx].status in statuses]


def _is_next(plan: Plan, idx: int, rows: Mapping[int, BlockRow]) -> bool:
    """Whether the block is decided once what runs now completes."""
    if rows[idx].status != B.BLOCKED:
        return False
    planned = plan[idx]
    open_before = [rows[pred] for pred in planned.preds if not rows[pred].settled]
    running = sum(row.status == B.RUNNING for row in open_before)
    if not running:
        return False
    if planned.needed is None:
        return running == len(open_before)
    came = sum(rows[pred].status == B.COMPLETED for pred in planned.preds)
    return came + running >= planned.needed


def _progress(
    plan: Plan, rows: Mapping[int, BlockRow], left: Sequence[int], expected: Mapping[int, float]
) -> JSONObject:
    """`weighted` counts blocks by their expected time; one never seen weighs as the mean of the others."""
    mean = sum(expected.values()) / len(expected) if expected else 1.0
    weights = {idx: max(expected.get(idx, mean), 0.001) for idx in rows}
    total = sum(weights.values())
    remaining = sum(weights[idx] for idx in left)
    return {
        "settled": len(rows) - len(left),
        "total": len(rows),
        "weighted": round((total - remaining) / total, 4) if total else 1.0,
        "remainingMs": history.estimate_ms(plan, left, expected) if left else 0,
    }
