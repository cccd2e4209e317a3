"""The rig: engines, the wire in front of them, and two machines that each run web, worker and clock.

All of it is on loopback and unix sockets, is started by this process, and ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from config.engines import Engines, launched, wait_until
from tests.service import ROOT, free_port

NODES = ("a", "b")
START_S = 120.0
PARTS = ("web", "worker-1", "clock")


@dataclass
class Machine:
    """A supervisor and what it started."""

    name: str
    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pid(self, part: str) -> int | None:
        """The process that is this part now, by the supervisor's own note; None: there is none."""
        try:
            pid = int((self.home / "pids" / part).read_text().split()[0])
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return None
        return pid

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def said(self, part: str, text: str) -> int:
        log = self.home / "logs" / f"{part}.log"
        return log.read_text(errors="replace").count(text) if log.exists() else 0


class Rig:
    """Start faults from the thread that made the rig: what it starts ends with that thread."""

    def __init__(self, folder: Path, *, seed: int, doubled: float, dropped: float) -> None:
        self.folder = folder
        # Sockets need short names and a file system that is ours alone.
        self._short = tempfile.TemporaryDirectory(prefix="chaos-")
        self.engines = Engines(Path(self._short.name) / "engines")
        self.machines = [Machine(name, folder / f"machine-{name}", free_port()) for name in NODES]
        self._wire_settings = {"seed": seed, "doubled": doubled, "dropped": dropped}
        self._wire: subprocess.Popen[str] | None = None
        self._secret = secrets.token_urlsafe(50)
        self._model_url = ""

    # -- life -----------------------------------------------------------------

    def start_engines(self) -> dict[str, str]:
        """PostgreSQL, Valkey and the wire.  Returns the environment of who only watches."""
        self.engines.start()
        front = Path(self._short.name) / "wire"
        front.mkdir(mode=0o700)
        back = self.engines.run_dir
        name = ".s.PGSQL.5432"
        settings = self._wire_settings | {
            "postgres": [str(front / name), str(back / name)],
            "valkey": [str(front / "valkey.sock"), str(self.engines.valkey_socket)],
        }
        self._wire = subprocess.Popen(
            launched(
                [sys.executable, "-m", "tests.chaos.proxy", json.dumps(settings)], death_signal=signal.SIGKILL
            ),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._wire.stdout is not None
        if self._wire.stdout.readline() != "ready\n":
            raise RuntimeError("the wire did not start")
        self._front = front
        return self._environment(self.engines.database_url(), self.engines.redis_url)

    def _environment(self, database_url: str, redis_url: str) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.local",
            "AGENTFLOW_DATABASE_URL": database_url,
            "AGENTFLOW_REDIS_URL": redis_url,
            "AGENTFLOW_SECRET_KEY": self._secret,
            "AGENTFLOW_LLM_BASE_URL": self._model_url,
            "AGENTFLOW_LLM_API_KEY": "none",
            "AGENTFLOW_LLM_MODEL": "fake",
            "PYTHONUNBUFFERED": "1",
        }

    def start_machines(self, model_url: str) -> None:
        self._model_url = model_url
        for machine in self.machines:
            self.start_machine(machine)
        if not wait_until(lambda: all(map(self.whole, self.machines)), START_S, 0.2):
            raise RuntimeError(f"the machines did not start: see {self.folder}")

    def start_machine(self, machine: Machine) -> None:
        machine.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = self._environment(
            f"postgresql://agentflow@/agentflow?host={quote(str(self._front), safe='/')}",
            f"unix://{self._front / 'valkey.sock'}",
        )
        with (machine.home / "supervisor.log").open("ab") as log:
            machine.process = subprocess.Popen(
                launched([sys.executable, "-m", "tests.chaos.node"], death_signal=signal.SIGTERM),
                cwd=ROOT,
                env=environment
                | {"AGENTFLOW_HOME": str(machine.home), "PORT": str(machine.port), "WORKERS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def whole(self, machine: Machine) -> bool:
        return (
            machine.ready()
            and machine.said("worker-1", " ready.") > 0
            and machine.said("clock", "ready") > 0
            and all(machine.pid(part) for part in PARTS)
        )

    def stop(self) -> None:
        for machine in self.machines:
            for part in PARTS:  # a stopped process would not hear that it is to end
                if pid := machine.pid(part):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            if machine.process is not None and machine.process.poll() is None:
                machine.process.terminate()
        for machine in self.machines:
            if machine.process is not None:
                try:
                    machine.process.wait(20)
                except subprocess.TimeoutExpired:
                    machine.process.kill()
                    machine.process.wait()
        if self._wire is not None:
            self._wire.kill()
            self._wire.wait()
        self.engines.stop()
        self._short.cleanup()

    # -- the wire -------------------------------------------------------------

    def wire(self, **how: Any) -> dict[str, int]:
        """Say how bytes travel from now on; what was done to them so far."""
        assert self._wire is not None
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        self._wire.stdin.write(json.dumps(how) + "\n")
        self._wire.stdin.flush()
        return dict(json.loads(self._wire.stdout.readline()))


@contextlib.contextmanager
def rig(folder: Path, **how: Any) -> Iterator[Rig]:
    made = Rig(folder, **how)
    try:
        yield made
    finally:
        made.stop()


def settle_down(seconds: float) -> None:
    time.sleep(seconds)
