"""The processes of a measured run: workers, clock, web; and what memory they take."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.engines import Engines, launched

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
PROCESSES = 2  # of raw Celery's pool, and workers of ours
THREADS = 8  # of each of our workers, as `make run` has it
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")


class NotStarted(RuntimeError):
    """A process did not come up; the message has its last words."""


@dataclass
class Fleet:
    """Processes by name, each with a log; all end with this one."""

    folder: Path
    environment: Mapping[str, str]
    _children: dict[str, tuple[subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    _port: int = 0

    def start(self, name: str, command: list[str], **more: str) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                launched([sys.executable, *command], death_signal=signal.SIGKILL),
                cwd=ROOT,
                env={**self.environment, "PGAPPNAME": name, **more},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._children[name] = (process, log)

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        process, log = self._children[name]
        until = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise NotStarted(f"{name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._children if name.startswith(prefix)]

    def workers(self) -> list[int]:
        """The processes of ours that were started here, without what they started."""
        return [self._children[name][0].pid for name in self.names("ours")]

    def pids(self, prefix: str) -> list[int]:
        """Of the processes whose name begins so, and of those they started."""
        return [
            pid
            for name, (process, _) in self._children.items()
            if name.startswith(prefix)
            for pid in family(process.pid)
        ]

    def kill(self, name: str) -> None:
        """End one at once, as the kernel does it when memory runs out."""
        process, _ = self._children.pop(name)
        process.kill()
        process.wait()

    def stop(self, prefix: str = "") -> None:
        chosen = [name for name in self._children if name.startswith(prefix)]
        for name in chosen:
            self._children[name][0].terminate()
        for name in chosen:
            process, _ = self._children.pop(name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            process.kill()
            process.wait()

    # -- who there is: each is started at once, `ready` waits for all -------------

    def ours(self, module: str = "celery", **more: str) -> None:
        """Workers and the clock, as `make run` starts them."""
        for number in range(PROCESSES):
            self.worker(number, module, **more)
        self.start("clock", ["manage.py", "clock"])

    def worker(self, number: int, module: str = "celery", **more: str) -> None:
        name = f"ours-{number}"
        command = ["-m", module, "-A", "config", "worker", "-P", "threads", "-c", str(THREADS)]
        self.start(name, [*command, "-Q", "blocks,control", "-n", f"{name}@%h", *QUIET], **more)

    def raw(self) -> None:
        command = ["-m", "celery", "-A", "bench.raw_celery", "worker", "-P", "prefork", "-c", str(PROCESSES)]
        self.start("raw", [*command, "-Q", "raw", "-n", "raw@%h", *QUIET])

    def web(self) -> int:
        """Gives the port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        command = ["-m", "uvicorn", "config.asgi:application", "--port", str(self._port), "--lifespan", "off"]
        self.start("web", command, AGENTFLOW_DATABASE_POOL="40")
        return self._port

    def ready(self) -> None:
        """Wait until each has said so, or answers.

        Raises:
            NotStarted: one ended, or took too long.
        """
        for name, (_, log) in self._children.items():
            said = "ready" if name == "clock" else " ready."
            self._wait(name, self._web_answers if name == "web" else _says(log, said))

    def _web_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _says(log: Path, text: str) -> Callable[[], bool]:
    return lambda: text in log.read_text(errors="replace")


@contextlib.contextmanager
def stage(folder: Path, block_log: Path) -> Iterator[tuple[Engines, Fleet]]:
    """Engines with a fresh database and Django set up on it, for as long as it lasts.

    Raw Celery has a Valkey of its own that writes nothing to disk: it promises nothing, so it pays nothing.
    """
    engines, raw = Engines(folder / "data"), Engines(folder / "raw", fast=True)
    with engines:
        raw.start(postgres=False)
        try:
            os.environ.update(_environment(engines, raw, block_log))
            _migrate()
            fleet = Fleet(folder, dict(os.environ))
            try:
                yield engines, fleet
            finally:
                fleet.stop()
        finally:
            raw.stop()
            block_log.unlink(missing_ok=True)


def _environment(engines: Engines, raw: Engines, block_log: Path) -> dict[str, str]:
    socket_path = raw.redis_url.removeprefix("unix://")
    return {
        **engines.environment(),
        "DJANGO_SETTINGS_MODULE": "bench.settings",
        "AGENTFLOW_SECRET_KEY": "only-for-this-benchmark-0123456789-0123456789",
        "BENCH_BROKER": f"redis+socket://{socket_path}?virtual_host=8",
        "BENCH_RESULTS": f"redis+socket://{socket_path}?virtual_host=9",
        "BENCH_LOG": str(block_log),
        "PGAPPNAME": "client",
        "PYTHONUNBUFFERED": "1",
    }


def _migrate() -> None:
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


# -- what the kernel says ------------------------------------------------------


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc").exists() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def memory_mb(pids: Iterable[int]) -> dict[str, float]:
    """`rss` is the most each ever had, added up; `pss` shares common pages out, as of now."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rss += _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:")
            pss += _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    return {"rss": rss / 1024, "pss": pss / 1024}


def _kilobytes(path: Path, label: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(label):
            return int(line.split()[1])
    return 0


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of the processes, and of their children that ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(value) for value in stat[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    model = ""
    with contextlib.suppress(OSError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else ""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit.stdout.strip(),
        "processors": os.cpu_count(),
        "model": model,
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": list(os.getloadavg()),
    }
