"""`make run`, seen from the terminal."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from config.engines import command_of
from config.supervisor import ROOT
from tests.service import free_port
from tests.waiting import PATIENCE_S, until

UP = "Ctrl-C stops it all"
Start = Callable[..., "Run"]


class Run:
    """One supervisor as a child process, with what it printed so far."""

    def __init__(self, home: Path, port: int, *arguments: str, **more: str) -> None:
        passed = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTFLOW_", "DJANGO_"))}
        environment: Mapping[str, str] = {
            **passed,
            "AGENTFLOW_HOME": str(home),
            "PORT": str(port),
            "WORKERS": "1",
            **more,
        }
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-m", "config.supervisor", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str, *, times: int = 1, timeout_s: float = 90.0) -> None:
        until(lambda: self.text.count(text) >= times or self.process.poll() is not None, timeout_s)
        assert self.text.count(text) >= times, self.text

    def ends(self, timeout_s: float = 30.0) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(PATIENCE_S)
        return code

    def pids(self) -> dict[str, int]:
        return {path.name: int(path.read_text().split()[0]) for path in (self.home / "pids").iterdir()}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="agentflow-supervisor-"))
    yield folder / "home"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(home: Path) -> Iterator[Start]:
    started: list[Run] = []

    def _run(port: int, *arguments: str, **more: str) -> Run:
        started.append(Run(home, port, *arguments, **more))
        return started[-1]

    yield _run
    for each in started:
        if each.process.poll() is None:
            each.process.terminate()
            each.ends()


def test_a_taken_port_is_said_before_anything_starts(run: Start, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = run(port)
        assert taken.ends() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in taken.text
    assert f"PORT={port + 1 if port < 65535 else 8001} make run" in taken.text
    assert not (home / "postgres").exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "80 80", "PORT must be a whole number from 1 to 65535"),
        ("PORT", "70000", "PORT must be a whole number from 1 to 65535"),
        ("WORKERS", "-1", "WORKERS must be a whole number from 0 to 64"),
        ("HOST", "no.such.host.invalid", "HOST=no.such.host.invalid is not an address of this machine"),
    ],
)
def test_a_bad_setting_is_named(run: Start, variable: str, value: str, said: str) -> None:
    refused = run(**{"port": free_port(), variable: value})
    assert refused.ends() == 1
    assert said in refused.text
    assert "Traceback" not in refused.text


def test_a_command_beside_nothing_says_so(run: Start) -> None:
    alone = run(free_port(), "check")
    assert alone.ends() == 1
    assert "`make run` first" in alone.text


@pytest.mark.slow
def test_it_runs_heals_and_stops_in_order(run: Start, home: Path) -> None:
    first = run(free_port())
    first.wait_for(UP)
    for name in ("postgres", "valkey", "web", "worker-1", "clock"):
        assert f"  {name:<10} ready" in first.text
    assert stat.S_IMODE((home / "secret_key").stat().st_mode) == 0o600

    second = run(free_port())
    assert second.ends() == 1
    assert "already runs on" in second.text
    assert f"process {first.process.pid}" in second.text

    beside = run(free_port(), "check", "--database", "default")
    assert beside.ends() == 0, beside.text
    assert "no issues" in beside.text

    os.kill(first.pids()["worker-1"], signal.SIGKILL)
    first.wait_for("worker-1   was killed by signal 9; starts again in 1 s")
    first.wait_for("worker-1   ready", times=2)

    pids = first.pids()
    first.process.send_signal(signal.SIGINT)
    assert first.ends(15.0) == 0
    assert not any(command_of(pid) for pid in pids.values())
    assert not (home / "pids" / "web").exists()


@pytest.mark.slow
def test_after_kill_9_the_next_start_goes_on(run: Start, home: Path) -> None:
    port = free_port()
    killed = run(port)
    killed.wait_for(UP)
    key = (home / "secret_key").read_text()
    killed.process.kill()
    killed.process.wait()

    again = run(port)
    again.wait_for(UP)
    assert (home / "secret_key").read_text() == key

    os.kill(again.pids()["worker-1"], signal.SIGSTOP)  # cannot be asked to stop
    again.process.send_signal(signal.SIGINT)
    again.wait_for("Ctrl-C again forces")
    again.process.send_signal(signal.SIGINT)
    assert again.ends(4.0) == 0


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_start_stops_too(run: Start) -> None:
    early = run(free_port())
    early.wait_for("postgres   ready")
    early.process.send_signal(signal.SIGINT)
    assert early.ends(15.0) == 0
