"""`make bench-fairness`: what an execution of a small workspace waits because of a crowd in another one."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from .processes import PROCESSES, machine, stage
from .report import ms, row, where
from .service import Agentflow, Started

WORK_S = 0.4  # of each block; nobody computes meanwhile
LENGTH = 2  # blocks of the small workspace's execution, one after the other
LOOK_S = 0.005


class Fairness:
    """The same execution alone and beside thousands; the ratio is the crowd's doing, whatever the machine."""

    def __init__(self, runs: int, crowd: int) -> None:
        self.runs = runs
        self.crowd = crowd

    def measure(self, folder: Path, block_log: Path) -> dict[str, Any]:
        results: dict[str, Any] = {"machine": machine(), "runs": self.runs, "crowd": self.crowd}
        with stage(folder, block_log) as (_, fleet):
            fleet.ours()
            small, many = Agentflow("small"), Agentflow("many")
            fleet.ready()
            self._took(small)  # the first one pays for what is read once
            results["alone_ms"] = [self._took(small) for _ in range(self.runs)]
            fleet.stop("ours")  # or the first of them would be done before the last has come
            waiting = self._gather(many)
            for number in range(PROCESSES):
                fleet.worker(number)
            fleet.ready()
            results["open_before"] = _open(waiting)
            results["beside_ms"] = [self._took(small) for _ in range(self.runs)]
            results["open_after"] = _open(waiting)
        results["machine"]["load_after"] = machine()["load"]
        problems = [] if results["open_after"] else ["the crowd was gone before the last run ended"]
        return {**results, "problems": problems}

    def _took(self, ours: Agentflow) -> float:
        """From the start to the end of one execution, in milliseconds."""
        version = ours.store("small", _chain("small", LENGTH))
        began = time.monotonic()
        execution = _start(ours, version)
        while _open([execution]):
            time.sleep(LOOK_S)
        took = (time.monotonic() - began) * 1000
        print(f"an execution took {took:.0f} ms", file=sys.stderr, flush=True)
        return took

    def _gather(self, ours: Agentflow) -> list[Started]:
        """Each of the crowd's executions is accepted, hinted and wants a worker."""
        version = ours.store("many", _chain("many", LENGTH))
        return [_start(ours, version) for _ in range(self.crowd)]


def _chain(name: str, length: int) -> dict[str, Any]:
    block = {"agentId": "builtin.echo", "configuration": {"simulate": {"runtimeSeconds": WORK_S}}}
    return {
        "name": name,
        "blocks": [
            {**block, "blockId": f"b{n}", "dependencies": [f"b{n - 1}"] if n else []} for n in range(length)
        ],
    }


def _start(ours: Agentflow, version: Any) -> Started:
    from executions.services import starting

    made = starting.start(version=version, by=ours.user, input={}, simulation={"scale": 1})
    return Started(made.pk, 0)


def _open(handles: list[Started]) -> int:
    from executions.models import Execution

    return Execution.objects.filter(pk__in=[each.pk for each in handles], completed_at=None).count()


def table(results: dict[str, Any]) -> str:
    alone, beside = (statistics.median(results[side]) for side in ("alone_ms", "beside_ms"))
    title = f"{LENGTH} blocks of {WORK_S * 1000:.0f} ms: alone, beside {results['crowd']} executions"
    worst = max(results["beside_ms"])
    lines = [
        where(results["machine"]),
        "",
        row("fairness", "alone", "beside", "ratio", "slowest beside"),
        row(*["---"] * 5),
        row(title, f"{ms(alone)} ms", f"{ms(beside)} ms", f"{beside / alone:.1f}", f"{ms(worst)} ms"),
        "",
        _crowd(results),
    ]
    return "\n".join([*lines, *(f"FAILED  {each}" for each in results["problems"])]) + "\n"


def _crowd(results: dict[str, Any]) -> str:
    return (
        f"Of the crowd {results['open_before']} were open when the first run beside it began,"
        f" {results['open_after']} when the last one ended."
    )
