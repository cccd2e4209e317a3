"""The graph of a definition, for its checks: what depends on what, cycles, and what can never run."""

from __future__ import annotations

from dataclasses import dataclass

from .definition import Block, Definition


@dataclass(frozen=True, slots=True)
class Graph:
    """Blocks by position.  Names that mean no block are left out; of equal names the first counts.

    `order` is topological and holds what neither lies on a cycle nor comes after one.
    """

    blocks: tuple[Block, ...]
    index: dict[str, int]
    predecessors: tuple[dict[int, None], ...]  # dicts as ordered sets
    successors: tuple[dict[int, None], ...]
    order: tuple[int, ...]

    def ancestors(self) -> dict[int, int]:
        """For each ordered block, the set of all blocks before it, as the bits of an integer."""
        before: dict[int, int] = {}
        for node in self.order:
            bits = 0
            for predecessor in self.predecessors[node]:
                bits |= before[predecessor] | (1 << predecessor)
            before[node] = bits
        return before

    def cycles(self) -> list[list[int]]:
        """One short cycle for each knot of blocks that wait for each other; each starts with the
        block whose edge, in the order they are listed, leads back."""
        import networkx as nx  # takes longer to import than most definitions take to check

        knots: nx.DiGraph[int] = nx.DiGraph()
        knots.add_edges_from(
            (node, successor)
            for node in sorted(set(range(len(self.blocks))) - set(self.order))
            for successor in self.successors[node]
        )
        found = []
        for knot in nx.strongly_connected_components(knots):
            if len(knot) > 1:
                edges = knots.subgraph(knot).edges
                source, target = min(edges, key=lambda edge: (edge[0] <= edge[1], edge[1], edge[0]))
                found.append(list(nx.shortest_path(knots.subgraph(knot), target, source)))
        return found


def build(definition: Definition) -> Graph:
    """Edges come from `dependencies`, and lead from a choosing block to all that its branches name."""
    blocks = definition.blocks
    index: dict[str, int] = {}
    for position, block in enumerate(blocks):
        index.setdefault(block.block_id, position)
    predecessors: tuple[dict[int, None], ...] = tuple({} for _ in blocks)
    successors: tuple[dict[int, None], ...] = tuple({} for _ in blocks)

    def connect(source: int, target: int) -> None:
        if source != target:
            predecessors[target][source] = None
            successors[source][target] = None

    for position, block in enumerate(blocks):
        for name in block.dependencies:
            if name in index:
                connect(index[name], position)
        for branch in block.conditions.branches if block.conditions else ():
            for name in branch.next_blocks:
                if name in index:
                    connect(position, index[name])
    return Graph(blocks, index, predecessors, successors, _topological(predecessors, successors))


def _topological(
    predecessors: tuple[dict[int, None], ...], successors: tuple[dict[int, None], ...]
) -> tuple[int, ...]:
    waiting = [len(before) for before in predecessors]
    order = [node for node, count in enumerate(waiting) if not count]
    for node in order:  # grows while it is gone through
        for successor in successors[node]:
            waiting[successor] -= 1
            if not waiting[successor]:
                order.append(successor)
    return tuple(order)


# What must have been chosen for a block to run: of each choosing block, one of these branches.
Need = dict[int, frozenset[int]]

# Only the latest choices on the way are remembered, or a chain of choices would cost its square.
MAX_CHOICES = 64


@dataclass(frozen=True, slots=True)
class Never:
    """Why a block can never run, and what mends it."""

    reason: str
    remedy: str


def unreachable(graph: Graph) -> dict[int, Never]:
    """Blocks that no run can reach; those that merely follow one are left out.

    Sound, not complete: what is reported can never run; guards and values are not looked at.
    """
    needs: dict[int, Need | None] = {}  # None: never runs
    reasons: dict[int, Never] = {}
    for node in graph.order:
        edges = [(p, _edge_need(graph, p, node, needs[p])) for p in graph.predecessors[node]]
        if not edges:
            needs[node] = {}
        elif graph.blocks[node].join == "all":
            needs[node] = _all_of(graph, node, edges, needs, reasons)
        else:
            needs[node] = _any_of(graph, node, edges, reasons)
    return reasons


def _edge_need(graph: Graph, source: int, target: int, need: Need | None) -> Need | None:
    block, name = graph.blocks[source], graph.blocks[target].block_id
    if need is None or block.end is not None:
        return None  # behind the end of the run nothing happens
    if block.conditions is None or block.conditions.type == "inclusive":
        return need
    naming = frozenset(i for i, b in enumerate(block.conditions.branches) if name in b.next_blocks)
    if not naming:
        return need
    kept = list(need.items())[-(MAX_CHOICES - 1) :]
    return {**dict(kept), source: naming}


def _all_of(
    graph: Graph,
    node: int,
    edges: list[tuple[int, Need | None]],
    needs: dict[int, Need | None],
    reasons: dict[int, Never],
) -> Need | None:
    merged: Need = {}
    for source, need in edges:
        if need is None:
            if needs[source] is not None:
                reasons[node] = _after_end(graph, source)
            return None
        for chooser, branches in need.items():
            left = merged.get(chooser, branches) & branches
            if not left:
                name = graph.blocks[chooser].block_id
                reasons[node] = Never(
                    f"it waits for blocks on different branches of {name!r}, which takes only one",
                    'Use "join": "merge" to run it after whichever was taken.',
                )
                return None
            merged[chooser] = left
    return merged


def _any_of(
    graph: Graph, node: int, edges: list[tuple[int, Need | None]], reasons: dict[int, Never]
) -> Need | None:
    possible = [need for _, need in edges if need is not None]
    if not possible:
        ends = [p for p, _ in edges if graph.blocks[p].end is not None]
        if ends:
            reasons[node] = _after_end(graph, ends[0])
        return None
    if len(possible) == 1:
        return possible[0]
    common = set(possible[0]).intersection(*possible[1:])
    return {chooser: frozenset().union(*(need[chooser] for need in possible)) for chooser in common}


def _after_end(graph: Graph, end: int) -> Never:
    name = graph.blocks[end].block_id
    return Never(
        f"it follows {name!r}, which ends the run", f"Remove the dependency on {name!r}, or its end."
    )
