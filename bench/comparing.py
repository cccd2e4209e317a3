"""`make bench`: all systems in turn, run by run, so that a change of the machine's speed hits all alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.engines import Engines

from .graphs import WORKLOADS
from .measuring import Figures, System, perform
from .peers.environments import python_of
from .peers.remote import Peer
from .processes import Fleet, family, machine, memory_mb, stage

BASE = "celery"
OURS = ("agentflow", "http")
PEERS = ("langgraph", "dbos")
TITLES = {
    "celery": "raw Celery",
    "agentflow": "agentflow",
    "http": "over HTTP",
    "langgraph": "LangGraph",
    "dbos": "DBOS",
}


@dataclass
class Contestant:
    """A system and how to have it do one run."""

    prepare: Callable[[str], None]
    perform: Callable[[str, str], Figures]
    pids: Callable[[], list[int]]


def compare(
    folder: Path, block_log: Path, *, systems: list[str], workloads: list[str], runs: int
) -> dict[str, Any]:
    pythons = {name: python_of(name) for name in PEERS if name in systems}
    results: dict[str, Any] = {
        "machine": machine(),
        "runs": runs,
        "systems": {name: {"title": TITLES[name]} for name in systems},
        "workloads": {},
        "problems": [],
    }
    with stage(folder, block_log) as (engines, fleet), contextlib.ExitStack() as stack:
        contestants = _contestants(systems, fleet)
        for name, python in pythons.items():
            peer = Peer(name, python, _own_database(engines, name), folder)
            stack.callback(peer.stop)
            contestants[name] = _there(peer)
        for name in workloads:
            results["workloads"][name] = found = _measure(name, contestants, runs)
            results["problems"] += found.pop("problems")
        for name, contestant in contestants.items():
            results["systems"][name]["memory_mb"] = _rounded(memory_mb(contestant.pids()))
    results["machine"]["load_after"] = machine()["load"]
    return results


def _contestants(systems: list[str], fleet: Fleet) -> dict[str, Contestant]:
    """Each with its processes up.  The first of a pair of runs is raw Celery's."""
    from . import raw_celery
    from .service import Agentflow, AgentflowHttp

    found: dict[str, Contestant] = {}
    if BASE in systems:
        fleet.raw()
        found[BASE] = _here(raw_celery.RawCelery(), lambda: fleet.pids("raw"))
    if set(systems) & set(OURS):
        fleet.ours()
        ours = Agentflow()
        if "agentflow" in systems:
            found["agentflow"] = _here(ours, lambda: fleet.pids("ours"))
        if "http" in systems:
            http = AgentflowHttp(ours, fleet.web())
            found["http"] = _here(http, lambda: fleet.pids("ours") + fleet.pids("web"))
    fleet.ready()
    return found


def _here(system: System, pids: Callable[[], list[int]]) -> Contestant:
    return Contestant(
        prepare=lambda name: system.prepare(name, WORKLOADS[name].make()),
        perform=lambda name, run: perform(system, name, run),
        pids=pids,
    )


def _there(peer: Peer) -> Contestant:
    return Contestant(prepare=peer.prepare, perform=peer.perform, pids=lambda: family(peer.pid))


def _own_database(engines: Engines, name: str) -> str:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE bench_{name}")
    return engines.database_url(f"bench_{name}")


def _measure(name: str, contestants: dict[str, Contestant], runs: int) -> dict[str, Any]:
    workload = WORKLOADS[name]
    found: dict[str, Any] = {
        "title": workload.title,
        "kind": workload.kind,
        "blocks": len(workload.make()) * workload.executions,
        "target": workload.target,
        "runs": {side: [] for side in contestants},
        "problems": [],
    }
    standing = dict(contestants)
    for number in range(runs + 1):
        for side, contestant in contestants.items():
            if side not in standing:
                continue
            try:
                if not number:
                    contestant.prepare(name)
                figures = contestant.perform(name, f"{name}-{side}-{number}")
            except Exception as error:  # noqa: BLE001  # a system that cannot do it is a finding, too
                found["problems"].append(f"{side} on {name}: {type(error).__name__}: {str(error)[:300]}")
                found["runs"][side] = []
                del standing[side]
                continue
            found["problems"] += [f"{side}: {problem}" for problem in figures.pop("problems")]
            if number:  # the first run warms all up
                found["runs"][side].append(_rounded(figures))
        print(f"\r{name} {number}/{runs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}
