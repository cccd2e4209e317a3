"""The items of a `forEach`: rows of their own beside their block's, counted on it as they settle."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from agentflow.conf import LIMITS
from agentflow.types import JSONObject
from agentflow.workflow.definition import ForEach
from agentflow.workflow.expressions import ExpressionError
from agentflow.workflow.large import LargeUnavailable
from agentflow.workflow.plan import PlanBlock
from executions import blobs
from executions.blobs import TooLarge
from executions.states import BlockStatus as B

from . import statements
from .facts import as_json
from .frontier import Position
from .judging import Change
from .rows import loads

if TYPE_CHECKING:
    from .run import Run

ENOUGH = "enough_items"  # why items are cancelled that `atLeast` does not need


log = structlog.get_logger(__name__)


class Items:
    """What a locked run does with the items of its blocks."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._total: int | None = None

    def make_room(self, more: int) -> None:
        """Count the items that a block has found among those of the run.

        Raises:
            ExpressionError: there would be too many.
        """
        if self._total is None:
            row = self._run.execute(statements.ITEMS_IN_ALL).fetchone()
            assert row is not None
            self._total = int(row[0])
        if self._total + more > LIMITS.items_per_execution:
            raise ExpressionError(
                "too_many_items",
                f"forEach.items gives {more} items, beside the {self._total} that the execution has;"
                f" {LIMITS.items_per_execution} are allowed together.",
            )
        self._total += more

    def add(self, change: Change) -> None:
        """Write the rows of a block that has just found its list."""
        planned = self._run.facts.plan[change.idx]
        self._run.execute(
            statements.ADD_ITEMS,
            block=change.pk,
            items=[as_json(item) for item in change.items or ()],
            open=_open_at_once(planned),
        )
        self._run.opened((change.idx, 1))

    def after(self, change: Change) -> None:
        """Follow an item that moved: ask about it, look again at it, look after its child."""
        if change.ask:
            self._run.ask_about(change)
        elif change.delay_s is not None:
            self._run.look_again(change.delay_s)
        elif change.place is not None:
            self._run.places.ask(change.pk, *change.place)
        if change.child is not None:
            self._run.children_to_check.append(change.child.insert(change))

    def count(self, settled: list[int]) -> list[Change]:
        """Count settled items on their blocks; a block that needs no further item settles with them."""
        changes = []
        for idx, count in Counter(settled).items():
            row = self._run.execute(statements.ITEMS_SETTLED, idx=idx, settled=count).fetchone()
            assert row is not None
            pk, left, status = row
            planned = self._run.facts.plan[idx]
            if status == B.WAITING_EXTERNAL and (left == 0 or self._enough(planned, left)):
                changes += self._try_done(pk, planned)
        return self._settle(changes)

    def finish(self, planned: PlanBlock) -> list[Change]:
        """Settle a block whose items have all settled, where that had to be left undone."""
        found = self._run.execute(statements.ITEMS_DONE, idx=planned.idx).fetchall()
        return self._settle([change for (pk,) in found for change in self._try_done(pk, planned)])

    def _try_done(self, pk: int, planned: PlanBlock) -> list[Change]:
        """Nothing where an item's large output cannot be read just now: the clock looks again."""
        try:
            return [self._done(pk, planned)]
        except LargeUnavailable as error:
            log.warning("items_left_undone", block=planned.block_id, error=str(error))
            self._run.leave_unread()
            return []

    def _settle(self, changes: list[Change]) -> list[Change]:
        moved = self._run.move(changes, B.WAITING_EXTERNAL)
        done = [change for change in changes if change.pk in moved]
        early = [change.idx for change in done if _each(self._run.facts.plan[change.idx]).at_least]
        if early:
            self._run.cancel(early, first=1, reason=ENOUGH)
        return done

    def _enough(self, planned: PlanBlock, left: int) -> bool:
        """Whether as many items completed as `atLeast` asks for."""
        wanted = _each(planned).at_least
        if wanted is None:
            return False
        row = self._run.execute(statements.ITEMS_ENOUGH, idx=planned.idx, left=left, wanted=wanted).fetchone()
        return row is not None and row[0]

    def begin(self, idxs: list[int]) -> list[Change]:
        """Let the first items begin of blocks whose rows have just been written."""
        followed = []
        for idx in idxs:
            planned = self._run.facts.plan[idx]
            if not _open_at_once(planned):
                followed += self._begin(planned, _most(planned), behind=0)
        return followed

    def replace(self, settled: list[Position]) -> list[Change]:
        """Let as many items begin as have settled, where their number is bounded."""
        followed = []
        last = {idx: max(number for each, number in settled if each == idx) for idx, _ in settled}
        for idx, room in Counter(idx for idx, _ in settled).items():
            planned = self._run.facts.plan[idx]
            if _each(planned).max_concurrency is not None:
                followed += self._begin(planned, room, behind=last[idx])
        return followed

    def next(self, planned: PlanBlock) -> list[Change]:
        """Let waiting items begin, as many as `maxConcurrency` has room for."""
        row = self._run.execute(statements.ITEMS_BEGUN, idx=planned.idx).fetchone()
        assert row is not None
        return self._begin(planned, _most(planned) - row[0], behind=0)

    def _begin(self, planned: PlanBlock, room: int, *, behind: int) -> list[Change]:
        if room <= 0:
            return []
        rows = self._run.execute(statements.NEXT_ITEMS, idx=planned.idx, room=room, behind=behind).fetchall()
        openings = [self._run.opener.item(pk, planned.idx, number, loads(item)) for pk, number, item in rows]
        moved = self._run.move(openings, B.BLOCKED)
        return [change for change in openings if change.pk in moved]

    def _done(self, pk: int, planned: PlanBlock) -> Change:
        """The outputs in the order of the items; one that did not complete leaves null."""
        rows = self._run.execute(statements.ITEM_RESULTS, idx=planned.idx).fetchall()
        change = Change(pk=pk, idx=planned.idx, status=B.FAILED)
        too_large = f"The outputs of the {len(rows)} items have more than {LIMITS.list_bytes} bytes together."
        if sum(len(output or "") for _, output, _ in rows) > LIMITS.list_bytes:
            return _failed(change, "output_too_large", too_large)
        try:
            outputs = self._run.opener.keep([blobs.of_row(output, blob) for _, output, blob in rows])
        except TooLarge:
            return _failed(change, "output_too_large", too_large)
        wanted = min(_each(planned).at_least or 0, len(rows))
        completed = sum(status == B.COMPLETED for status, *_ in rows)
        failed = sum(status == B.FAILED for status, *_ in rows)
        if completed < wanted or (failed and not wanted):
            said = f"{failed} of {len(rows)} items failed."
            if wanted:
                said = f"{completed} of {len(rows)} items completed; {wanted} are needed."
            return _failed(replace(change, output=outputs), "items_failed", said)
        return self._run.opener.complete(planned, change, outputs)


def _each(planned: PlanBlock) -> ForEach:
    assert planned.block.for_each is not None
    return planned.block.for_each


def _most(planned: PlanBlock) -> int:
    return _each(planned).max_concurrency or LIMITS.items_per_block


def _open_at_once(planned: PlanBlock) -> int:
    if planned.human is not None or planned.noop or planned.key is not None:
        return 0
    return _most(planned)


def _failed(change: Change, code: str, message: str) -> Change:
    error: JSONObject = {"kind": "critical", "code": code, "message": message, "outcomeUnknown": False}
    return replace(change, reason=code, error=error)
