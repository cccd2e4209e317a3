"""What a restart runs again, and how the counters of those blocks stand when it begins.

A block that is not run again is *carried*: it stays as it ended, and its edges are closed as they
were.  A block that runs again begins with the edges that carried blocks have closed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from .plan import Plan
from .settlement import Closing, Closings, Reason, close_completed, close_failed, close_skipped, uncaught

_UNTOUCHED = Closing()


@dataclass(frozen=True, slots=True)
class Settled:
    """How a block ended: its status, its reason and the branches it took."""

    status: str
    reason: str = ""
    choice: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """The incoming edges of a block that runs again: open, dead and failed."""

    todo: int
    dead: int
    failed: int


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """`open_sinks` and `failed_blocks` are the run's counters as the restart begins.

    `joins` are partial joins that are carried though blocks before them run again.
    """

    reruns: Mapping[int, Counters]
    open_sinks: int
    failed_blocks: int
    joins: Mapping[int, Counters] = field(default_factory=dict)


def restart_plan(
    plan: Plan,
    settled: Mapping[int, Settled],
    *,
    from_idx: int | None,
    reset: bool,
    succeeded: bool,
    undone: Collection[int] = (),
) -> RestartPlan:
    """Which blocks run again; none where there is nothing to mend.

    With `from_idx` that block and all behind it; without, every block that failed or was cancelled and
    all behind those; with `reset` every block.  `settled` holds every block of a run that has ended,
    `succeeded` says whether it completed.  Blocks that were `undone` by their compensation run again
    whatever was asked for.
    """
    reruns = _reruns(plan, settled, from_idx=from_idx, reset=reset, succeeded=succeeded, undone=undone)
    return _planned(plan, settled, reruns)


def return_plan(plan: Plan, settled: Mapping[int, Settled], point: Collection[int]) -> RestartPlan:
    """What runs again to go back to a moment: all but the blocks of `point`, which had settled then.

    Of these, too, what stood in the run's way: a failure that nothing caught, a block that was stopped
    or that ended the run, and all behind them.  `settled` holds the blocks of the point at least.
    """
    return _planned(plan, settled, _not_at(plan, settled, set(point).intersection(settled)))


def rework_plan(plan: Plan, settled: Mapping[int, Settled], roots: Collection[int]) -> RestartPlan:
    """What runs again when a run that goes on is sent back to these blocks: they and all behind them.

    `settled` holds the blocks that have ended; others that do not run again stay open, and are counted.
    """
    reruns = _with_losers(plan, settled, _with_descendants(plan, roots))
    found = _planned(plan, settled, reruns)
    open_sinks = sum(idx in reruns or idx not in settled for idx in plan.sinks)
    return replace(found, open_sinks=open_sinks)


def _planned(plan: Plan, settled: Mapping[int, Settled], reruns: set[int]) -> RestartPlan:
    closings = _carried_edges(plan, settled, reruns)
    carried_failures = (
        idx
        for idx, ended in settled.items()
        if idx not in reruns and ended.status == "failed" and plan[idx].block.on_error != "continue"
    )
    return RestartPlan(
        reruns={idx: _counters(plan, idx, closings) for idx in sorted(reruns)},
        joins={
            idx: _counters(plan, idx, closings)
            for idx in sorted(plan.partial - reruns)
            if not reruns.isdisjoint(plan[idx].preds)
        },
        open_sinks=sum(idx in reruns for idx in plan.sinks),
        failed_blocks=sum(1 for _ in carried_failures),
    )


def _reruns(
    plan: Plan,
    settled: Mapping[int, Settled],
    *,
    from_idx: int | None,
    reset: bool,
    succeeded: bool,
    undone: Collection[int],
) -> set[int]:
    if reset:
        return set(settled)
    if from_idx is not None:
        roots = {from_idx}
    else:
        roots = {
            idx
            for idx, ended in settled.items()
            if ended.status == "failed"
            or (not succeeded and (_interrupted(ended) or _ended_the_run(plan, idx, ended)))
        }
    roots |= set(undone)
    if not roots:
        return set()
    # What was stopped half-way cannot be carried, for nothing says how it would have ended; and a block
    # that ended the run ends it again, or what it cut off would run past it.
    roots |= {
        idx for idx, ended in settled.items() if _interrupted(ended) or _ended_the_run(plan, idx, ended)
    }
    return _with_losers(plan, settled, _with_descendants(plan, roots))


def _with_losers(plan: Plan, settled: Mapping[int, Settled], found: set[int]) -> set[int]:
    while losers := _losers_needed(plan, settled, found):
        found |= _with_descendants(plan, losers)
    return found


def _not_at(plan: Plan, settled: Mapping[int, Settled], kept: set[int]) -> set[int]:
    late = set(range(len(plan.blocks))) - kept
    # What runs again may still catch a failure, directly or behind blocks that it makes skip.
    catchers = {idx for idx in late if plan[idx].block.run_on == "failure"}
    ends = {idx: (settled[idx].status, settled[idx].reason) for idx in kept}
    ends |= dict.fromkeys(catchers, ("completed", ""))
    ends |= dict.fromkeys(late - catchers, ("skipped", str(Reason.UPSTREAM_FAILED)))
    broken = set(uncaught(plan, ends))
    broken |= {idx for idx in kept if _interrupted(settled[idx]) or _ended_the_run(plan, idx, settled[idx])}
    for planned in plan.blocks:  # in topological order
        if planned.idx in kept:
            # A partial join that had opened needed none of the blocks before it that had not settled.
            behind = planned.needed is None and not late.isdisjoint(planned.preds)
            if behind or not broken.isdisjoint(planned.preds):
                broken.add(planned.idx)
    return _with_losers(plan, settled, late | broken)


def _interrupted(ended: Settled) -> bool:
    return ended.status == "cancelled" and ended.reason != Reason.LOST_RACE


def _ended_the_run(plan: Plan, idx: int, ended: Settled) -> bool:
    return ended.status == "completed" and plan[idx].block.end is not None


def _with_descendants(plan: Plan, roots: Iterable[int]) -> set[int]:
    found = set(roots)
    for planned in plan.blocks:  # in topological order
        if not found.isdisjoint(planned.preds):
            found.add(planned.idx)
    return found


def _losers_needed(plan: Plan, settled: Mapping[int, Settled], reruns: set[int]) -> set[int]:
    """Blocks that lost the race for a join which, run again, has not enough taken edges without them."""
    losers: set[int] = set()
    joins = plan.partial & reruns
    if not joins:
        return losers
    closings = _carried_edges(plan, settled, reruns)
    for join in joins:
        counters = _counters(plan, join, closings)
        taken = len(plan[join].preds) - counters.todo - counters.dead - counters.failed
        if taken < (plan[join].needed or 0):
            losers |= _lost_before(plan, settled, join, reruns)
    return losers


def _lost_before(plan: Plan, settled: Mapping[int, Settled], join: int, reruns: set[int]) -> set[int]:
    """Cancelled blocks that lead to a join through nothing but cancelled blocks."""
    todo, found = [join], set[int]()
    while todo:
        for pred in plan[todo.pop()].preds:
            ended = settled.get(pred)
            if pred in reruns or pred in found or ended is None:
                continue
            if ended.status == "cancelled":
                found.add(pred)
                todo.append(pred)
    return found


def _carried_edges(plan: Plan, settled: Mapping[int, Settled], reruns: set[int]) -> Closings:
    closings = Closings()
    for idx, ended in settled.items():
        if idx in reruns:
            continue
        if ended.status == "completed":
            close_completed(plan, idx, ended.choice, closings)
        elif ended.status == "failed":
            close_failed(plan, idx, closings)
        elif ended.status == "skipped":
            close_skipped(plan, idx, ended.reason, closings)
        # The edges of a block that lost a race stay open, as they are in a run that was never restarted.
    return closings


def _counters(plan: Plan, idx: int, closings: Closings) -> Counters:
    closing = closings.by_idx.get(idx, _UNTOUCHED)
    return Counters(len(plan[idx].preds) - closing.closed, closing.dead, closing.failed)
