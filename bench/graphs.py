"""The workloads: graphs of one function, and what their last blocks must answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from .blocks import MODULO, fibonacci


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    after: tuple[str, ...] = ()
    n: int = 0  # the block computes fib(n) by plain recursion


Graph = tuple[Node, ...]  # in topological order


def chain(length: int, n: int = 0) -> Graph:
    return tuple(Node(f"n{i}", (f"n{i - 1}",) if i else (), n) for i in range(length))


def fan(width: int, n: int = 0) -> Graph:
    middle = tuple(f"m{i}" for i in range(width))
    return (Node("source"), *(Node(name, ("source",), n) for name in middle), Node("sink", middle))


def fork(width: int) -> Graph:
    return (Node("source"), *(Node(f"m{i}", ("source",)) for i in range(width)))


def grid(depth: int, width: int) -> Graph:
    """Every block reads three neighbours of the layer above, so no layer is a barrier."""
    return tuple(
        Node(f"g{layer}.{i}", tuple(f"g{layer - 1}.{(i + d) % width}" for d in range(3)) if layer else ())
        for layer in range(depth)
        for i in range(width)
    )


def diamond() -> Graph:
    return (
        Node("a"),
        Node("left", ("a",)),
        Node("right", ("a",)),
        Node("both", ("left", "right")),
        Node("end", ("both",)),
    )


# single: one execution, start to end.  many: all started at once.  idle: one after another, with pauses,
# for the time to the first block and between two blocks.
Kind = Literal["single", "many", "idle"]


@dataclass(frozen=True, slots=True)
class Workload:
    title: str
    make: Callable[[], Graph]
    kind: Kind = "single"
    executions: int = 1
    target: float | None = None  # of the ratio to raw Celery


WORKLOADS: dict[str, Workload] = {
    "W1": Workload("chain of 40, fib(10)", lambda: chain(40, 10), target=0.55),
    "W2": Workload("chain of 10, fib(33)", lambda: chain(10, 33)),
    "W3": Workload("fan of 100", lambda: fan(100), target=0.12),
    "W4": Workload("fan of 1000", lambda: fan(1000), target=0.08),
    "W5": Workload("grid 10x10", lambda: grid(10, 10), target=0.06),
    "W6": Workload("200 diamonds", diamond, "many", 200, target=0.65),
    "W7": Workload("gap between blocks", lambda: chain(5), "idle", 10, target=0.5),
    # growth
    "chain-100": Workload("chain of 100", lambda: chain(100)),
    "chain-10000": Workload("chain of 10,000", lambda: chain(10_000)),
    "grid-100": Workload("grid 10x10", lambda: grid(10, 10)),
    "grid-10000": Workload("grid 100x100", lambda: grid(100, 100)),
    "fan-100": Workload("fan of 98", lambda: fan(98)),
    "fan-10000": Workload("fan of 9,998", lambda: fan(9_998)),
    "join-1100": Workload("a block with 1,100 dependencies", lambda: fan(1_100)),
    "fork-1900": Workload("a fork of 1,900", lambda: fork(1_900)),
    "heavy": Workload("8 side by side, fib(31) each", lambda: fan(8, 31)),
    # for the harness's own test
    "tiny": Workload("fan of 4", lambda: fan(4)),
    "tiny-many": Workload("3 diamonds", diamond, "many", 3),
}
STANDARD = ("W1", "W2", "W3", "W4", "W5", "W6", "W7")


def expected(graph: Graph) -> dict[str, int]:
    """What each sink must answer."""
    values: dict[str, int] = {}
    for node in graph:
        values[node.name] = (1 + _fibonacci(node.n) + sum(values[name] for name in node.after)) % MODULO
    return {name: values[name] for name in sinks(graph)}


_fibonacci = cache(fibonacci)


def sinks(graph: Graph) -> list[str]:
    used = {name for node in graph for name in node.after}
    return [node.name for node in graph if node.name not in used]


def layers(graph: Graph) -> list[list[Node]]:
    depth: dict[str, int] = {}
    found: list[list[Node]] = []
    for node in graph:
        depth[node.name] = level = 1 + max((depth[name] for name in node.after), default=-1)
        if level == len(found):
            found.append([])
        found[level].append(node)
    return found
