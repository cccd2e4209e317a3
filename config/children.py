"""One long-running process of the local supervisor: started, watched, logged, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.engines import command_of, launched, wait_until

LOG_BYTES = 10 * 1024 * 1024  # then one older file is kept
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0  # a child that lived this long starts again without delay
LAST_WORDS = 12


class Log:
    """A log file with one predecessor, so that a run of months cannot fill the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: deque[str] = deque(maxlen=LAST_WORDS)

    def copy(self, source: int, saw: Callable[[str], None]) -> None:
        """Write all lines of the pipe `source` until it ends."""
        with os.fdopen(source, "rb") as lines:
            out = self.path.open("ab")
            try:
                for raw in lines:
                    if out.tell() > LOG_BYTES:
                        out.close()
                        self.path.replace(self.path.with_suffix(".log.1"))
                        out = self.path.open("ab")
                    out.write(raw)
                    out.flush()
                    line = raw.decode(errors="replace").rstrip()
                    self.last.append(line)
                    saw(line)
            finally:
                out.close()


@dataclass
class Child:
    """A service and how to tell that it is ready: a line it says, or a question asked of it."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    folder: Path  # working directory
    home: Path  # logs and pid files
    says: str = ""
    answers: Callable[[], bool] | None = None
    stop_within_s: float = 3.0
    detail: str = ""

    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    failures: int = 0
    start_at: float = 0.0
    started_at: float = 0.0
    _said: threading.Event = field(default_factory=threading.Event)
    _log: Log | None = None

    @property
    def pid_file(self) -> Path:
        return self.home / "pids" / self.name

    @property
    def last_words(self) -> list[str]:
        return list(self._log.last) if self._log else []

    def start(self) -> None:
        """Call from the main thread: the child ends with the thread that started it."""
        self.ready = False
        self._said = said = threading.Event()
        self._log = log = Log(self.home / "logs" / f"{self.name}.log")
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(
                launched(self.command, death_signal=signal.SIGKILL),
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which stops all in order
            )
        finally:
            os.close(write)

        def saw(line: str) -> None:
            if self.says and self.says in line:
                said.set()

        threading.Thread(target=log.copy, args=(read, saw), daemon=True, name=f"log {self.name}").start()
        self.started_at = time.monotonic()
        self.pid_file.write_text(f"{self.process.pid}\n{' '.join(self.command[-2:])}\n")

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def became_ready(self) -> bool:
        """True once, when a start has succeeded."""
        if self.ready or not self.alive():
            return False
        self.ready = self.answers() if self.answers else self._said.is_set()
        return self.ready

    def ended(self) -> str:
        """Note that the process is gone, plan the next start, and say what happened."""
        assert self.process is not None
        code = self.process.returncode
        lived_s = time.monotonic() - self.started_at
        self.failures = 0 if lived_s > STEADY_S else self.failures + 1
        wait_s = BACKOFF_S[min(self.failures, len(BACKOFF_S) - 1)]
        self.start_at = time.monotonic() + wait_s
        self.process = None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{how}; starts again in {wait_s:g} s"

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End the whole session: scripts that a worker was running go with it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.kill()
            self.process.wait()
        self.pid_file.unlink(missing_ok=True)


def stop_orphans(home: Path) -> None:
    """Kill children of a supervisor that was killed, where the system did not do it."""
    for pid_file in (home / "pids").glob("*"):
        try:
            number, mark = pid_file.read_text().splitlines()
            pid = int(number)
        except (OSError, ValueError):
            continue
        if mark in command_of(pid):  # else the number belongs to another program by now
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
            wait_until(lambda pid=pid: not command_of(pid), 5.0)  # type: ignore[misc]
        pid_file.unlink(missing_ok=True)
