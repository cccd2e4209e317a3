"""`make bench-calls`: what a warm call adds, and calls that wait, 200 of them at once in one worker process.

For the latter one worker, one clock, and a server that answers after a second.  The same calls are made by a
plain client in as many threads; while they wait, short steps run beside them.
"""

from __future__ import annotations

import json
import socket
import statistics
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from . import warm
from .processes import Fleet, family, machine, memory_mb, stage
from .service import Agentflow
from .slow_server import SECONDS

AT_ONCE = 200
EXECUTIONS, WIDTH = 8, 100  # 800 calls, four rounds of 200
SHORT, SHORT_BLOCKS = 8, 10


class Calls:
    def __init__(self, fleet: Fleet, ports: tuple[int, ...]) -> None:
        self.fleet, self.port = fleet, ports[0]
        self.ours = Agentflow()
        self.ours.workspace.egress_allow = [f"127.0.0.1:{port}" for port in ports]
        self.ours.workspace.save()
        slow = {"method": "GET", "url": f"http://127.0.0.1:{self.port}/"}
        self.versions = {
            name: self.ours.store(name, body)
            for name, body in {
                "slow": _wide("slow", WIDTH, {"toolType": "API", "configuration": slow}),
                "short": _chain("short", SHORT_BLOCKS),
            }.items()
        }

    def measure(self) -> dict[str, Any]:
        total = EXECUTIONS * WIDTH
        idle = self._short()
        (pid,) = self.fleet.workers()
        before = memory_mb(family(pid))["pss"]
        self._counts()
        self._most = 0
        began = time.monotonic()
        slow = self._start("slow", EXECUTIONS)
        while self._counts()["here"] < AT_ONCE * 0.9 and time.monotonic() - began < 10:
            time.sleep(0.02)
        filled_s = time.monotonic() - began
        during = memory_mb(family(pid))["pss"]
        busy = self._short()
        self._wait(slow)
        took_s = time.monotonic() - began
        self._counts()
        most = self._most
        plain_s = _plain(self.port, total)
        return {
            "calls": total,
            "most": most,
            "filled_s": filled_s,
            "per_s": total / took_s,
            "plain_per_s": total / plain_s,
            "ratio": plain_s / took_s,
            "kb_per_call": (during - before) * 1024 / AT_ONCE,
            "short_idle_ms": idle,
            "short_busy_ms": busy,
        }

    _most = 0

    def _counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=5) as reply:
            counts: dict[str, int] = json.load(reply)
        self._most = max(self._most, counts["most"])
        return counts

    def _start(self, name: str, times: int) -> list[Any]:
        from executions.services import starting

        return [
            starting.start(version=self.versions[name], by=self.ours.user, input={}).pk for _ in range(times)
        ]

    def _wait(self, ids: list[Any]) -> None:
        until = time.monotonic() + 120
        while self.ours._open(ids):
            if time.monotonic() > until:
                raise TimeoutError("The executions do not end.")
            time.sleep(0.01)

    def _short(self) -> float:
        """The median of some short executions, one after the other."""
        times = []
        for _ in range(SHORT):
            began = time.monotonic()
            self._wait(self._start("short", 1))
            times.append((time.monotonic() - began) * 1000)
        return statistics.median(times)


def _wide(name: str, width: int, what: dict[str, Any]) -> dict[str, Any]:
    blocks = [{"blockId": f"b{number}", "effect": "pure", **what} for number in range(width)]
    return {"name": name, "blocks": blocks, "globalSettings": {"maxParallelBlocks": AT_ONCE}}


def _chain(name: str, length: int) -> dict[str, Any]:
    blocks = [
        {"blockId": f"b{n}", "agentId": "builtin.echo", "dependencies": [f"b{n - 1}"] if n else []}
        for n in range(length)
    ]
    return {"name": name, "blocks": blocks}


def _plain(port: int, total: int) -> float:
    limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    with httpx2.Client(limits=limits, timeout=30) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        began = time.monotonic()
        for reply in threads.map(lambda _: client.get(f"http://127.0.0.1:{port}/"), range(total)):
            reply.raise_for_status()
        return time.monotonic() - began


def table(found: dict[str, Any]) -> str:
    rows = [
        ("calls at the server at once, at most", f"{found['most']}"),
        ("until 180 were there", f"{found['filled_s']:.1f} s"),
        ("calls a second", f"{found['per_s']:.0f}"),
        (f"the same by a plain client in {AT_ONCE} threads", f"{found['plain_per_s']:.0f}"),
        ("ours to the plain one's", f"{found['ratio']:.2f}"),
        ("memory of the worker for each call that waits", f"{found['kb_per_call']:.0f} KB"),
        (
            f"an execution of {SHORT_BLOCKS} short steps, with nothing beside it",
            f"{found['short_idle_ms']:.0f} ms",
        ),
        ("the same while the calls are under way", f"{found['short_busy_ms']:.0f} ms"),
    ]
    head = f"{found['calls']} calls of {SECONDS:g} s, one worker process\n\n| | |\n|---|---|\n"
    return head + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _answers(port: int) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    port, mcp_port = _port(), _port()
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as name:
        folder = Path(name)
        with stage(folder, folder / "blocks.log") as (_, fleet):
            fleet.start("server", ["-m", "bench.slow_server", str(port)])
            fleet.start("mcp", ["-m", "bench.echo_mcp", "--http", str(mcp_port)])
            calls = Calls(fleet, (port, mcp_port))
            _answers(port)
            _answers(mcp_port)
            workspace = calls.ours.workspace
            print(warm.table(warm.measure(workspace=workspace, port=port, mcp_port=mcp_port)))
            fleet.stop("mcp")
            fleet.worker(0)
            fleet.start("clock", ["manage.py", "clock"])
            fleet.ready()
            try:
                print(table(calls.measure()))
            finally:
                said = (folder / "ours-0.log").read_text(errors="replace")
                print(
                    "\n".join(line for line in said.splitlines() if "rror" in line or "WARN" in line)[-3000:]
                )
        print(machine())


if __name__ == "__main__":
    main()
