"""What every system runs as a block, and the log by which all are watched alike.

Each block appends a line `run node begin end` (one small write to a file in memory): so start and end
of a block are seen in the same way whatever system runs it, and a lost or doubled block shows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULO = 1_000_003
LOG = "BENCH_LOG"
UNNAMED = "-"  # agentflow's blocks do not tell their names: equal configuration is what makes them alike

_log: int | None = None


def fibonacci(n: int) -> int:
    """By plain recursion: a known amount of work, not a fast answer."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def work(run: str, node: str, n: int, given: Iterable[int]) -> int:
    """The block: its value depends on all that came before it."""
    global _log
    began = time.time()
    value = (1 + fibonacci(n) + sum(given)) % MODULO
    if _log is None:
        _log = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(_log, f"{run} {node} {began:.6f} {time.time():.6f}\n".encode())
    return value


def agent(input: Any, configuration: dict[str, Any]) -> dict[str, Any]:
    """The block as a builtin agent: the run's name is in its input, and each block hands it on."""
    if "run" in input:
        return {"run": input["run"], "v": work(input["run"], UNNAMED, configuration["n"], ())}
    outputs = list(input.values())
    run = outputs[0]["run"]
    return {"run": run, "v": work(run, UNNAMED, configuration["n"], [output["v"] for output in outputs])}


def log_folder() -> Path:
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class Line:
    node: str
    began: float
    ended: float


@dataclass
class BlockLog:
    """The log as it grows; read by the process that measures."""

    path: Path
    runs: dict[str, list[Line]] = field(default_factory=dict)
    _at: int = 0

    def read(self) -> dict[str, list[Line]]:
        """All that was written since `clear`, by run."""
        if self.path.exists() and self.path.stat().st_size > self._at:
            for run, line in self._fresh():
                self.runs.setdefault(run, []).append(line)
        return self.runs

    def _fresh(self) -> Iterator[tuple[str, Line]]:
        with self.path.open("rb") as file:
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        for line in whole.decode().splitlines():
            run, node, began, ended = line.split()
            yield run, Line(node, float(began), float(ended))

    def clear(self) -> None:
        """Between runs, when nobody writes."""
        self.runs = {}
        self._at = 0
        if self.path.exists():
            os.truncate(self.path, 0)
