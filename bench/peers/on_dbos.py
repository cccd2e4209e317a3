"""DBOS: a durable workflow whose blocks are steps, each a row in PostgreSQL.

Its graphs are code: layer by layer.  A layer of one is a plain step, the rest are gathered side by side
on the event loop, which is faster here than its queue of child workflows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dbos import DBOS

from ..blocks import BlockLog, work
from ..graphs import Graph, Node, layers, sinks
from .remote import serve

Layers = list[list[tuple[str, tuple[str, ...], int]]]


@DBOS.step()
def step(run: str, name: str, n: int, given: list[int]) -> int:
    return work(run, name, n, given)


@DBOS.step()
async def step_beside(run: str, name: str, n: int, given: list[int]) -> int:
    return work(run, name, n, given)


@DBOS.workflow()
def one_by_one(run: str, graph: Layers) -> dict[str, int]:
    values: dict[str, int] = {}
    for [(name, after, n)] in graph:
        values[name] = step(run, name, n, [values[other] for other in after])
    return values


@DBOS.workflow()
async def side_by_side(run: str, graph: Layers) -> dict[str, int]:
    values: dict[str, int] = {}
    for layer in graph:
        found = await asyncio.gather(
            *(step_beside(run, name, n, [values[other] for other in after]) for name, after, n in layer)
        )
        values.update(zip((name for name, _, _ in layer), found, strict=True))
    return values


class Dbos:
    def __init__(self, database_url: str) -> None:
        DBOS(config={"name": "bench", "system_database_url": database_url, "log_level": "ERROR"})
        DBOS.launch()

    def prepare(self, name: str, graph: Graph) -> None:
        """The workflow takes the graph as its argument."""

    def refresh(self) -> None:
        """Nothing."""

    def start(self, name: str, graph: Graph, run: str) -> Any:
        given = [[_plain(node) for node in layer] for layer in layers(graph)]
        workflow: Any = one_by_one if all(len(layer) == 1 for layer in given) else side_by_side
        return DBOS.start_workflow(workflow, run, given)

    def wait(self, handles: Sequence[Any], log: BlockLog) -> None:
        for handle in handles:
            handle.get_result()

    def answers(self, handle: Any, graph: Graph) -> dict[str, int]:
        values = handle.get_result()
        return {name: values[name] for name in sinks(graph)}


def _plain(node: Node) -> tuple[str, tuple[str, ...], int]:
    return (node.name, node.after, node.n)


if __name__ == "__main__":
    serve(Dbos)
