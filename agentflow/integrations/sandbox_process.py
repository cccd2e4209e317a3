"""Feeds a process of the sandbox, listens to it, and ends it with all that it started."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from ..conf import KB, MB
from . import waiting

STDERR_BYTES = 8 * MB  # in all; a script that says more is ended
STDERR_LINES = 200  # that are told
STDERR_LINE_CHARS = 2000
STDERR_TAIL_BYTES = 4 * KB
NOBODY = 65534


class Ended(StrEnum):
    EXITED = "exited"
    TIMEOUT = "timeout"
    OUTPUT = "output"  # it wrote more than there is room for
    CANCELLED = "cancelled"


@dataclass(slots=True)
class ScriptRun:
    """What became of one run.  `exit_code` is negative for a signal."""

    ended: Ended
    exit_code: int
    stdout: bytes
    stderr_tail: str

    @property
    def hit_limit(self) -> bool:
        if self.ended is not Ended.EXITED:
            return self.ended is Ended.OUTPUT
        killed = {signal.SIGKILL, signal.SIGXCPU, signal.SIGXFSZ}
        # bubblewrap reports a signal as the shell does.
        if self.exit_code in {-number for number in killed} | {128 + number for number in killed}:
            return True
        return self.last_words.startswith("MemoryError") or "heap out of memory" in self.stderr_tail

    @property
    def last_words(self) -> str:
        """What it said of its end; Node.js says its version and where after that."""
        lines = [line for line in self.stderr_tail.splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith(("    at ", "Node.js v"))]
        return (told or lines or [""])[-1][:300]


@dataclass
class Conversation:
    """Feeds one process and listens to it, until it ends, floods, or its time is up."""

    process: subprocess.Popen[bytes]
    user: int | None  # whose processes are all this run's; None: nobody's alone
    stdin: bytes
    timeout_s: float
    max_output_bytes: int
    on_line: Callable[[str], Any]
    cancelled: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    _line: bytearray = field(default_factory=bytearray)
    _lines: int = 0
    _stderr_bytes: int = 0
    _reaped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cancel(self) -> None:
        """End the script from another thread.  Once it has been reaped its number may be another's."""
        with self._lock:
            if not self._reaped:
                self.cancelled = True
                self._kill()

    def hold(self) -> ScriptRun:
        ended = Ended.EXITED
        try:
            with waiting.outside(elsewhere=False):
                ended = self._listen(time.monotonic() + self.timeout_s)
        finally:
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                _close(pipe)
            with self._lock:
                self._kill()
                self.process.wait()
                self._reaped = True
        self._say(bytes(self._line))
        return ScriptRun(
            Ended.CANCELLED if self.cancelled else ended,
            self.process.returncode,
            bytes(self.stdout),
            self.tail.decode("utf-8", "replace"),
        )

    def _listen(self, deadline: float) -> Ended:
        process, unsent = self.process, memoryview(self.stdin)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            for pipe, event in (
                (process.stdin, selectors.EVENT_WRITE),
                (process.stdout, selectors.EVENT_READ),
                (process.stderr, selectors.EVENT_READ),
            ):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, event)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return Ended.TIMEOUT
                reading = {process.stdout, process.stderr} & {
                    key.fileobj for key in selector.get_map().values()
                }
                if not reading:
                    if self._exited():
                        return Ended.EXITED
                    time.sleep(min(left, 0.02))
                    continue
                # First whether it has ended, then what it wrote: the other way round its last words are lost.
                exited = self._exited()
                # Not for longer: a grandchild may hold the pipes open when the script itself has ended.
                ready = selector.select(0 if exited else min(left, 0.05))
                if exited and not ready:
                    return Ended.EXITED
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        unsent = self._feed(selector, unsent)
                    elif not self._hear(selector, key.fileobj):
                        return Ended.OUTPUT

    def _exited(self) -> bool:
        """Whether the script itself has ended; it is left unreaped, so that its group can still be killed."""
        if not hasattr(os, "waitid"):
            return self.process.poll() is not None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _feed(self, selector: selectors.BaseSelector, unsent: memoryview) -> memoryview:
        pipe = self.process.stdin
        assert pipe
        try:
            unsent = unsent[os.write(pipe.fileno(), unsent[:65536]) :]
        except BlockingIOError:
            return unsent
        except OSError:
            unsent = unsent[:0]  # it does not want to hear more
        if not unsent:
            selector.unregister(pipe)
            _close(pipe)
        return unsent

    def _hear(self, selector: selectors.BaseSelector, pipe: Any) -> bool:
        """Take what is there; False when it is more than there is room for."""
        try:
            data = os.read(pipe.fileno(), 65536)
        except BlockingIOError:
            return True
        if not data:
            selector.unregister(pipe)
        elif pipe is self.process.stdout:
            self.stdout += data
            return len(self.stdout) <= self.max_output_bytes
        else:
            self._stderr_bytes += len(data)
            self.tail = (self.tail + data)[-STDERR_TAIL_BYTES:]
            self._line += data
            *whole, rest = self._line.split(b"\n")
            self._line = bytearray(rest[-STDERR_LINE_CHARS:])
            for line in whole:
                self._say(bytes(line))
            return self._stderr_bytes <= STDERR_BYTES
        return True

    def _say(self, line: bytes) -> None:
        if line.strip() and self._lines < STDERR_LINES:
            self._lines += 1
            with waiting.inside():
                self.on_line(line.decode("utf-8", "replace")[:STDERR_LINE_CHARS])

    def _kill(self) -> None:
        """End the script and all it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.user is not None and self.user != NOBODY:
            _kill_user(self.user)


def _kill_user(user: int) -> None:
    """End what left its process group: the user id is this run's alone."""
    if not any(_owner(entry) == user for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        return
    for _ in range(20):  # a fork may slip between the look and the kill
        pids = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _owner(entry) == user
        ]
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _owner(entry: Path) -> int | None:
    try:
        return entry.stat().st_uid
    except OSError:
        return None


def _close(pipe: IO[bytes] | None) -> None:
    with suppress(OSError):
        if pipe:
            pipe.close()
