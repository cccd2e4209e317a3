"""I6: no attempt starts before its predecessors are settled and enough of its incoming edges are live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import networkx as nx

from agentflow.workflow.compensation import due, runnable
from agentflow.workflow.plan import Plan, PlanBlock
from executions.models import BlockExecution
from executions.states import SETTLED
from executions.states import BlockStatus as B

from .reading import Story
from .violations import Violation

if TYPE_CHECKING:
    from .folding import Fold

OPEN, TAKEN, DEAD, FAILED = "open", "taken", "dead", "failed"


def refusal(fold: Fold, planned: PlanBlock) -> str:
    """Why a block may not run yet, as the changes so far stand; empty: it may."""
    if planned.compensates is not None:
        open_ = [
            idx
            for (epoch, idx, _), standing in fold.standings.items()
            if epoch == fold.epoch and idx >= len(fold.story.plan.blocks) and standing.status not in SETTLED
        ]
        return "" if planned.idx in runnable(fold.story.plan, open_) else "what was done later is not undone"
    edges: Counter[str] = Counter()
    for source in planned.preds:
        row = fold.story.rows.get((fold.epoch, source, 0))
        standing = fold.standings[fold.epoch, source, 0]
        choice = None if row is None else row.choice
        edges[edge(fold.story.plan, source, planned.idx, standing.status, standing.reason, choice)] += 1
    return _may_not_run(planned, edges)


def edge(plan: Plan, source: int, target: int, status: str, reason: str, choice: list[int] | None) -> str:
    """How the edge between two blocks stands when the first is `status`.

    A block that was stopped because others won the race for a join closes nothing.
    """
    origin = plan[source]
    if status == B.SKIPPED:
        return FAILED if reason == "upstream_failed" else DEAD
    if status == B.FAILED and origin.block.on_error != "continue":
        return FAILED
    if status not in (B.COMPLETED, B.FAILED):
        return OPEN
    taken = choice or []
    if status == B.FAILED and origin.conditions is not None:
        default = origin.conditions.default
        taken = [] if default is None else [default]
    if target not in origin.named or any(target in origin.branches[branch] for branch in taken):
        return TAKEN
    return DEAD


def _may_not_run(planned: PlanBlock, edges: Counter[str]) -> str:
    if planned.needed is not None:
        short = planned.needed - edges[TAKEN]
        return f"{short} more of its edges had to be taken" if short > 0 else ""
    if edges[OPEN]:
        return f"{edges[OPEN]} of its predecessors were not settled"
    if not planned.preds:
        return ""
    if planned.join_all and edges[DEAD]:
        return "it joins all, and an edge was dead"
    rule = planned.block.run_on
    if rule == "failure":
        return "" if edges[FAILED] else "nothing before it had failed"
    if rule == "success" and edges[FAILED]:
        return "an edge had failed"
    return "" if edges[TAKEN] or edges[FAILED] else "no edge was live"


def check(story: Story) -> list[Violation]:
    """The same by the clock of the rows: what ran began after what it waited for had ended."""
    found = [Violation("I6", story.execution.pk, what) for what in _compensated(story)]
    for row in story.own():
        began = _began(story, row)
        planned = story.plan[row.idx]
        if began is None or planned.needed is not None:
            continue
        for source in planned.preds:
            before = story.rows.get((row.epoch, source, 0))
            if before is not None and before.completed_at is not None and before.completed_at > began:
                found.append(_too_early(story, row, before))
    return found


def _compensated(story: Story) -> Iterator[str]:
    """What completed is undone, all of it and nothing else, and the last first."""
    plan, epoch = story.plan, story.execution.epoch
    if story.execution.compensation not in ("running", "done"):
        return
    rows = {row.idx: row for row in story.current() if not row.iteration}
    wanted = due(
        plan, [idx for idx, row in rows.items() if row.status == B.COMPLETED and idx < len(plan.blocks)]
    )
    made = sorted(idx for idx in rows if idx >= len(plan.blocks))
    if made != wanted:
        yield f"compensations {made} were made in epoch {epoch}, {wanted} were due"
    ends: nx.DiGraph[int] = nx.DiGraph(
        [(planned.idx, succ) for planned in plan.blocks for succ in planned.succs]
    )
    for idx in made:
        began, of = _began(story, rows[idx]), plan[idx].compensates
        later = nx.descendants(ends, of) if of in ends else set()
        for other in made:
            ended = rows[other].completed_at
            if began and plan[other].compensates in later and (ended is None or ended > began):
                yield f"{rows[idx].block_id} began before {rows[other].block_id} had ended"


def _began(story: Story, row: BlockExecution) -> datetime | None:
    return min([attempt.started_at for attempt in story.attempts.get(row.pk, [])], default=None)


def _too_early(story: Story, row: BlockExecution, before: BlockExecution) -> Violation:
    what = f"{row.block_id} began before {before.block_id} had ended, in epoch {row.epoch}"
    return Violation("I6", story.execution.pk, what)
