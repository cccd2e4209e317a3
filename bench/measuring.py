"""One measured run of one workload on one system: timing and checks, alike for all systems."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from .blocks import LOG, UNNAMED, BlockLog, Line
from .graphs import WORKLOADS, Graph, Workload, expected

TIMEOUT_S = 300.0
PAUSE_S = 0.15  # of an idle system, before each start
SETTLE_S = 2.0  # a block that runs twice would do so soon

Figures = dict[str, Any]  # {"wall_ms": 51.2, "problems": [], ...}


class System(Protocol):
    """Something that runs graphs."""

    def prepare(self, name: str, graph: Graph) -> None:
        """All that is done once for a graph, before anything is measured."""

    def refresh(self) -> None:
        """Before each measured run."""

    def start(self, name: str, graph: Graph, run: str) -> Any:
        """The call that starts an execution; gives a handle without waiting for its end."""

    def wait(self, handles: Sequence[Any], log: BlockLog) -> None:
        """Return as soon as the system says that all have ended."""

    def answers(self, handle: Any, graph: Graph) -> dict[str, int]:
        """What the sinks gave.  Not measured.

        Raises:
            AssertionError: the system's own records contradict that each block ran once.
        """


def perform(system: System, name: str, run: str) -> Figures:
    """Run a workload once and give its figures; `problems` names each check that failed."""
    workload = WORKLOADS[name]
    graph = workload.make()
    log = BlockLog(Path(os.environ[LOG]))
    log.clear()
    system.refresh()
    if workload.kind == "single":
        return _single(system, name, graph, run, log)
    if workload.kind == "many":
        return _many(system, name, graph, run, log, workload)
    return _idle(system, name, graph, run, log, workload)


def _single(system: System, name: str, graph: Graph, run: str, log: BlockLog) -> Figures:
    began = time.time()
    handle = system.start(name, graph, run)
    system.wait([handle], log)
    wall = time.time() - began
    lines, problems = _checked(system, graph, handle, run, log)
    compute = sum(line.ended - line.began for line in lines)
    return {
        "wall_ms": wall * 1000,
        "compute_ms": compute * 1000,
        "span_ms": (max(line.ended for line in lines) - lines[0].began) * 1000 if lines else 0.0,
        "problems": problems,
    }


def _many(system: System, name: str, graph: Graph, run: str, log: BlockLog, workload: Workload) -> Figures:
    handles = []
    began = time.time()
    for number in range(workload.executions):
        started = time.time()
        handles.append((f"{run}.{number}", started, system.start(name, graph, f"{run}.{number}")))
    submitted = time.time() - began
    system.wait([handle for _, _, handle in handles], log)
    wall = time.time() - began
    latencies, problems = [], []
    for one, started, handle in handles:
        lines, found = _checked(system, graph, handle, one, log)
        problems += found
        latencies.append(max((line.ended for line in lines), default=started) - started)
    return {
        "wall_ms": wall * 1000,
        "submit_ms": submitted * 1000,
        "latency_p50_ms": statistics.median(latencies) * 1000,
        "latency_p99_ms": percentile(latencies, 99) * 1000,
        "problems": problems[:5],
    }


def _idle(system: System, name: str, graph: Graph, run: str, log: BlockLog, workload: Workload) -> Figures:
    firsts, gaps, problems = [], [], []
    for number in range(workload.executions):
        time.sleep(PAUSE_S)
        began = time.time()
        handle = system.start(name, graph, f"{run}.{number}")
        system.wait([handle], log)
        lines, found = _checked(system, graph, handle, f"{run}.{number}", log)
        problems += found
        if lines:
            firsts.append(lines[0].began - began)
            gaps += [after.began - before.ended for before, after in pairwise(lines)]
    return {
        "gap_ms": statistics.median(gaps) * 1000,
        "gap_p99_ms": percentile(gaps, 99) * 1000,
        "first_ms": statistics.median(firsts) * 1000,
        "first_max_ms": max(firsts) * 1000,
        "problems": problems[:5],
    }


def _checked(
    system: System, graph: Graph, handle: Any, run: str, log: BlockLog
) -> tuple[list[Line], list[str]]:
    """The lines of a run in order, and what is wrong with it."""
    until = time.monotonic() + SETTLE_S
    while len(log.read().get(run, ())) < len(graph) and time.monotonic() < until:
        time.sleep(0.001)
    lines = sorted(log.runs.get(run, ()), key=lambda line: line.began)
    problems = []
    names = sorted(line.node for line in lines)
    wanted = sorted(UNNAMED if UNNAMED in names else node.name for node in graph)
    if names != wanted:
        problems.append(f"{run}: {len(names)} blocks ran, {len(graph)} are in the graph")
    try:
        answers = system.answers(handle, graph)
    except AssertionError as wrong:
        return lines, [*problems, f"{run}: {wrong}"]
    if answers != expected(graph):
        problems.append(f"{run}: wrong answer {str(answers)[:80]}")
    return lines, problems


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]
