"""Decisions of the epoch before, taken again by blocks that run again and would ask the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentflow.workflow.plan import PlanBlock
from executions.ports import Decision, HumanAsk, human_gate

if TYPE_CHECKING:
    from .run import Run


class Decisions:
    """Of the epoch that a restart went back to.  Costs nothing in a run that was not restarted."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._by_idx: dict[int, Mapping[int, Decision]] = {}
        self._taken: list[tuple[HumanAsk, Decision]] = []

    def about(self, planned: PlanBlock, iteration: int, ask: HumanAsk) -> Decision | None:
        """The decision that counts for this question, if there is one.

        A refusal that failed its block is none: to go on, somebody has to think again.  So it is for what
        a person sent back.
        """
        epoch = self._run.decisions_of
        if epoch is None or planned.human is None or self._sent_back(planned):
            return None
        if planned.idx not in self._by_idx:
            self._by_idx[planned.idx] = human_gate().decisions(
                execution_id=self._run.facts.execution_id, epoch=epoch, idx=planned.idx
            )
        found = self._by_idx[planned.idx].get(iteration)
        if found is None or not (found.approved or planned.human.on_reject != "fail"):
            return None
        return found if found.content_hash == human_gate().content_hash(ask) else None

    def _sent_back(self, planned: PlanBlock) -> bool:
        rework = self._run.rework
        return (
            rework is not None
            and rework["epoch"] == self._run.epoch
            and planned.block_id in (*rework["blocks"], rework["askedBy"])
        )

    def take(self, ask: HumanAsk, decision: Decision) -> None:
        """Its block was moved on by it; recorded as the run is left."""
        self._taken.append((ask, decision))

    def leave(self) -> None:
        if self._taken:
            human_gate().carry(self._taken)
