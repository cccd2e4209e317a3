"""Plain Celery canvas: chains, groups and chords; nothing is durable.

The grid cannot be written in canvas: it runs as one chord per layer, a barrier, whose body hands all
results of a layer to every block of the next.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chain, group
from celery.result import AsyncResult

from agentflow.agents.builtin import fibonacci

from .workloads import MODULO, Graph, Node, layers

# Not the current app: in the benchmark's own process that is the service's.
app = Celery(
    "raw",
    broker=os.environ["BENCH_BROKER"],
    backend=os.environ["BENCH_RESULTS"],
    set_as_current=False,
)
app.conf.update(
    task_default_queue="raw",
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=16,
    worker_hijack_root_logger=False,
)

Value = dict[str, int]


@app.task(name="raw.block")
def block(given: Any, name: str, after: list[str], n: int) -> Value:
    values: Value = {}
    for item in given if isinstance(given, list) else [given] if given else []:
        values.update(item)
    return {name: (1 + fibonacci(n) + sum(values[other] for other in after)) % MODULO}


@app.task(name="raw.gather")
def gather(given: list[Value]) -> list[Value]:
    return given


def start(graph: Graph) -> AsyncResult[Any]:
    steps = [_layer(nodes, last=i == len(layers(graph)) - 1) for i, nodes in enumerate(layers(graph))]
    flow = chain(*[step for pair in steps for step in pair])
    return flow.apply_async((None,))


def _layer(nodes: list[Node], *, last: bool) -> list[Any]:
    tasks = [block.s(node.name, list(node.after), node.n) for node in nodes]
    if len(tasks) == 1:
        return tasks
    # A group followed by a task is a chord; the body forwards what the layer gave.
    return [group(tasks), gather.s()]


def wait(result: AsyncResult[Any], timeout_s: float) -> dict[str, int]:
    got = result.get(timeout=timeout_s)
    values: dict[str, int] = {}
    for item in got if isinstance(got, list) else [got]:
        values.update(item)
    return values
