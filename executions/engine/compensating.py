"""The compensation of a locked run: when it begins, which blocks it opens, when it is over.

A run that failed, or was cancelled so, is `cancelling` while it compensates.  First it is `due`: calls
in flight are stopped and children end.  Then each completed block that has a compensation gets a row
for it, and those rows are worked on like all others, in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentflow.agents import registry
from agentflow.workflow.compensation import due, runnable
from executions import dispatch
from executions.models import Compensation
from executions.states import SETTLED
from executions.states import BlockStatus as B

from . import statements
from .judging import Change

if TYPE_CHECKING:
    from .run import Run


class Compensating:
    """What `Run` does about compensations."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def wanted(self) -> list[int]:
        """The compensations of the blocks that have completed; nothing is read where there can be none."""
        plan = self._run.facts.plan
        if not plan.compensations:
            return []
        rows = self._run.execute(statements.COMPLETED, idxs=list(plan.compensated_by))
        return due(plan, [idx for (idx,) in rows])

    def go_on(self) -> bool:
        """Take the compensation as far as it can go now.  True: it is over, or there is none."""
        match self._run.compensation:
            case Compensation.DUE:
                if self._busy():
                    return False
                if self._begin():
                    return False
                self._run.set_compensation(None)  # nothing was done that could be undone
            case Compensation.RUNNING:
                if self._open():
                    return False
                self._run.set_compensation(Compensation.DONE)
        return not self._calls()

    def _calls(self) -> bool:
        return self._run.execute(statements.RUNNING).fetchone() is not None

    def _busy(self) -> bool:
        """Calls of the blocks themselves are being stopped, or children undo what they did."""
        return self._calls() or self._run.execute(statements.OPEN_CHILDREN).fetchone() is not None

    def _begin(self) -> bool:
        """Write the rows.  False: there is nothing to compensate."""
        run, plan = self._run, self._run.facts.plan
        wanted = self.wanted()
        if not wanted:
            return False
        first = runnable(plan, wanted)
        blocks = [plan[idx].block for idx in wanted]
        simulated = run.facts.simulation is not None
        run.set_compensation(Compensation.RUNNING)
        run.tell_compensation()
        run.execute(
            statements.ADD_COMPENSATIONS,
            idxs=wanted,
            undone=[plan[idx].compensates for idx in wanted],
            block_ids=[block.block_id for block in blocks],
            readies=[idx in first for idx in wanted],
            effects=["pure"] * len(blocks) if simulated else registry.effects(run.facts.workspace_id, blocks),
        )
        run.look_again(0)
        dispatch.on_commit_hint(run.facts.execution_id, min(len(first), run.facts.max_parallel))
        return True

    def _open(self) -> bool:
        """Make ready what waits for no other compensation any more.  False: all are settled."""
        run, plan = self._run, self._run.facts.plan
        rows = run.execute(statements.COMPENSATIONS, first=len(plan.blocks)).fetchall()
        unsettled = {idx for _, idx, status in rows if B(status) not in SETTLED}
        blocked = {idx: pk for pk, idx, status in rows if status == B.BLOCKED}
        if blocked:
            opening = sorted(runnable(plan, unsettled) & blocked.keys())
            run.move([Change(pk=blocked[idx], idx=idx, status=B.READY) for idx in opening], B.BLOCKED)
        return bool(unsettled)
