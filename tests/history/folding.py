"""I2, I3 and I10: every recorded change is an edge, nothing ended changes, and the changes give the rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentflow.conf import LIMITS
from agentflow.events.models import Event
from agentflow.lifecycle import Lifecycle
from agentflow.workflow.plan import PlanBlock
from executions.models import BlockExecution
from executions.states import BLOCK, EXECUTION, REPAIR, RESTART, SETTLED, TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from .order import refusal
from .reading import FOLDED, Place, Story
from .violations import Violation

AGAIN = "run_again"  # a person takes a failure back, or ends a backoff


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the changes so far have brought a block; `at`: since when it is settled."""

    status: B
    attempt: int = 0
    reason: str = ""
    at: datetime | None = None


def check(story: Story) -> list[Violation]:
    return Fold(story).run()


class Fold:
    """Follows one execution's events in the order in which they were written under its lock."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.status: E | None = None
        self.ended_at: datetime | None = None
        self.epoch = 1
        self.compensates = False
        self.standings: dict[Place, Standing] = {}
        self.found: list[Violation] = []
        forked = story.execution.forked_from_id is not None
        for planned in story.plan.blocks:
            ready = not planned.preds and not planned.special and not forked
            self.standings[1, planned.idx, 0] = Standing(B.READY if ready else B.BLOCKED)
        for place, row in story.rows.items():
            if forked and row.carried_from is not None and row.epoch == 1:
                self.standings[place] = Standing(B(row.status), row.attempt, row.reason, row.completed_at)

    def run(self) -> list[Violation]:
        for event in self.story.events:
            if event.type not in FOLDED:
                continue
            payload = event.payload or {}
            if event.block_id is None:
                self._execution(event, payload)
            elif event.block_id in self.story.plan.index:
                self._block(event, payload)
            else:
                self._say("I11", f"a change of {event.block_id!r}, which its version does not have")
        self._compare()
        return self.found

    def _say(self, invariant: str, what: str) -> None:
        self.found.append(Violation(invariant, self.story.execution.pk, what))

    # -- the execution --------------------------------------------------------

    def _execution(self, event: Event, payload: dict[str, Any]) -> None:
        before, after = self.status, E(payload["status"])
        self.status = after
        self.ended_at = event.at if after in TERMINAL else None
        if before is None:
            if after is not E.PENDING:
                self._say("I2", f"its first change is {after}")
        elif "epoch" in payload:
            self._restart(before, after, payload["epoch"], event)
        elif before in TERMINAL:
            self._say("I3", f"it was {before} and became {after} in the same epoch")
        elif "compensation" in payload:
            self.compensates = payload["compensation"] == "running"
            if (before, after) != (E.CANCELLING, E.CANCELLING):
                self._say("I2", f"it was {before} and began to undo what it did")
        elif not EXECUTION.allows(before, after):
            self._say("I10" if before is E.PAUSED else "I2", f"{before} became {after}")

    def _restart(self, before: E, after: E, epoch: int, event: Event) -> None:
        rework = (event.payload or {}).get("reason") == "rework"
        allowed = before is after is E.RUNNING if rework else RESTART.allows(before, after)
        if not allowed or epoch != self.epoch + 1:
            self._say("I2", f"epoch {epoch} follows {self.epoch}, {before} became {after}")
        for (old, idx, iteration), standing in list(self.standings.items()):
            if old == self.epoch and idx < len(self.story.plan.blocks):
                self.standings[epoch, idx, iteration] = standing
        if rework:
            self._move_on(event.at)
        self.epoch = epoch
        self.compensates = False

    def _move_on(self, at: datetime) -> None:
        """Rows that were open have gone to the next epoch; something stands for each in the old one."""
        open_ = {
            idx
            for (epoch, idx, iteration), standing in self.standings.items()
            if epoch == self.epoch and not iteration and standing.status not in SETTLED
        }
        for place in [p for p in self.standings if p[0] == self.epoch and p[1] in open_]:
            del self.standings[place]
        for idx in open_:
            self.standings[self.epoch, idx, 0] = Standing(B.CANCELLED, 0, "rework", at)

    # -- blocks ---------------------------------------------------------------

    def _block(self, event: Event, payload: dict[str, Any]) -> None:
        assert event.block_id is not None
        planned = self.story.plan[self.story.plan.index[event.block_id]]
        item = payload.get("item", 0)
        place = (self.epoch, planned.idx, item)
        before = self.standings.get(place) or _new_item(planned, item)
        after = Standing(
            B(payload["status"]),
            payload["attempt"],
            payload.get("reason", ""),
            event.at if payload["status"] in SETTLED else None,
        )
        if after.reason in ("restart", "rework") and after.status is B.BLOCKED:
            self._run_anew(planned.idx)
        elif after.reason == "compensation" and planned.compensates is not None:
            self._begin_compensation(planned, after, known=place in self.standings)
        else:
            self._check_edge(planned, item, before, after)
        self.standings[place] = after

    def _begin_compensation(self, planned: PlanBlock, after: Standing, *, known: bool) -> None:
        undone = self.standings[self.epoch, planned.compensates or 0, 0]
        if known or not self.compensates or undone.status is not B.COMPLETED:
            self._say("I6", f"{planned.block_id} was made, and what it undoes is {undone.status}")
        if after.status not in (B.READY, B.BLOCKED) or after.attempt:
            self._say("I2", f"{planned.block_id} was made as {after.status}")

    def _run_anew(self, idx: int) -> None:
        for place in [p for p in self.standings if p[:2] == (self.epoch, idx)]:
            del self.standings[place]

    def _check_edge(self, planned: PlanBlock, item: int, before: Standing, after: Standing) -> None:
        name = _name(planned, item)
        step = f"{name}: {before.status} became {after.status}"
        if not _is_edge(before, after):
            self._say("I3" if before.status in SETTLED else "I2", step)
        starts = after.status is B.RUNNING
        handed_back = before.status is B.RUNNING and after.reason == "agent"  # nobody was called
        if after.attempt != before.attempt + starts - handed_back:
            self._say("I4", f"{step}, attempt {before.attempt} became {after.attempt}")
        works = self.compensates if planned.compensates is not None else self.status is E.RUNNING
        if starts and not works:
            self._say("I10", f"{name} started while the execution was {self.status}")
        if before.status is B.BLOCKED and after.status not in (B.SKIPPED, B.CANCELLED):
            if item:
                if self.standings[self.epoch, planned.idx, 0].status is not B.WAITING_EXTERNAL:
                    self._say("I6", f"{name} opened while its block did not wait for it")
            elif self.status is not E.PENDING:
                why = refusal(self, planned)
                if why:
                    self._say("I6", f"{name} opened although {why}")

    # -- the rows -------------------------------------------------------------

    def _compare(self) -> None:
        execution = self.story.execution
        if self.status != execution.status or self.epoch != execution.epoch:
            ended = self.status in TERMINAL
            told = f"{self.status} in epoch {self.epoch}"
            shown = f"{execution.status} in epoch {execution.epoch}"
            self._say("I3" if ended else "I2", f"its changes make it {told}, its row says {shown}")
        elif execution.completed_at != self.ended_at:
            self._say("I3", f"it ended at {self.ended_at}, its row says {execution.completed_at}")
        for place, row in sorted(self.story.rows.items()):
            standing = self.standings.get(place) or _new_item(self.story.plan[row.idx], row.iteration)
            self._compare_row(row, standing)
        for epoch, idx, item in sorted(self.standings.keys() - self.story.rows.keys()):
            self._say("I1", f"{_name(self.story.plan[idx], item)} has no row in epoch {epoch}")

    def _compare_row(self, row: BlockExecution, standing: Standing) -> None:
        name = f"{_name(self.story.plan[row.idx], row.iteration)} in epoch {row.epoch}"
        ended = standing.status in SETTLED
        if row.status != standing.status:
            told = f"{name}: its changes make it {standing.status}, its row says {row.status}"
            self._say("I3" if ended else "I2", told)
        elif row.completed_at not in self._ends(row, standing):
            self._say("I3", f"{name} ended at {standing.at}, its row says {row.completed_at}")
        elif ended and row.reason != standing.reason:
            self._say("I3", f"{name} ended for {standing.reason!r}, its row says {row.reason!r}")
        if row.attempt != standing.attempt:
            self._say(
                "I4", f"{name}: its changes tell of {standing.attempt} attempts, its row of {row.attempt}"
            )

    def _ends(self, row: BlockExecution, standing: Standing) -> set[datetime | None]:
        """When it may have ended: as its last change was written, or when the call had come back before."""
        attempts = self.story.attempts.get(row.carried_from or row.pk, [])
        ends: set[datetime | None] = {standing.at}
        if standing.at is not None:
            ends |= {one.ended_at for one in attempts[-1:] if one.ended_at <= standing.at}
        return ends


def _is_edge(before: Standing, after: Standing) -> bool:
    table: Lifecycle[B] = BLOCK
    if table.allows(before.status, after.status):
        return True
    if after.reason != AGAIN:
        return False
    return REPAIR.allows(before.status, after.status) or before.status is after.status is B.READY


def _new_item(planned: PlanBlock, number: int) -> Standing:
    """Items are written without an event: those that have a place are ready at once."""
    each = planned.block.for_each
    if each is None or planned.human is not None or planned.noop or planned.block.concurrency is not None:
        return Standing(B.BLOCKED)
    return Standing(B.READY if number <= (each.max_concurrency or LIMITS.items_per_block) else B.BLOCKED)


def _name(planned: PlanBlock, item: int) -> str:
    return f"{planned.block_id}[{item}]" if item else planned.block_id


def settled(story: Story) -> dict[Place, tuple[Any, ...]]:
    """What may never change again of the rows as they stand: for who looks twice."""
    return {
        place: (row.status, row.reason, row.attempt, row.completed_at, row.output, row.error, row.choice)
        for place, row in story.rows.items()
        if row.status in SETTLED
    }
