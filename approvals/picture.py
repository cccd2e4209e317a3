"""A small picture of an execution with one step marked, drawn on the server.

The steps and edges are those of the execution's page; beyond MOST steps only the neighbourhood of the
marked one is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentflow.api.templatetags.agentflow_ui import look_of
from executions import facts, selectors
from executions.facts import BlockFacts

from .models import Approval

MOST = 40
WIDE, HIGH = 26, 16  # of a step
ACROSS, DOWN = 56, 30  # from one to the next


@dataclass(frozen=True, slots=True)
class Box:
    x: int
    y: int
    look: str
    name: str
    marked: bool


@dataclass(frozen=True, slots=True)
class Picture:
    boxes: list[Box]
    lines: list[str]  # paths as SVG writes them
    width: int
    height: int
    left_out: int
    words: str


def of(approval: Approval) -> Picture | None:
    """None where the step is in no graph: it undoes another."""
    known = {
        block_id: block
        for block_id, block in facts.of_version(approval.execution.template_version_id).items()
        if not block.compensates
    }
    if approval.block_id not in known:
        return None
    near = known if len(known) <= MOST else _near(known, approval.block_id)
    levels = _levels(near)
    rows: dict[int, list[str]] = {}
    for block_id in near:
        rows.setdefault(levels[block_id], []).append(block_id)
    tallest = max(map(len, rows.values()))
    at = {
        block_id: (_across(level), DOWN // 2 + round((place + (tallest - len(names)) / 2) * DOWN))
        for level, names in rows.items()
        for place, block_id in enumerate(names)
    }
    looks = {
        row.block_id: look_of(row.status, row.attempt).look
        for row in selectors.block_rows(approval.execution)
        if row.block_id in near
    }
    return Picture(
        boxes=[
            Box(*at[block_id], looks.get(block_id, "pending"), block.name, block_id == approval.block_id)
            for block_id, block in near.items()
        ],
        lines=[
            _line(at[before], at[block_id])
            for block_id, block in near.items()
            for before in block.dependencies
            if before in near
        ],
        width=_across(max(rows)) + ACROSS // 2,
        height=tallest * DOWN,
        left_out=len(known) - len(near),
        words=f"Graph with {len(known)} steps; {approval.block_name} is marked",
    )


def _across(level: int) -> int:
    return ACROSS // 2 + level * ACROSS


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = start, end
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"


def _levels(blocks: dict[str, BlockFacts]) -> dict[str, int]:
    """How far each is from the beginning, by the longest way; a graph has no circles."""
    found: dict[str, int] = {}
    waiting = list(blocks)
    while waiting:
        block_id = waiting[-1]
        before = [name for name in blocks[block_id].dependencies if name in blocks]
        unknown = [name for name in before if name not in found]
        if unknown and block_id not in found:
            waiting += unknown
            continue
        waiting.pop()
        found.setdefault(block_id, 1 + max((found[name] for name in before), default=-1))
    return found


def _near(blocks: dict[str, BlockFacts], marked: str) -> dict[str, BlockFacts]:
    """The marked step and those nearest to it along the edges, in the definition's order."""
    beside: dict[str, list[str]] = {}
    for block_id, block in blocks.items():
        for before in block.dependencies:
            if before in blocks:
                beside.setdefault(block_id, []).append(before)
                beside.setdefault(before, []).append(block_id)
    found = [marked]
    for block_id in found:  # grows meanwhile: breadth first
        new = [name for name in dict.fromkeys(beside.get(block_id, ())) if name not in found]
        found += new[: MOST - len(found)]
    return {block_id: block for block_id, block in blocks.items() if block_id in found}
