"""`make bench-growth`: whether size, width and the number of open executions make a block dearer."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .graphs import WORKLOADS
from .measuring import TIMEOUT_S, Figures, System, perform
from .processes import Fleet, machine, stage
from .report import ms, row, where
from .service import Agentflow

SIZES = (("chain-100", "chain-10000"), ("grid-100", "grid-10000"), ("fan-100", "fan-10000"))
SIZE_TARGET = 1.3
OPEN_TARGET = 1.2
WIDE = ("join-1100", "fork-1900")
SMALL_RUNS = 5  # of a small graph for each run of the large one: they are cheap and noisy
WAITING_TIMEOUT_S = 3600.0


class Growth:
    def __init__(self, runs: int, open_executions: int) -> None:
        self.runs = runs
        self.open_executions = open_executions
        self.problems: list[str] = []
        self.results: dict[str, Any] = {"machine": machine(), "runs": runs, "backlog_s": {}}

    def measure(self, folder: Path, block_log: Path) -> dict[str, Any]:
        with stage(folder, block_log) as (_, fleet):
            from .raw_celery import RawCelery

            fleet.raw()
            fleet.ours()
            self.ours = Agentflow()
            self.sides: dict[str, System] = {"celery": RawCelery(), "agentflow": self.ours}
            fleet.ready()
            # First of all, while there is nothing in the database.
            empty = self._starts("empty")
            sizes = [self._tried(large, partial(self._size, small, large)) for small, large in SIZES]
            self.results["sizes"] = [found for found in sizes if found]
            wide = {name: self._tried(name, partial(self._walls, name, self.runs)) for name in WIDE}
            self.results["wide"] = {name: walls for name, walls in wide.items() if walls}
            self.results["cores"] = self._cores(fleet)
            if self.open_executions:
                self.results["open"] = {"empty": empty, **self._crowd(), "crowded": self._starts("crowded")}
        self.results["machine"]["load_after"] = machine()["load"]
        return {**self.results, "problems": self.problems}

    def _do(self, system: System, name: str, run: str) -> Figures:
        figures = perform(system, name, run)
        self.problems += figures.pop("problems")
        print(f"{run}: {figures}", file=sys.stderr, flush=True)
        return figures

    def _run(self, name: str, run: object) -> Figures:
        """One run; what hints it leaves behind is waited for, so that the next does not pay for it."""
        self.ours.prepare(name, WORKLOADS[name].make())
        try:
            return self._do(self.ours, name, f"{name}-{run}")
        finally:
            began = time.monotonic()
            _until(lambda: _hints_left() == 0)
            left = time.monotonic() - began
            self.results["backlog_s"][name] = max(left, self.results["backlog_s"].get(name, 0.0))

    def _tried(self, name: str, what: Callable[[], Any]) -> Any:
        """None where an execution did not end; it is cancelled then."""
        try:
            return what()
        except TimeoutError as error:
            self.problems.append(f"{name}: {error} within {TIMEOUT_S:.0f} s")
            self._cancel_all()
            return None

    def _cancel_all(self) -> None:
        from executions.models import Execution
        from executions.services import control

        for execution_id in Execution.objects.filter(completed_at=None).values_list("pk", flat=True):
            control.cancel(execution_id=execution_id, by=self.ours.user)
        _until(lambda: not Execution.objects.filter(completed_at=None).exists())

    def _walls(self, name: str, runs: int) -> list[float]:
        return [self._run(name, number)["wall_ms"] for number in range(runs + 1)][1:]

    def _size(self, small: str, large: str) -> dict[str, Any]:
        """Milliseconds per block, of the whole run and from the first block's start to the last one's end."""
        found: dict[str, Any] = {"small": small, "large": large}
        for kind in ("wall", "span"):
            found[kind] = {small: [], large: []}
        self._run(small, "warm")
        for number in range(self.runs):
            for name, times in ((small, SMALL_RUNS), (large, 1)):
                blocks = len(WORKLOADS[name].make())
                figures = [self._run(name, f"{number}.{again}") for again in range(times)]
                for kind in ("wall", "span"):
                    each = [one[f"{kind}_ms"] / blocks for one in figures]
                    found[kind][name].append(statistics.median(each))
        return found

    def _cores(self, fleet: Fleet) -> dict[str, list[float]]:
        """Heavy blocks side by side, with two workers and with one of them, in turn."""
        found: dict[str, list[float]] = {"two": [], "one": []}
        for number in range(self.runs):
            self._run("heavy", f"two.{number}.warm")
            found["two"].append(self._run("heavy", f"two.{number}")["wall_ms"])
            fleet.stop("ours-1")
            found["one"].append(self._run("heavy", f"one.{number}")["wall_ms"])
            fleet.worker(1)
            fleet.ready()
        return found

    def _starts(self, when: str) -> dict[str, list[float]]:
        """Start to first block, of ours and, to see how the machine itself has changed, of raw Celery."""
        found: dict[str, list[float]] = {"agentflow": [], "celery": []}
        self.ours.prepare("W7", WORKLOADS["W7"].make())
        for number in range(self.runs + 1):
            for side, system in self.sides.items():
                figures = self._do(system, "W7", f"{when}-{side}-{number}")
                if number:
                    found[side].append(figures["first_ms"])
        return found

    def _crowd(self) -> dict[str, Any]:
        """Executions that wait for an event which never comes."""
        from executions.models import BlockExecution
        from executions.services import starting

        body = {
            "name": "waiting",
            "blocks": [
                {"blockId": "wait", "agentId": "builtin.noop", "wait": {"event": "never"}},
                {"blockId": "then", "agentId": "builtin.noop", "dependencies": ["wait"]},
            ],
        }
        version = self.ours.store("waiting", body)
        waiting = BlockExecution.objects.filter(status="waiting_external", block_id="wait")
        tenths = []
        for tenth in range(10):
            began = time.monotonic()
            for _ in range(self.open_executions // 10):
                starting.start(version=version, by=self.ours.user, input={})
            wanted = (tenth + 1) * (self.open_executions // 10)
            _until(partial(_reached, waiting, wanted))
            tenths.append((time.monotonic() - began) * 1000 / (self.open_executions // 10))
            print(f"{wanted} executions wait: {tenths[-1]:.1f} ms each", file=sys.stderr, flush=True)
        return {"executions": waiting.count(), "ms_each": tenths}


def _hints_left() -> int:
    """Messages that no worker has taken yet."""
    from celery import current_app

    with current_app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        return int(channel._size("blocks"))


def _reached(waiting: Any, wanted: int) -> bool:
    return bool(waiting.count() >= wanted)


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAITING_TIMEOUT_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the executions did not come to wait")
        time.sleep(0.05)


# -- as text -------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    lines = [where(results["machine"]), "", row("growth", "", "", "ratio", "at most"), row(*["---"] * 5)]
    lines += [_size_row(found, kind) for found in results["sizes"] for kind in ("wall", "span")]
    for name, walls in results["wide"].items():
        lines.append(row(WORKLOADS[name].title, f"{ms(statistics.median(walls))} ms", "", "", "works"))
    one, two = (statistics.median(results["cores"][side]) for side in ("one", "two"))
    title = f"{WORKLOADS['heavy'].title}: one worker, two"
    lines.append(row(title, f"{ms(one)} ms", f"{ms(two)} ms", f"{two / one:.2f}", "0.5 is ideal"))
    if "open" in results:
        lines += _open_rows(results["open"])
    lines += ["", "Hints that were left when a run had ended took so long to be worked off, in s:"]
    lines += [f"* {WORKLOADS[name].title}: {left:.1f}" for name, left in results["backlog_s"].items()]
    if results["problems"]:
        lines += ["", "FAILED CHECKS", *(f"  {problem}" for problem in results["problems"])]
    return "\n".join(lines) + "\n"


def _size_row(found: dict[str, Any], kind: str) -> str:
    small, large = (statistics.median(found[kind][found[side]]) for side in ("small", "large"))
    what = "per block" if kind == "wall" else "the same from the first block's start to the last one's end"
    title = f"{WORKLOADS[found['small']].title}, {WORKLOADS[found['large']].title}: {what}"
    target = f"{SIZE_TARGET}{_met(large / small, SIZE_TARGET)}" if kind == "wall" else ""
    return row(title, f"{small:.3f} ms", f"{large:.3f} ms", f"{large / small:.2f}", target)


def _open_rows(found: dict[str, Any]) -> list[str]:
    lines = []
    for side, title in (
        ("agentflow", "start to first block"),
        ("celery", "the same of raw Celery, to compare"),
    ):
        empty, crowded = (statistics.median(found[when][side]) for when in ("empty", "crowded"))
        target = f"{OPEN_TARGET}{_met(crowded / empty, OPEN_TARGET)}" if side == "agentflow" else ""
        title = f"{title}: none open, {found['executions']} open"
        lines.append(row(title, f"{ms(empty)} ms", f"{ms(crowded)} ms", f"{crowded / empty:.2f}", target))
    first, last = found["ms_each"][0], found["ms_each"][-1]
    title = "bringing one to wait: of the first tenth, of the last"
    lines.append(row(title, f"{ms(first)} ms", f"{ms(last)} ms", f"{last / first:.2f}", ""))
    return lines


def _met(ratio: float, target: float) -> str:
    return " met" if ratio <= target else " missed"
