"""Which compensations of a run are due, and in which order they run.

What was done last is undone first: a compensation may run once no block behind the one that it undoes,
however far behind, is still to be compensated.  Blocks between that have no compensation do not matter.
"""

from __future__ import annotations

from collections.abc import Collection

from .plan import Plan


def due(plan: Plan, completed: Collection[int]) -> list[int]:
    """The compensations of these completed blocks."""
    return sorted(plan.compensated_by[idx] for idx in completed if idx in plan.compensated_by)


def runnable(plan: Plan, unsettled: Collection[int]) -> set[int]:
    """Of these compensations, those that wait for no other of them."""
    return set(waves(plan, unsettled)[0]) if unsettled else set()


def waves(plan: Plan, unsettled: Collection[int]) -> list[list[int]]:
    """These compensations by how many of them, one after the other, run before."""
    wanted = set(unsettled)
    before = [0] * len(plan.blocks)  # compensations that run, one after the other, before that of the block
    found: list[list[int]] = []
    for planned in reversed(plan.blocks):
        idx = planned.idx
        undo = plan.compensated_by.get(idx)
        before[idx] = max(
            (before[succ] + (plan.compensated_by.get(succ) in wanted) for succ in planned.succs), default=0
        )
        if undo in wanted and undo is not None:
            while len(found) <= before[idx]:
                found.append([])
            found[before[idx]].append(undo)
    return [sorted(wave) for wave in found]
