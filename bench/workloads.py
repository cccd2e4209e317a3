"""The workloads: graphs of one function, and what their last blocks must answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

MODULO = 1_000_003


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    after: tuple[str, ...] = ()
    n: int = 0  # the block computes fib(n) by plain recursion


Graph = tuple[Node, ...]  # in topological order


def chain(length: int, n: int) -> Graph:
    return tuple(Node(f"n{i}", (f"n{i - 1}",) if i else (), n) for i in range(length))


def fan(width: int) -> Graph:
    middle = tuple(f"m{i}" for i in range(width))
    return (Node("source"), *(Node(name, ("source",)) for name in middle), Node("sink", middle))


def grid(layers: int, width: int) -> Graph:
    """Every block reads three neighbours of the layer above, so no layer is a barrier."""
    return tuple(
        Node(f"g{layer}.{i}", tuple(f"g{layer - 1}.{(i + d) % width}" for d in range(3)) if layer else ())
        for layer in range(layers)
        for i in range(width)
    )


WORKLOADS: dict[str, Callable[[], Graph]] = {
    "chain-40": lambda: chain(40, 10),
    "fan-100": lambda: fan(100),
    "fan-1000": lambda: fan(1000),
    "grid-10x10": lambda: grid(10, 10),
}


@cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def expected(graph: Graph) -> dict[str, int]:
    """What each sink must answer."""
    values: dict[str, int] = {}
    for node in graph:
        values[node.name] = (1 + fibonacci(node.n) + sum(values[name] for name in node.after)) % MODULO
    used = {name for node in graph for name in node.after}
    return {name: value for name, value in values.items() if name not in used}


def layers(graph: Graph) -> list[list[Node]]:
    depth: dict[str, int] = {}
    found: list[list[Node]] = []
    for node in graph:
        depth[node.name] = level = 1 + max((depth[name] for name in node.after), default=-1)
        if level == len(found):
            found.append([])
        found[level].append(node)
    return found
