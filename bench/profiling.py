"""`make bench-profile`: statements and commits per block, and whose processor time a block is.

Three passes over each workload.  In the first PostgreSQL logs every statement with the time it took and
the process that sent it; the log is slow, so no other times are taken from this pass.  In the second nothing
disturbs, and the kernel tells what processor time each process used, and each walker.  In the third the
walkers run under cProfile: its shares by layer are laid on the walkers' time of the second pass.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from config.engines import Engines

from .graphs import WORKLOADS
from .measuring import perform
from .processes import Fleet, cpu_s, family, machine, memory_mb, stage
from .report import row, where
from .service import Agentflow

WORKLOADS_SHOWN = ("W1", "W3", "W4", "W5", "W6")
LOGGED_RUNS = 3
PLAIN_S = 6.0  # the kernel counts hundredths of a second
PROFILED_RUNS = 3
TOP = 12
SQL_MODULES = ("executions.engine.statements", "executions.engine.run", "executions.services.starting")
ACKNOWLEDGED_S = 30.0

_ENTRY = re.compile(
    r"^(?P<who>[\w-]*)> LOG:  duration: (?P<ms>[\d.]+) ms  "
    r"(?P<what>statement|parse|bind|execute)[^:]*: (?P<sql>.*)"
)


@dataclass
class Statements:
    """What PostgreSQL logged: calls and milliseconds by statement, of those whose sender counts."""

    calls: Counter[str] = field(default_factory=Counter)
    spent_ms: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, name: str, ms: float) -> None:
        self.spent_ms[name] = self.spent_ms.get(name, 0) + ms
        if what in ("statement", "execute"):
            self.calls[name] += 1

    def of(self, name: str) -> int:
        return self.calls[name]

    def work(self) -> int:
        """All but the bounds of transactions."""
        return sum(number for name, number in self.calls.items() if name not in ("BEGIN", "COMMIT"))


def profile(folder: Path, block_log: Path, workloads: list[str]) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": machine(), "workloads": {}, "problems": []}
    with stage(folder, block_log) as (engines, fleet):
        samples = folder / "samples"
        samples.mkdir()
        ours = Agentflow()
        fleet.ours("bench.sampled", BENCH_SAMPLES=str(samples))
        fleet.ready()
        for name in workloads:
            each = _Profile(engines, fleet, ours, samples, name, results["problems"])
            results["workloads"][name] = each.take()
            print(f"{name} done", file=sys.stderr, flush=True)
        results["memory_mb"] = memory_mb(fleet.pids("ours"))
    return results


@dataclass
class _Profile:
    engines: Engines
    fleet: Fleet
    ours: Agentflow
    samples: Path
    name: str
    problems: list[str]
    runs: int = 0

    def take(self) -> dict[str, Any]:
        workload = WORKLOADS[self.name]
        self.blocks = len(workload.make()) * workload.executions
        self.ours.prepare(self.name, workload.make())
        for _ in range(2):
            self._run()
        return {"title": workload.title, "blocks": self.blocks, **self._logged(), **self._timed()}

    def _run(self) -> float:
        self.runs += 1
        figures = perform(self.ours, self.name, f"{self.name}-{self.runs}")
        self.problems += figures["problems"]
        return float(figures["wall_ms"])

    def _logged(self) -> dict[str, Any]:
        log = self.engines.log("postgres")
        _set_logging(0)
        begin, wal = log.stat().st_size, _wal_bytes()
        for _ in range(LOGGED_RUNS):
            self._run()
        wal = _wal_bytes() - wal
        _set_logging(-1)
        blocks = LOGGED_RUNS * self.blocks
        with log.open("rb") as file:
            file.seek(begin)
            workers, client = _read(file.read().decode(errors="replace"))
        return {
            "statements": workers.work() / blocks,
            "commits": workers.of("COMMIT") / blocks,
            "client_statements": client.work() / LOGGED_RUNS / WORKLOADS[self.name].executions,
            "wal_kb": wal / 1024 / blocks,
            "top": [
                {"name": name, "calls": workers.calls[name] / blocks, "ms": ms / blocks}
                for name, ms in sorted(workers.spent_ms.items(), key=lambda item: -item[1])[:TOP]
            ],
        }

    def _timed(self) -> dict[str, Any]:
        parts = {
            "workers": self.fleet.pids("ours"),
            "PostgreSQL": family(self.engines.pid("postgres")),
            "Valkey": family(self.engines.pid("valkey")),
            "clock": self.fleet.pids("clock"),
            "client": [os.getpid()],
        }
        self._mode("plain")
        before = {part: cpu_s(pids) for part, pids in parts.items()}
        walls: list[float] = []
        while sum(walls) < PLAIN_S * 1000:
            walls.append(self._run())
        blocks = len(walls) * self.blocks
        cpu = {part: (cpu_s(pids) - before[part]) * 1000 / blocks for part, pids in parts.items()}
        walks = self._collect()["walks_ms"] / blocks
        self._mode("profile")
        for _ in range(PROFILED_RUNS):
            self._run()
        layers = Counter(self._collect()["layers"])
        whole = sum(layers.values())
        return {
            "wall_ms": sum(walls) / blocks,
            "cpu_ms": cpu,
            "walks_ms": walks,
            "layers": {layer: walks * ms / whole for layer, ms in layers.most_common()},
            "beside": cpu["workers"] - walks,
        }

    def _mode(self, mode: str) -> None:
        """Tell the workers, and wait until each has heard it."""
        (self.samples / "mode").write_text(mode)
        heard = [self.samples / f"{name}.{mode}" for name in self.fleet.names("ours")]
        for pid in self.fleet.workers():
            os.kill(pid, signal.SIGUSR2)
        until = time.monotonic() + ACKNOWLEDGED_S
        while not all(file.exists() for file in heard):
            if time.monotonic() > until:
                raise TimeoutError("a worker does not hear its signal")
            time.sleep(0.02)
        for file in heard:
            file.unlink()

    def _collect(self) -> dict[str, Any]:
        """What the workers found since the mode was set, added up."""
        self._mode("off")
        walks, layers = 0.0, Counter[str]()
        for name in self.fleet.names("ours"):
            found = json.loads((self.samples / f"{name}.json").read_text())
            walks += found["walks_ms"]
            layers.update(found["layers"])
        return {"walks_ms": walks, "layers": layers}


# -- PostgreSQL's log ----------------------------------------------------------


def _set_logging(threshold_ms: int) -> None:
    """By the setting for samples (all of them): the plain threshold is given on the command line."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET log_line_prefix = '%a> '")
        cursor.execute(f"ALTER SYSTEM SET log_min_duration_sample = {threshold_ms}")
        cursor.execute("SELECT pg_reload_conf()")
    time.sleep(0.5)  # until every server process has taken note


