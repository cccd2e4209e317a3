"""A child of the supervisor: ready when it says so, started again later each time, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config import children as module
from config.children import Child, stop_orphans
from config.engines import command_of
from tests.waiting import until

WAITS = "import time; print('now ready', flush=True); time.sleep(600)"
Start = Callable[[str], Child]
FAILS = "print('no such table'); raise SystemExit(3)"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("logs", "pids"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    started: list[Child] = []

    def _start(code: str) -> Child:
        child = Child("child", [sys.executable, "-c", code], os.environ, home, home, says="ready")
        started.append(child)
        child.start()
        return child

    yield _start
    for child in started:
        child.kill()


def test_is_ready_once_when_it_says_so(start: Start) -> None:
    child = start(WAITS)
    until(child.became_ready)
    assert not child.became_ready()
    assert child.ready


def test_tells_how_it_ended_and_its_last_words(start: Start) -> None:
    child = start(FAILS)
    until(lambda: not child.alive())
    until(lambda: child.last_words == ["no such table"])
    assert child.ended() == "ended with code 3; starts again in 1 s"


def test_waits_longer_after_each_failure(start: Start) -> None:
    child = start(FAILS)
    waits = []
    for _ in range(6):
        until(lambda: not child.alive())
        waits.append(child.ended().rpartition(" in ")[2])
        child.start()
    assert waits == ["1 s", "2 s", "5 s", "10 s", "30 s", "30 s"]


def test_a_long_life_forgives_earlier_failures(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEADY_S", -1.0)
    child = start(FAILS)
    until(lambda: not child.alive())
    assert child.ended().endswith("starts again in 0.5 s")


def test_its_log_keeps_one_predecessor(start: Start, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 1000)
    child = start("for n in range(200): print(f'line {n:03}')")
    until(lambda: "line 199" in child.last_words)
    until(lambda: "line 199" in (home / "logs" / "child.log").read_text())
    assert (home / "logs" / "child.log").stat().st_size < 1100
    assert (home / "logs" / "child.log.1").exists()


def test_killing_takes_what_it_started_along(start: Start) -> None:
    child = start(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('ready', p.pid, flush=True); p.wait()"
    )
    until(child.became_ready)
    grandchild = int(child.last_words[-1].split()[1])
    child.kill()
    until(lambda: not command_of(grandchild))


def test_children_end_with_a_supervisor_that_was_killed(home: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from config.children import Child\n"
        "home = Path(sys.argv[1])\n"
        f"child = Child('child', [sys.executable, '-c', {WAITS!r}], os.environ, home, home, says='ready')\n"
        "child.start()\n"
        "while not child.became_ready(): time.sleep(0.02)\n"
        "print(child.process.pid, flush=True); time.sleep(600)"
    )
    root = Path(module.__file__).resolve().parent.parent
    parent = subprocess.Popen([sys.executable, "-c", code, str(home)], cwd=root, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    stop_orphans(home)
    assert not command_of(pid)
    assert not list((home / "pids").iterdir())


def test_an_orphans_number_that_another_program_has_now_is_left_alone(home: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        (home / "pids" / "web").write_text(f"{other.pid}\nuvicorn config.asgi:application\n")
        stop_orphans(home)
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
