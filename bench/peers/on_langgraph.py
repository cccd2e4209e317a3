"""LangGraph: a state graph with a channel for each block, and a checkpoint in PostgreSQL after each step.

Blocks run as threads of this process.  A join of a thousand named edges exceeds an index row of the
checkpoint's table, so a wide fan is written as a map (`Send`) instead.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from ..blocks import BlockLog, work
from ..graphs import Graph, Node, sinks
from ..measuring import TIMEOUT_S
from .remote import serve

_typed_dict: Any = TypedDict  # made as the graph asks, so not for a type checker
JOIN_OF_EDGES = 500
SIDE_BY_SIDE = 8


class LangGraph:
    def __init__(self, database_url: str) -> None:
        pool: Any = ConnectionPool(
            database_url,
            min_size=4,
            max_size=10,
            kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        )
        self._saver = PostgresSaver(pool)
        self._saver.setup()
        self._threads = ThreadPoolExecutor(SIDE_BY_SIDE)
        self._compiled: dict[str, Any] = {}

    def prepare(self, name: str, graph: Graph) -> None:
        wide = max(len(node.after) for node in graph) > JOIN_OF_EDGES
        self._compiled[name] = (_mapped if wide else _edged)(graph).compile(checkpointer=self._saver)

    def refresh(self) -> None:
        """Nothing: the pool keeps its connections."""

    def start(self, name: str, graph: Graph, run: str) -> Future[Any]:
        config = {"configurable": {"thread_id": run, "run": run}, "recursion_limit": 2 * len(graph) + 10}
        begin = {graph[0].name: 0}  # a graph starts by a write to one of its channels
        return self._threads.submit(self._compiled[name].invoke, begin, config, durability="sync")

    def wait(self, handles: Sequence[Future[Any]], log: BlockLog) -> None:
        for handle in handles:
            handle.result(TIMEOUT_S)

    def answers(self, handle: Future[Any], graph: Graph) -> dict[str, int]:
        return {name: handle.result()[name] for name in sinks(graph)}


def _edged(graph: Graph) -> Any:
    """Every dependency an edge."""
    state = _typed_dict("state", dict.fromkeys((node.name for node in graph), int))
    builder = StateGraph(state)
    for node in graph:
        reads = _typed_dict(f"reads_{node.name}", dict.fromkeys(node.after, int)) if node.after else state
        builder.add_node(_step(node.name), partial(_run, node), input_schema=reads)
        before = [_step(name) for name in node.after]
        builder.add_edge(START if not before else before[0] if len(before) == 1 else before, _step(node.name))
    for name in sinks(graph):
        builder.add_edge(_step(name), END)
    return builder


def _run(node: Node, state: Any, config: RunnableConfig) -> dict[str, int]:
    return {node.name: _value(node, [state[name] for name in node.after], config)}


def _mapped(graph: Graph) -> Any:
    """A fan: the middle is one step that is sent each of its blocks."""
    source, *middle, sink = graph
    state = _typed_dict(
        "state", {source.name: int, "middle": Annotated[list[int], operator.add], sink.name: int}
    )

    def each(sent: Any, config: RunnableConfig) -> dict[str, list[int]]:
        return {"middle": [_value(middle[sent["at"]], [sent["given"]], config)]}

    def last(state: Any, config: RunnableConfig) -> dict[str, int]:
        return {sink.name: _value(sink, state["middle"], config)}

    builder = StateGraph(state)
    builder.add_node("first", partial(_run, source))
    builder.add_node("each", each)
    builder.add_node("last", last)
    builder.add_edge(START, "first")
    builder.add_conditional_edges(
        "first",
        lambda state: [Send("each", {"at": at, "given": state[source.name]}) for at in range(len(middle))],
        ["each"],
    )
    builder.add_edge("each", "last")
    builder.add_edge("last", END)
    return builder


def _value(node: Node, given: list[int], config: RunnableConfig) -> int:
    return work(config["configurable"]["run"], node.name, node.n, given)


def _step(name: str) -> str:
    """A step may not be called as a channel is, and its name may hold no colon or bar."""
    return f"do {name}"


if __name__ == "__main__":
    serve(LangGraph)