def _wal_bytes() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        return int(cursor.fetchone()[0])


def _own(sql: str) -> bool:
    """Whether the harness itself asks: for an end, or to check a run."""
    return sql.startswith(
        ("SELECT count(*)", 'SELECT "executions_blockexecution"', "SELECT pg_", "ALTER SYSTEM")
    )


def _read(text: str) -> tuple[Statements, Statements]:
    """Of the workers, and of the client.  The clock's are left out: they do not grow with blocks."""
    workers, client = Statements(), Statements()
    for who, what, ms, sql in _entries(text):
        if who.startswith("ours"):
            workers.add(what, name_of(sql), ms)
        elif who == "client" and not _own(sql):
            client.add(what, name_of(sql), ms)
    return workers, client


def _entries(text: str) -> Iterator[tuple[str, str, float, str]]:
    """A statement of several lines goes on in lines that begin with a tab."""
    lines: list[str] = []
    for line in [*text.splitlines(), "end"]:
        if line.startswith("\t"):
            lines.append(line)
            continue
        found = _ENTRY.match("\n".join(lines).partition("\n")[0]) if lines else None
        if found:
            sql = " ".join([found["sql"], *lines[1:]])
            yield found["who"], found["what"], float(found["ms"]), sql
        lines = [line]


@cache
def name_of(sql: str) -> str:
    """A statement's name in the code, or its beginning."""
    plain = _plain(sql)
    if plain in ("BEGIN", "COMMIT"):
        return plain
    return _named().get(plain) or re.sub(r'"', "", plain)[:60]


@cache
def _named() -> dict[str, str]:
    found = {}
    for module in SQL_MODULES:
        for name, value in vars(import_module(module)).items():
            if isinstance(value, str) and name.lstrip("_").isupper() and " " in value:
                found[_plain(value.replace("%%", "%"))] = name
    return found


def _plain(sql: str) -> str:
    return " ".join(re.sub(r"\$\d+|%\(\w+\)s|%s", "?", sql).split()).rstrip(";")


# -- as text -------------------------------------------------------------------


def tables(results: dict[str, Any]) -> str:
    shown = results["workloads"]
    titles = [f"{name} {found['title']}" for name, found in shown.items()]
    lines = [where(results["machine"]), "", row("per block", *titles), row(*["---"] * (len(shown) + 1))]
    for title, key, digits in (
        ("statements of the workers", "statements", 2),
        ("commits of the workers", "commits", 2),
        ("log of PostgreSQL (WAL), KB", "wal_kb", 2),
        ("statements of a start (per execution)", "client_statements", 1),
        ("wall, ms", "wall_ms", 3),
    ):
        lines.append(row(title, *(f"{found[key]:.{digits}f}" for found in shown.values())))
    lines += [
        row(f"CPU of {part}, ms", *(f"{found['cpu_ms'][part]:.3f}" for found in shown.values()))
        for part in ("workers", "PostgreSQL", "Valkey", "clock", "client")
    ]
    lines += ["", "CPU of the workers by layer, ms per block (shares as cProfile sees them):", ""]
    lines += [row("layer", *titles), row(*["---"] * (len(shown) + 1))]
    layers: Counter[str] = Counter()
    for found in shown.values():
        layers.update(found["layers"])
    for layer, _ in layers.most_common():
        lines.append(row(layer, *(f"{found['layers'].get(layer, 0):.3f}" for found in shown.values())))
    beside = "beside the walkers: Celery, hints, heartbeat"
    lines.append(row(beside, *(f"{found['beside']:.3f}" for found in shown.values())))
    for name, found in shown.items():
        lines += ["", f"Statements of the workers in {name}, by the time PostgreSQL spent on them:", ""]
        lines += [row("statement", "per block", "ms per block"), row("---", "---", "---")]
        lines += [row(each["name"], f"{each['calls']:.3f}", f"{each['ms']:.3f}") for each in found["top"]]
    if results["problems"]:
        lines += ["", "FAILED CHECKS", *(f"  {problem}" for problem in results["problems"])]
    return "\n".join(lines) + "\n"
