"""Which blocks a walker may do ahead of their claim: those that wait only for what it has just done.

A block that is known to be fast costs less than the commit around it.  So where a walker has done all
that such a block waits for, it does the block too and brings the outcomes to the database together.
The claim that it holds stands for all of them.  When the worker dies, or the run is paused, cancelled
or mended by hand meanwhile, a block done ahead is as if nobody had touched it and is done again, with
the same key: so it must be repeatable, and it is the first attempt in the first epoch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping

from agentflow.workflow.large import Large
from agentflow.workflow.plan import PlanBlock
from executions.states import BlockStatus as B

from .facts import Facts
from .judging import Change, Claim

AHEAD = 0  # the primary key in a claim or change of a block that is done ahead


def is_plain(facts: Facts, change: Change) -> bool:
    """Completed, with nothing to do but to close the edges behind it."""
    return (
        change.status is B.COMPLETED
        and not change.iteration
        and not facts.plan[change.idx].routes
        and change.usage is None
        and change.injected is None
        and not change.addressed
        and type(change.output) is not Large
        and type(change.input) is not Large
    )


class Ahead:
    """The blocks that have become possible in one turn, in the plan's order.

    `closed` counts, by block, the edges to it that this walker closed in earlier turns.  It counts them as
    it goes, for a join of thousands is asked about in each turn.
    """

    def __init__(
        self, facts: Facts, *, closed: Mapping[int, int], is_fast: Callable[[PlanBlock], bool]
    ) -> None:
        self._facts = facts
        self._closed = closed
        self._is_fast = is_fast
        self._open: dict[int, int] = {}  # edges that nobody has closed yet, of blocks behind what was done
        self._possible: list[int] = []

    def add(self, change: Change) -> bool:
        """Take note of what was done.  False: nothing can be done ahead behind it."""
        if not is_plain(self._facts, change):
            return False
        for succ in self._facts.plan[change.idx].succs:
            planned = self._facts.plan[succ]
            if succ not in self._open:
                self._open[succ] = len(planned.preds) - self._closed.get(succ, 0)
            self._open[succ] -= 1
            if not self._open[succ] and self._may(planned):
                heapq.heappush(self._possible, succ)
        return True

    def next(self) -> Claim | None:
        """The claim that the next of them would have."""
        if not self._possible:
            return None
        idx = heapq.heappop(self._possible)
        return Claim(pk=AHEAD, idx=idx, attempt=1, effect="keyed", effect_seq=0, crashes=0)

    def _may(self, planned: PlanBlock) -> bool:
        return (
            not planned.special
            and planned.repeat_until is None
            and planned.idx not in self._facts.once
            # What was done without a row would not be undone, were the run stopped meanwhile.
            and planned.idx not in self._facts.plan.compensated_by
            and self._is_fast(planned)
        )


def waited_for(planned: PlanBlock, done: Collection[int]) -> int:
    """How many of a block's edges are closed by blocks that are done."""
    return sum(pred in done for pred in planned.preds)
