"""The merge rule: what a settled block does to its outgoing edges, and when a block may open.

An edge is open until its source settles; then it is taken, dead (another branch was chosen, or the
source was skipped) or failed.  A block is decided once none of its incoming edges is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from .plan import Plan, PlanBlock


class Edge(StrEnum):
    TAKEN = "taken"
    DEAD = "dead"  # not chosen
    FAILED = "failed"


class Reason(StrEnum):
    """Why a block was skipped: stable codes, shown to people as sentences."""

    NOT_CHOSEN = "not_chosen"
    UPSTREAM_FAILED = "upstream_failed"
    NO_FAILURE = "no_failure"  # it runs only after a failure, and there was none
    GUARD = "guard"
    REJECTED = "rejected"
    BY_HAND = "by_hand"
    LOST_RACE = "lost_race"  # cancelled: the join it worked for was decided by others


@dataclass(slots=True)
class Closing:
    """How many incoming edges of one block close, and how."""

    closed: int = 0
    dead: int = 0
    failed: int = 0


@dataclass(slots=True)
class Closings:
    """Edges that close in one step, by the block they lead to."""

    by_idx: dict[int, Closing] = field(default_factory=dict)

    def add(self, succs: Iterable[int], edge: Edge) -> None:
        for succ in succs:
            closing = self.by_idx.setdefault(succ, Closing())
            closing.closed += 1
            closing.dead += edge is Edge.DEAD
            closing.failed += edge is Edge.FAILED


def close_completed(plan: Plan, idx: int, taken: tuple[int, ...] | None, closings: Closings) -> None:
    """`taken` are the chosen branches; None for a block that does not choose.

    A successor that no branch names has its edge taken; one named in several needs one taken branch.
    """
    planned = plan[idx]
    if taken is None:
        closings.add(planned.succs, Edge.TAKEN)
        return
    chosen = frozenset().union(*(planned.branches[i] for i in taken))
    for succ in planned.succs:
        dead = succ in planned.named and succ not in chosen
        closings.add((succ,), Edge.DEAD if dead else Edge.TAKEN)


def close_failed(plan: Plan, idx: int, closings: Closings) -> None:
    """With `onError: continue` the run goes on as if it had completed, on the default branch if any."""
    planned = plan[idx]
    if planned.block.on_error != "continue":
        closings.add(planned.succs, Edge.FAILED)
    elif planned.conditions is None:
        closings.add(planned.succs, Edge.TAKEN)
    else:
        default = planned.conditions.default
        close_completed(plan, idx, () if default is None else (default,), closings)


def close_skipped(plan: Plan, idx: int, reason: str, closings: Closings) -> None:
    """A skip propagates as what caused it: a failure upstream stays a failure further down."""
    edge = Edge.FAILED if reason == Reason.UPSTREAM_FAILED else Edge.DEAD
    closings.add(plan[idx].succs, edge)


class Undecided(Exception):
    """The block's incoming edges do not tell yet whether it runs."""


def skip_reason(planned: PlanBlock, *, todo: int, dead: int, failed: int) -> Reason | None:
    """None: the block runs.  Otherwise why it is skipped.

    Raises:
        Undecided: some edge is open that may still matter.
    """
    taken = len(planned.preds) - todo - dead - failed
    if planned.needed is not None:
        if taken >= planned.needed:
            return None
        if taken + todo >= planned.needed:
            raise Undecided
        return Reason.UPSTREAM_FAILED if failed else Reason.NOT_CHOSEN
    if todo:
        raise Undecided
    if not planned.preds:
        return None if planned.block.run_on != "failure" else Reason.NO_FAILURE
    if planned.join_all and dead:
        caused = failed and planned.block.run_on == "success"
        return Reason.UPSTREAM_FAILED if caused else Reason.NOT_CHOSEN
    match planned.block.run_on:
        case "failure":
            return None if failed else Reason.NO_FAILURE
        case "always":
            return None if taken or failed else Reason.NOT_CHOSEN
    if failed:
        return Reason.UPSTREAM_FAILED
    return None if taken else Reason.NOT_CHOSEN


def uncaught(plan: Plan, settled: dict[int, tuple[str, str]]) -> list[int]:
    """The failed blocks that make the run fail.  `settled` is `{idx: (status, reason)}` of every block.

    A failure is caught by `onError: continue`, or by a block with `runOn: failure` that has completed
    behind it, directly or behind blocks that were skipped because of it.
    """
    found = []
    for idx, (status, _) in settled.items():
        if status == "failed" and plan[idx].block.on_error != "continue" and not _caught(plan, idx, settled):
            found.append(idx)
    return sorted(found)


def _caught(plan: Plan, idx: int, settled: dict[int, tuple[str, str]]) -> bool:
    todo, seen = [idx], {idx}
    while todo:
        for succ in plan[todo.pop()].succs:
            status, reason = settled.get(succ, ("", ""))
            if status == "completed" and plan[succ].block.run_on == "failure":
                return True
            if status == "skipped" and reason == Reason.UPSTREAM_FAILED and succ not in seen:
                seen.add(succ)
                todo.append(succ)
    return False
