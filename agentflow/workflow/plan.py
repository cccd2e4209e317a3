"""The plan of a version: its graph compiled to what the engine reads at every step.

Compiled once per version and process, then only read.  Positions (`idx`) number the blocks in a
topological order that keeps the author's order among equals.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Collection
from dataclasses import dataclass, replace

from .conditions import CompiledConditions, compile_conditions
from .definition import (
    AtLeast,
    Block,
    Budget,
    Definition,
    Durability,
    HumanInLoop,
    Recovery,
    RetryPolicy,
    compensation_of,
)
from .expressions import Expression, Mapping, compile_expression, compile_mapping
from .moments import is_moment


@dataclass(frozen=True, slots=True)
class Key:
    """A concurrency key: `mapping` gives its text, of which at most `limit` are at work at a time."""

    mapping: Mapping
    limit: int
    priority: int


@dataclass(frozen=True, slots=True)
class PlanBlock:
    """One block, with its edges as positions and its expressions compiled."""

    idx: int
    block: Block
    preds: tuple[int, ...]
    succs: tuple[int, ...]
    branches: tuple[frozenset[int], ...]  # for each branch of `conditions`, the successors it names
    named: frozenset[int]  # successors that some branch names
    conditions: CompiledConditions | None
    when: Expression | None
    until: Expression | None  # the moment that `wait.until` names
    correlation: Expression | None  # of `wait.event`
    items: Expression | None  # of `forEach`
    repeat_until: Expression | None
    mapping: Mapping | None
    key: Key | None
    human: HumanInLoop | None
    retry: RetryPolicy
    recovery: Recovery
    timeout_s: float
    patience_s: float | None  # for an agent; None: it waits as long as it takes
    likeness: str  # blocks with equal likeness do the same work on other input: they share a speed history
    compensates: int | None = None  # of a compensation: the block that it undoes
    assignees: tuple[
        Expression | None, ...
    ] = ()  # who is asked at each level of `human`, where that is computed

    @property
    def block_id(self) -> str:
        return self.block.block_id

    @property
    def sources(self) -> tuple[int, ...]:
        """The blocks whose outputs it is given where it has no mapping."""
        return self.preds if self.compensates is None else (self.compensates,)

    @property
    def join_all(self) -> bool:
        return self.block.join == "all"

    @property
    def needed(self) -> int | None:
        """Of a partial join: how many taken edges are enough.  None: every edge is waited for."""
        join = self.block.join
        if isinstance(join, AtLeast):
            return min(join.at_least, len(self.preds)) if self.preds else None
        return 1 if join == "any" and self.preds else None

    @property
    def noop(self) -> bool:
        """Nobody is called: the advancer settles it."""
        block = self.block
        named = block.agent_id is not None or block.tool_type is not None or bool(block.capabilities)
        return not named and not self.asks_input

    @property
    def chosen(self) -> bool:
        """Its agent is chosen for each attempt, by what it asks for."""
        return self.block.agent_id is None and bool(self.block.capabilities) and not self.asks_input

    @property
    def routed(self) -> bool:
        """It may be another agent from attempt to attempt."""
        return self.chosen or bool(self.recovery.alternatives)

    @property
    def queues(self) -> bool:
        """It waits where the agent that it names is not available."""
        return self.block.agent_id is not None and self.recovery.queues

    @property
    def asks_before(self) -> bool:
        """A person is asked before anything else is done."""
        return self.human is not None and self.human.type != "review"

    @property
    def reviewed(self) -> bool:
        """A person looks at its output, or at that of each item, before it flows on."""
        return self.human is not None and self.human.type == "review"

    @property
    def asks_input(self) -> bool:
        return self.human is not None and self.human.type == "input"

    @property
    def special(self) -> bool:
        """Opening it takes more than a status: a guard, a wait, a person, nobody to call, its own rule."""
        return (
            self.when is not None
            or self.block.wait is not None
            or self.items is not None
            or self.key is not None
            or self.human is not None
            or self.noop
            or self.needed is not None
            or self.block.run_on != "success"
        )

    @property
    def routes(self) -> bool:
        """Completing it takes more than closing its edges: it chooses, ends the run, is to be kept
        or to be looked at."""
        return (
            self.conditions is not None
            or self.block.end is not None
            or self.block.checkpoint
            or self.reviewed
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """`blocks` are what a run begins with; the compensations behind them have rows only once they are due."""

    blocks: tuple[PlanBlock, ...]
    compensations: tuple[PlanBlock, ...]
    compensated_by: dict[int, int]  # idx of a block -> idx of its compensation
    index: dict[str, int]  # blockId -> idx, of both
    sinks: tuple[int, ...]
    special: frozenset[int]
    partial: frozenset[int]  # joins that may open before all their edges are closed
    fans: tuple[int, ...]  # blocks with `forEach`
    routed: frozenset[int]  # blocks whose attempts may go to one agent or another
    alike: dict[str, tuple[int, ...]]  # likeness -> the blocks that have it
    handles_failure: bool  # some block runs because another failed
    run_key: Key | None  # of the executions
    keys: tuple[Key, ...]  # all of them, of the executions' and the blocks'
    budget: Budget | None  # of the execution
    max_parallel: int
    timeout_ms: int | None
    durability: Durability

    @property
    def keyed(self) -> bool:
        """Whether some block has a concurrency key."""
        return len(self.keys) > (self.run_key is not None)

    @property
    def kinds(self) -> list[PlanBlock]:
        """One block of each likeness."""
        return [self[alike[0]] for alike in self.alike.values()]

    def __getitem__(self, idx: int) -> PlanBlock:
        count = len(self.blocks)
        return self.blocks[idx] if idx < count else self.compensations[idx - count]

    def refs(self, block_ids: frozenset[str]) -> set[int]:
        return {self.index[block_id] for block_id in block_ids}

    def from_here(self, idx: int) -> set[int]:
        """A block and all behind it."""
        found = {idx}
        for planned in self.blocks[idx:]:
            if not found.isdisjoint(planned.preds):
                found.add(planned.idx)
        return found

    def rivals(self, decided: Collection[int]) -> set[int]:
        """Blocks that work for these joins alone: once all are decided, nobody needs them."""
        found = set(decided)
        for planned in reversed(self.blocks[: max(decided)]):
            if planned.succs and found.issuperset(planned.succs):
                found.add(planned.idx)
        return found.difference(decided)


def compile_plan(definition: Definition) -> Plan:
    """Compile a definition that `validation.check` found no error in."""
    blocks = definition.blocks
    preds = _predecessors(definition)
    order = _topological(blocks, preds)
    index = {block_id: idx for idx, block_id in enumerate(order)}
    by_id = {block.block_id: block for block in blocks}
    succs: dict[str, list[int]] = {block_id: [] for block_id in order}
    for block_id in order:
        for pred in preds[block_id]:
            succs[pred].append(index[block_id])
    planned = tuple(
        _compile_block(
            definition,
            by_id[block_id],
            idx,
            preds=tuple(sorted(index[p] for p in preds[block_id])),
            succs=tuple(succs[block_id]),
            index=index,
        )
        for idx, block_id in enumerate(order)
    )
    compensations = _compensations(definition, planned)
    return Plan(
        blocks=planned,
        compensations=compensations,
        compensated_by={p.compensates: p.idx for p in compensations if p.compensates is not None},
        index=index | {p.block_id: p.idx for p in compensations},
        sinks=tuple(p.idx for p in planned if not p.succs),
        special=frozenset(p.idx for p in planned if p.special),
        partial=frozenset(p.idx for p in planned if p.needed is not None),
        fans=tuple(p.idx for p in planned if p.items is not None),
        routed=frozenset(p.idx for p in planned if p.routed),
        alike=_alike((*planned, *compensations)),
        handles_failure=any(p.block.run_on == "failure" for p in planned),
        run_key=_run_key(definition),
        keys=_keys(definition, planned),
        budget=definition.global_settings.budget,
        max_parallel=definition.global_settings.max_parallel_blocks,
        timeout_ms=definition.global_settings.timeout,
        durability=definition.global_settings.durability,
    )


def _compensations(definition: Definition, planned: tuple[PlanBlock, ...]) -> tuple[PlanBlock, ...]:
    """The compensations as blocks behind all others.  They have no edges: `compensation` orders them."""
    found: list[PlanBlock] = []
    for compensated in planned:
        block = compensation_of(compensated.block)
        if block is not None:
            idx = len(planned) + len(found)
            compiled = _compile_block(definition, block, idx, preds=(), succs=(), index={})
            # What could not be undone always asks a person, whatever the template's default says.
            retry = compiled.retry.model_copy(update={"on_exhausted": "ask"})
            found.append(replace(compiled, compensates=compensated.idx, human=None, retry=retry))
    return tuple(found)


def _predecessors(definition: Definition) -> dict[str, dict[str, None]]:
    """Dependencies, and the choosing block of every block that a branch names.  Dicts as ordered sets."""
    preds: dict[str, dict[str, None]] = {b.block_id: dict.fromkeys(b.dependencies) for b in definition.blocks}
    for block in definition.blocks:
        for branch in block.conditions.branches if block.conditions else ():
            for target in branch.next_blocks:
                preds[target][block.block_id] = None
    return preds


def _topological(blocks: tuple[Block, ...], preds: dict[str, dict[str, None]]) -> list[str]:
    """Among blocks that could come next, those of higher priority first, then the author's order.

    Ready blocks are claimed in this order, so it is also what `priority` means.
    """
    rank = {block.block_id: (-block.priority, i) for i, block in enumerate(blocks)}
    waiting = {name: len(preds[name]) for name in rank}
    succs: dict[str, list[str]] = {name: [] for name in rank}
    for name in rank:
        for pred in preds[name]:
            succs[pred].append(name)
    ready = [(*rank[name], name) for name in rank if not waiting[name]]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        *_, name = heapq.heappop(ready)
        order.append(name)
        for succ in succs[name]:
            waiting[succ] -= 1
            if not waiting[succ]:
                heapq.heappush(ready, (*rank[succ], succ))
    if len(order) != len(rank):
        raise ValueError("the graph has a cycle")
    return order


def _compile_block(
    definition: Definition,
    block: Block,
    idx: int,
    *,
    preds: tuple[int, ...],
    succs: tuple[int, ...],
    index: dict[str, int],
) -> PlanBlock:
    branches = tuple(
        frozenset(index[target] for target in branch.next_blocks)
        for branch in (block.conditions.branches if block.conditions else ())
    )
    return PlanBlock(
        idx=idx,
        block=block,
        preds=preds,
        succs=succs,
        branches=branches,
        named=frozenset().union(*branches),
        conditions=compile_conditions(block.conditions) if block.conditions else None,
        when=compile_expression(block.when) if block.when is not None else None,
        until=_until(block),
        correlation=_correlation(block),
        items=compile_expression(block.for_each.items) if block.for_each else None,
        repeat_until=compile_expression(block.repeat.until) if block.repeat else None,
        mapping=compile_mapping(block.input) if block.input is not None else None,
        key=_key(block),
        human=definition.human_of(block),
        retry=definition.retry_policy_of(block),
        recovery=definition.recovery_of(block),
        timeout_s=definition.timeout_of(block) / 1000,
        patience_s=_patience_s(definition, block),
        likeness=_likeness(block),
        assignees=_assignees(definition.human_of(block)),
    )


def _patience_s(definition: Definition, block: Block) -> float | None:
    patience_ms = definition.agent_patience_of(block)
    return None if patience_ms is None else patience_ms / 1000


def _assignees(human: HumanInLoop | None) -> tuple[Expression | None, ...]:
    texts = (
        [level.assignees.expression if level.assignees else None for level in human.ladder] if human else []
    )
    return tuple(None if text is None else compile_expression(text) for text in texts)


def _until(block: Block) -> Expression | None:
    """`wait.until` is a time as it stands, or an expression that gives one."""
    if block.wait is None or block.wait.until is None:
        return None
    text = block.wait.until
    return compile_expression(json.dumps(text) if is_moment(text) else text)


def _correlation(block: Block) -> Expression | None:
    if block.wait is None or block.wait.correlation is None:
        return None
    return compile_expression(block.wait.correlation)


def _alike(planned: tuple[PlanBlock, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for block in planned:
        found.setdefault(block.likeness, []).append(block.idx)
    return {likeness: tuple(idxs) for likeness, idxs in found.items()}


def _key(block: Block) -> Key | None:
    found = block.concurrency
    return None if found is None else Key(compile_mapping(found.key), found.limit, block.priority)


def _run_key(definition: Definition) -> Key | None:
    found = definition.global_settings.concurrency
    return None if found is None else Key(compile_mapping(found.key), found.limit, found.priority)


def _keys(definition: Definition, planned: tuple[PlanBlock, ...]) -> tuple[Key, ...]:
    found = [_run_key(definition), *(block.key for block in planned)]
    return tuple(key for key in found if key is not None)


def _likeness(block: Block) -> str:
    """A short hash of who is called and how; the input is left out."""
    said: list[object] = [block.agent_id, block.tool_type, block.effect, block.configuration]
    if block.capabilities and block.agent_id is None:
        said.append(sorted(block.capabilities))
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=12).hexdigest()
