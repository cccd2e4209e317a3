"""`make bench`: starts engines and workers of its own, measures, prints a table, stops everything.

    python -m bench [--runs 7] [--workloads chain-40,grid-10x10] [--json results.json]

Both engines get two worker processes and run in turn, run by run, so that a change of the machine's
speed hits both.  Every run is checked: each block ran once and the last blocks answer the right value.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from config.engines import Engines

from .workloads import WORKLOADS, Graph, expected

TIMEOUT_S = 120.0
PROCESSES = 2


def main() -> None:
    options = _options()
    names = [name.strip() for name in options.workloads.split(",")]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        sys.exit(f"unknown workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as folder:
        engines = Engines(Path(folder) / "data")
        with engines:
            _environment(engines)
            results = _measure(names, options.runs, Path(folder))
    _print(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure beside raw Celery.")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each workload")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--json", default="", help="also write the figures to this file")
    return parser.parse_args()


def _environment(engines: Engines) -> None:
    os.environ.update(engines.environment())
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings.local"
    os.environ["AGENTFLOW_SECRET_KEY"] = "only-for-this-benchmark-0123456789-0123456789"
    socket = engines.redis_url.removeprefix("unix://")
    os.environ["BENCH_BROKER"] = f"redis+socket://{socket}?virtual_host=8"
    os.environ["BENCH_RESULTS"] = f"redis+socket://{socket}?virtual_host=9"
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


@contextlib.contextmanager
def _workers(folder: Path) -> Iterator[None]:
    """Two processes for each engine; their logs are shown when one does not come up."""
    common = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    celery = [sys.executable, "-m", "celery", "-A"]
    commands = [
        [*celery, "config", "worker", "-P", "threads", "-c", "8", "-Q", "blocks,control", "-n", f"ours{i}@%h"]
        for i in range(PROCESSES)
    ]
    commands.append(
        [
            *celery,
            "bench.raw_celery",
            "worker",
            "-P",
            "prefork",
            "-c",
            str(PROCESSES),
            "-Q",
            "raw",
            "-n",
            "raw@%h",
        ]
    )
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for i, command in enumerate(commands):
            log = folder / f"worker{i}.log"
            with log.open("wb") as out:
                running.append((subprocess.Popen([*command, *common], stdout=out, stderr=out), log))
        for process, log in running:
            until = time.monotonic() + 60
            while b" ready." not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > until:
                    sys.exit(f"a worker did not start:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.05)
        yield
    finally:
        for process, _ in running:
            process.terminate()
        for process, _ in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


class Agentflow:
    """An execution of a stored template, durable in PostgreSQL with fsync on."""

    def __init__(self) -> None:
        from agentflow.governance.models import User
        from agentflow.governance.services.workspaces import create_workspace

        self.user = User.objects.create_user("bench", is_superuser=True)
        self.workspace = create_workspace(slug="bench", name="Bench", by=self.user)

    def prepare(self, name: str, graph: Graph) -> Any:
        from agentflow.workflow.definition import parse
        from templates_app.services import authoring

        blocks = [
            {
                "blockId": node.name,
                "agentId": "builtin.fib",
                "configuration": {"n": node.n},
                "dependencies": list(node.after),
            }
            for node in graph
        ]
        definition = parse({"name": name, "blocks": blocks, "globalSettings": {"maxParallelBlocks": 50}})
        return authoring.create_template(workspace_id=self.workspace.pk, by=self.user, definition=definition)

    def run(self, version: Any, graph: Graph) -> dict[str, int]:
        from executions.models import Execution
        from executions.services import starting

        execution = starting.start(version=version, by=self.user, input={})
        status = Execution.objects.filter(pk=execution.pk).values_list("status", flat=True)
        until = time.monotonic() + TIMEOUT_S
        while status.get() not in ("completed", "failed", "cancelled"):
            if time.monotonic() > until:
                raise TimeoutError(f"{version} did not end")
            time.sleep(0.002)
        return self._answers(execution.pk, graph)

    def _answers(self, execution_id: Any, graph: Graph) -> dict[str, int]:
        from executions.models import BlockExecution

        rows = BlockExecution.objects.filter(execution_id=execution_id)
        found = {
            block_id: (attempt, output)
            for block_id, attempt, output in rows.values_list("block_id", "attempt", "output")
        }
        assert len(found) == len(graph)
        assert all(attempt == 1 for attempt, _ in found.values()), "a block ran more than once"
        return {name: found[name][1]["v"] for name in expected(graph)}


class RawCelery:
    """Canvas on the same Valkey; results in memory."""

    def prepare(self, name: str, graph: Graph) -> None:
        return None

    def run(self, version: None, graph: Graph) -> dict[str, int]:
        from . import raw_celery

        return raw_celery.wait(raw_celery.start(graph), TIMEOUT_S)


def _measure(names: list[str], runs: int, folder: Path) -> dict[str, Any]:
    from .http_start import start_to_first_block

    results: dict[str, Any] = {"machine": _machine(), "runs": runs, "workloads": {}}
    with _workers(folder):
        ours, raw = Agentflow(), RawCelery()
        for name in names:
            graph = WORKLOADS[name]()
            version = ours.prepare(name, graph)
            sides: dict[str, Callable[[], dict[str, int]]] = {
                "agentflow": lambda version=version, graph=graph: ours.run(version, graph),  # type: ignore[misc]
                "celery": lambda graph=graph: raw.run(None, graph),  # type: ignore[misc]
            }
            walls: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(runs + 1):
                for side, work in sides.items():
                    began = time.perf_counter()
                    answers = work()
                    wall_ms = (time.perf_counter() - began) * 1000
                    if answers != expected(graph):
                        sys.exit(f"{side} gave a wrong answer for {name}")
                    if number:  # the first run warms both up
                        walls[side].append(round(wall_ms, 2))
            results["workloads"][name] = {"blocks": len(graph), "ms": walls}
        results["httpStartToFirstBlockMs"] = start_to_first_block(ours, folder)
    return results


def _machine() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _print(results: dict[str, Any]) -> None:
    machine = results["machine"]
    print(
        f"\n{machine['processors']} processors ({machine['architecture']}, {machine['system']}), Python"
        f" {machine['python']}; PostgreSQL with fsync,"
        f" median of {results['runs']} runs after one that warms up\n"
    )
    print(f"{'workload':<12}{'blocks':>8}{'agentflow':>14}{'raw Celery':>14}{'ratio':>8}")
    for name, found in results["workloads"].items():
        ours, raw = (statistics.median(found["ms"][side]) for side in ("agentflow", "celery"))
        print(f"{name:<12}{found['blocks']:>8}{ours:>11.1f} ms{raw:>11.1f} ms{ours / raw:>8.2f}")
    first = results["httpStartToFirstBlockMs"]
    print(
        f"\nPOST /api/v1/executions to the first block's start: median {statistics.median(first):.1f} ms,"
        f" slowest {max(first):.1f} ms of {len(first)}\n"
    )


if __name__ == "__main__":
    if not shutil.which("sh"):
        sys.exit("a POSIX system is needed")
    main()
