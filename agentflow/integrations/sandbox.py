"""Runs a registered script in a process of its own, where it can reach little and use little.

Two ways. `bwrap` (bubblewrap): no network, no files but the interpreter, a small /tmp, no other
process to be seen.  `process`: limits, an empty environment and, when the worker is root, a user id that
owns nothing; it cannot take the network away, so production does not accept it.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from ..conf import KB, MB

log = logging.getLogger(__name__)

MEMORY_BYTES = 512 * MB
FILE_BYTES = 16 * MB
OPEN_FILES = 64
PROCESSES = 16
STDERR_LINES = 200
STDERR_LINE_CHARS = 2000
STDERR_TAIL_BYTES = 4 * KB

# Runs inside, before the script: takes its own limits down for good, then becomes the script.  Not a
# preexec_fn, which can deadlock in a worker that has threads.
_LAUNCHER = """
import os, resource as r, sys
def limit(name, value):
    try:
        r.setrlimit(getattr(r, name), (value, value))
    except (AttributeError, OSError, ValueError):
        pass
cpu, memory, size, files, processes, source_fd = map(int, sys.argv[1:7])
limit("RLIMIT_CORE", 0)
limit("RLIMIT_CPU", cpu)
limit("RLIMIT_AS", memory)
limit("RLIMIT_FSIZE", size)
limit("RLIMIT_NOFILE", files)
if processes:
    limit("RLIMIT_NPROC", processes)
with os.fdopen(source_fd, "rb") as file:
    source = file.read()
sys.argv[:] = ["script"]
code = compile(source, "script", "exec")
del source, file, limit, cpu, memory, size, files, processes, source_fd
exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
"""


class Mode(StrEnum):
    BWRAP = "bwrap"
    PROCESS = "process"
    OFF = "off"  # scripts do not run at all


class SandboxMissing(Exception):
    """The sandbox that the settings demand does not work on this machine."""


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
        return self.stderr_tail.rstrip().rpartition("\n")[2].startswith("MemoryError")


def mode() -> Mode:
    """How scripts run here, by `AGENTFLOW_SANDBOX`.

    Raises:
        SandboxMissing: it says `bwrap`, and bubblewrap does not work here.
    """
    wanted = settings.AGENTFLOW_SANDBOX
    if wanted in {Mode.OFF, Mode.PROCESS}:
        return Mode(wanted)
    works = _bwrap_interpreter() is not None
    if wanted == Mode.BWRAP:
        if not works:
            raise SandboxMissing("AGENTFLOW_SANDBOX is bwrap, but bubblewrap cannot start a process here.")
        return Mode.BWRAP
    return Mode.BWRAP if works else Mode.PROCESS


@functools.cache
def _warn_once() -> None:
    log.warning(
        "Scripts run without bubblewrap: they have limits, but may use the network and read what is readable"
        " to all. Install bubblewrap, or set AGENTFLOW_SANDBOX=off."
    )


def run(
    source: str,
    *,
    stdin: bytes,
    timeout_s: float,
    max_output_bytes: int,
    environment: dict[str, str] | None = None,
    on_line: Callable[[str], Any] = lambda line: None,
    on_cancel: Callable[[Callable[[], None]], Any] | None = None,
) -> ScriptRun:
    """Run Python source to its end, at most `timeout_s` by the clock on the wall.

    `on_line` gets what it writes to stderr, line by line.

    Raises:
        SandboxMissing: see `mode`.
        OSError: no process can be started.
    """
    chosen = mode()
    if chosen is Mode.OFF:
        raise SandboxMissing("Scripts are switched off here (AGENTFLOW_SANDBOX=off).")
    if chosen is Mode.PROCESS:
        _warn_once()
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", **(environment or {})}
    with _home(chosen) as home, tempfile.TemporaryFile() as code:
        code.write(source.encode())
        code.seek(0)
        process = subprocess.Popen(
            _command(chosen, code.fileno(), timeout_s),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=home.path,
            pass_fds=(code.fileno(),),
            start_new_session=True,
            **home.identity,
        )
        conversation = _Conversation(process, home, stdin, timeout_s, max_output_bytes, on_line)
        if on_cancel:
            on_cancel(conversation.cancel)
        return conversation.hold()


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a run lives and who it is; `user` is None when the worker is not root."""

    path: str
    user: int | None

    @property
    def identity(self) -> dict[str, Any]:
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}


