"""Plain Celery canvas: chains, groups and chords; nothing is durable.

Canvas cannot say the grid: it runs with a barrier after each layer, a chord whose body hands on what
the layer gave.  (Two groups side by side in a chain run blocks twice in Celery 5.7.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery, chain, group
from celery.result import AsyncResult

from .blocks import BlockLog, work
from .graphs import Graph, Node, layers, sinks
from .measuring import TIMEOUT_S

# Not the current app: in the benchmark's own process that is the service's.  No fixups: Django's would
# come along wherever its settings are named.
app = Celery(
    "raw",
    broker=os.environ["BENCH_BROKER"],
    backend=os.environ["BENCH_RESULTS"],
    set_as_current=False,
    fixups=[],
)
app.conf.update(
    task_default_queue="raw",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)

Value = list[Any]  # [name, value]


@app.task(name="raw.block")
def block(given: Any, run: str, name: str, after: list[str], n: int) -> Value:
    many = given if given and isinstance(given[0], list) else [given] if given else []
    wanted = set(after)
    return [name, work(run, name, n, [value for other, value in many if other in wanted])]


@app.task(name="raw.gather")
def gather(given: list[Value]) -> list[Value]:
    return given


class RawCelery:
    def prepare(self, name: str, graph: Graph) -> None:
        """Canvas is made for each run: that is how it starts."""

    def refresh(self) -> None:
        """Nothing."""

    def start(self, name: str, graph: Graph, run: str) -> AsyncResult[Any]:
        steps: list[Any] = []
        wide = False
        for layer in layers(graph):
            tasks = [_task(node, run, first=not steps) for node in layer]
            if wide and len(tasks) > 1:
                steps.append(gather.s())
            wide = len(tasks) > 1
            steps.append(group(tasks) if wide else tasks[0])
        return chain(*steps).apply_async()

    def wait(self, handles: Sequence[AsyncResult[Any]], log: BlockLog) -> None:
        for handle in handles:
            handle.get(timeout=TIMEOUT_S)

    def answers(self, handle: AsyncResult[Any], graph: Graph) -> dict[str, int]:
        found = handle.get(timeout=TIMEOUT_S)
        wanted = set(sinks(graph))
        pairs = found if isinstance(found[0], list) else [found]
        return {name: value for name, value in pairs if name in wanted}


def _task(node: Node, run: str, *, first: bool) -> Any:
    named = {"run": run, "name": node.name, "after": list(node.after), "n": node.n}
    return block.s(None, **named) if first else block.s(**named)
