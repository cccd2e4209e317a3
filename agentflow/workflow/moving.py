"""What a run keeps that goes on with another version of its template.

A block that has settled is kept where both versions say the same of it and all before it is kept: what it
gave is what it would give.  Any other runs again, and all behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .definition import Block
from .plan import Plan, PlanBlock
from .restart import RestartPlan, Settled, return_plan

# What says how a block is tried, shown or undone, and nothing of what it gives.
_BESIDE = frozenset(
    {
        "name",
        "description",
        "dependencies",  # compared as edges
        "retry_policy",
        "concurrency",
        "budget",
        "timeout",
        "agent_patience",
        "recovery",
        "compensation",
        "on_unknown_outcome",
        "checkpoint",
        "priority",
    }
)
_COMPARED = tuple(name for name in Block.model_fields if name not in _BESIDE)


@dataclass(frozen=True, slots=True)
class Pairing:
    """The blocks of two versions.  `alike`: old position -> new position, where both say the same."""

    old: Plan
    new: Plan
    alike: Mapping[int, int]
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """`kept`: position in the old version -> in the new one."""

    kept: Mapping[int, int]
    found: RestartPlan


def pair(old: Plan, new: Plan) -> Pairing:
    before = {planned.block_id: planned for planned in old.blocks}
    after = {planned.block_id: planned for planned in new.blocks}
    both = [name for name in before if name in after]
    alike = {
        before[name].idx: after[name].idx for name in both if _alike(old, before[name], new, after[name])
    }
    return Pairing(
        old=old,
        new=new,
        alike=alike,
        changed=tuple(name for name in both if before[name].idx not in alike),
        gone=tuple(name for name in before if name not in after),
        added=tuple(name for name in after if name not in before),
    )


def _alike(old: Plan, before: PlanBlock, new: Plan, after: PlanBlock) -> bool:
    return (
        {old[idx].block_id for idx in before.preds} == {new[idx].block_id for idx in after.preds}
        and before.human == after.human
        and all(getattr(before.block, name) == getattr(after.block, name) for name in _COMPARED)
    )


def move_plan(pairing: Pairing, settled: Mapping[int, Settled]) -> Move:
    """What is kept of a run, by the positions of the version that it has now, and what runs again."""
    both = {old: new for old, new in pairing.alike.items() if old in settled}
    found = return_plan(pairing.new, {new: settled[old] for old, new in both.items()}, both.values())
    kept = {old: new for old, new in both.items() if new not in found.reruns}
    return Move(kept, found)


def repeated(pairing: Pairing, move: Move, happened: Collection[int]) -> list[str]:
    """Blocks that run again though what they did has happened, or may have; `happened` by old position."""
    ids = {pairing.old[idx].block_id for idx in happened if idx < len(pairing.old.blocks)}
    return [pairing.new[idx].block_id for idx in move.found.reruns if pairing.new[idx].block_id in ids]