@contextmanager
def _home(chosen: Mode) -> Iterator[_Home]:
    user = _unused_user() if os.geteuid() == 0 else None
    if chosen is Mode.BWRAP:
        yield _Home("/", user)
        return
    path = tempfile.mkdtemp(prefix="agentflow-script-")
    try:
        if user is not None:
            os.chown(path, user, user)
        yield _Home(path, user)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _unused_user() -> int:
    """A user id of its own for each run, so that its process limit counts nobody else's processes."""
    try:
        spans = [
            tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()
        ]
    except OSError:
        return 65534
    for low, high in ((700_000_000, 716_000_000), (60_001, 64_999)):
        if any(first <= low and high < first + count for first, _, count in spans):
            return random.randint(low, high)
    return 65534


def _command(chosen: Mode, source_fd: int, timeout_s: float) -> list[str]:
    counts_alone = chosen is Mode.BWRAP or os.geteuid() == 0
    limits = [int(timeout_s) + 1, MEMORY_BYTES, FILE_BYTES, OPEN_FILES, PROCESSES if counts_alone else 0]
    arguments = ["-I", "-S", "-c", _LAUNCHER, *map(str, limits), str(source_fd)]
    if chosen is Mode.PROCESS:
        return [_process_interpreter(), *arguments]
    interpreter = _bwrap_interpreter()
    assert interpreter is not None
    return [*_bwrap(interpreter), interpreter, *arguments]


def _interpreters() -> list[str]:
    """This one, free of its venv, then the system's."""
    own = os.path.realpath(sys.executable)
    return [own, *(path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path))]


def _bwrap(interpreter: str) -> list[str]:
    binary = shutil.which("bwrap") or "bwrap"
    command = [binary, "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib64", "bin"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    prefix = Path(interpreter).parent.parent
    if not prefix.is_relative_to("/usr"):
        command += ["--ro-bind", str(prefix), str(prefix)]
    return [
        *command,
        *("--proc", "/proc", "--dev", "/dev", "--size", str(FILE_BYTES), "--tmpfs", "/tmp"),
        *(
            "--cap-drop",
            "ALL",
            "--uid",
            "65534",
            "--gid",
            "65534",
            "--hostname",
            "sandbox",
            "--chdir",
            "/tmp",
        ),
    ]


@functools.cache
def _bwrap_interpreter() -> str | None:
    """The Python that starts inside bubblewrap; None when bubblewrap is absent or forbidden."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return None
    return next((path for path in _interpreters() if _starts([*_bwrap(path), path])), None)


@functools.cache
def _process_interpreter() -> str:
    return next((path for path in _interpreters() if _starts([path])), sys.executable)


def _starts(command: list[str]) -> bool:
    identity = _Home("/", _unused_user() if os.geteuid() == 0 else None).identity
    try:
        done = subprocess.run(
            [*command, "-I", "-S", "-c", "print('up')"],
            capture_output=True,
            timeout=20,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            check=False,
            **identity,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(done.stdout == b"up\n")


@dataclass
class _Conversation:
    """Feeds one process and listens to it, until it ends, floods, or its time is up."""

    process: subprocess.Popen[bytes]
    home: _Home
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
            return self._stderr_bytes <= 16 * self.max_output_bytes
        return True

    def _say(self, line: bytes) -> None:
        if line.strip() and self._lines < STDERR_LINES:
            self._lines += 1
            self.on_line(line.decode("utf-8", "replace")[:STDERR_LINE_CHARS])

    def _kill(self) -> None:
        """End the script and all it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.home.user is not None and self.home.user != 65534:
            _kill_user(self.home.user)


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
