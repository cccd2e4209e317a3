"""The running product as child processes, for tests that look at it from outside.

def test_an_execution_finishes(service):
    reply = httpx.post(f"{service.base_url}/api/v1/auth/token", json={...})
    service.until(lambda: status() == "completed")
    service.kill_worker()      # kill -9; start_worker() brings one back
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from config.engines import launched
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).resolve().parent.parent
POOL = {"AGENTFLOW_DATABASE_POOL": "20"}  # as the web server runs in the product
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Service:
    """Web, worker and clock on the test database.  Every child ends with this process at the latest."""

    environment: Mapping[str, str]
    logs: Path
    port: int = field(default_factory=free_port)
    children: dict[str, Child] = field(default_factory=dict)
    _started: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self, *, web: bool = True, workers: int = 1, clock: bool = True) -> None:
        """Start all at once, then wait for each."""
        if web:
            self.start_web(wait=False)
        names = [self.start_worker(wait=False) for _ in range(workers)]
        if clock:
            self.start_clock(wait=False)
        if web:
            self._await("web", self.web_ready)
        for name in names:
            self._await(name, self.children[name].said, " ready.")
        if clock:
            self._await("clock", self.children["clock"].said, "ready")

    def start_web(self, *, wait: bool = True) -> None:
        self._spawn(
            "web", "uvicorn", "config.asgi:application", "--host", "127.0.0.1", "--port", str(self.port)
        )
        if wait:
            self._await("web", self.web_ready)

    def start_clock(self, *, wait: bool = True) -> None:
        self._spawn("clock", "manage", "clock")
        if wait:
            self._await("clock", self.children["clock"].said, "ready")

    def start_worker(self, *, concurrency: int = 4, queues: str = "blocks,control", wait: bool = True) -> str:
        """One more worker; gives its name, for `kill_worker`."""
        self._started += 1
        name = f"worker{self._started}"
        self._spawn(
            name,
            *("celery", "-A", "config", "worker", "-P", "threads", "-c", str(concurrency)),
            *("-Q", queues, "-n", f"{name}-{os.getpid()}@%h", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
        if wait:
            self._await(name, self.children[name].said, " ready.")
        return name

    def start_command(self, name: str, command: str, *, says: str, **environment: str) -> None:
        """One more long-running command of manage.py, ready once it says so."""
        self._spawn(name, "manage", command, **environment)
        self._await(name, self.children[name].said, says)

    @property
    def workers(self) -> list[str]:
        return [name for name, child in self.children.items() if name.startswith("worker") and child.alive()]

    def kill_worker(self, name: str | None = None) -> None:
        """kill -9, as a machine that loses power; without a name, every worker."""
        for each in [name] if name else self.workers:
            self.kill(each)

    def kill(self, name: str) -> None:
        child = self.children[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.process.wait(PATIENCE_S)

    def freeze(self, name: str) -> None:
        """SIGSTOP: it holds what it has and hears nothing, until `thaw`."""
        os.killpg(self.children[name].pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.killpg(self.children[name].pid, signal.SIGCONT)

    def stop(self) -> None:
        for child in self.children.values():
            if child.alive():
                # SIGQUIT would be Celery's soft stop; a test's worker holds nothing worth waiting for.
                child.process.terminate()
        for name, child in self.children.items():
            try:
                child.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill(name)

    def until(self, condition: Callable[[], T], timeout_s: float = PATIENCE_S, *, why: str = "") -> T:
        """As `tests.waiting.until`."""
        return until(condition, timeout_s, why=why)

    def web_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _spawn(self, name: str, module: str, *arguments: str, **environment: str) -> None:
        entry = [sys.executable, "manage.py"] if module == "manage" else [sys.executable, "-m", module]
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                launched([*entry, *arguments], death_signal=signal.SIGKILL),
                cwd=ROOT,
                env={
                    **self.environment,
                    "AGENTFLOW_BASE_URL": self.base_url,
                    "PYTHONUNBUFFERED": "1",
                    **(POOL if name == "web" else {}),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.children[name] = Child(name, process, log)

    def _await(self, name: str, ready: Callable[..., bool], *arguments: str) -> None:
        child = self.children[name]
        try:
            until(lambda: ready(*arguments) or not child.alive(), PATIENCE_S, why=f"{name} to get ready")
        except AssertionError as late:
            raise AssertionError(f"{late}\n{child.tail()}") from None
        if not child.alive():
            raise AssertionError(f"{name} ended with {child.process.returncode}:\n{child.tail()}")


def child_environment(database: Mapping[str, object], redis_url: str, **more: str) -> dict[str, str]:
    """The environment of a child that shares this run's test database and broker."""
    from urllib.parse import quote, urlencode

    user, password = str(database.get("USER") or ""), str(database.get("PASSWORD") or "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    query = {"host": str(database["HOST"])} | (
        {"port": str(database["PORT"])} if database.get("PORT") else {}
    )
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.test",
        "AGENTFLOW_TEST_EXTERNAL": "1",  # the engines are this run's; a child starts none of its own
        "AGENTFLOW_DATABASE_URL": f"postgresql://{login}@/{database['NAME']}?{urlencode(query, safe='/')}",
        "AGENTFLOW_REDIS_URL": redis_url,
        **more,
    }
