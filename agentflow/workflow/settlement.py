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
    GUARD = "guard"
    REJECTED = "rejected"
    BY_HAND = "by_hand"


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
    closings.add(plan[idx].succs, Edge.FAILED)


def close_skipped(plan: Plan, idx: int, reason: str, closings: Closings) -> None:
    """A skip propagates as what caused it: a failure upstream stays a failure further down."""
    edge = Edge.FAILED if reason == Reason.UPSTREAM_FAILED else Edge.DEAD
    closings.add(plan[idx].succs, edge)


def skip_reason(planned: PlanBlock, *, dead: int, failed: int) -> Reason | None:
    """None: the decided block runs.  Otherwise why it is skipped."""
    if failed:
        return Reason.UPSTREAM_FAILED
    if planned.preds and (dead == len(planned.preds) or (dead and planned.join_all)):
        return Reason.NOT_CHOSEN
    return None
