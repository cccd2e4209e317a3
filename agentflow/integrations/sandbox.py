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
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.conf import settings

from ..conf import LIMITS, MB
from .sandbox_process import NOBODY, Conversation, ScriptRun

log = logging.getLogger(__name__)

# Runs inside, before the script: takes its own limits down for good, then becomes the script.  Not a
# preexec_fn, which can deadlock in a worker that has threads.
_LAUNCHER = """
import os, resource as r, sys
def limit(name, value):
    try:
        r.setrlimit(getattr(r, name), (value, value))
    except (AttributeError, OSError, ValueError):
        pass
language, cpu, memory, size, files, processes, source_fd = sys.argv[1], *map(int, sys.argv[2:8])
limit("RLIMIT_CORE", 0)
limit("RLIMIT_CPU", cpu)
limit("RLIMIT_DATA" if language == "node" else "RLIMIT_AS", memory)
limit("RLIMIT_FSIZE", size)
limit("RLIMIT_NOFILE", files)
if processes:
    limit("RLIMIT_NPROC", processes)
if language != "python":
    os.execv(sys.argv[8], sys.argv[8:])
with os.fdopen(source_fd, "rb") as file:
    source = file.read()
sys.argv[:] = ["script"]
code = compile(source, "script", "exec")
del source, file, limit, language, cpu, memory, size, files, processes, source_fd
exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
"""

# Node.js insists on a file with a name of its own; the source has none, and needs none.
_NODE = (
    'const fs = require("fs"), source = fs.readFileSync(%d, "utf8"); fs.closeSync(%d);'
    'globalThis.require = require; require("vm").runInThisContext(source, {filename: "script"})'
)


class Language(StrEnum):
    PYTHON = "python"
    SHELL = "shell"  # POSIX: /bin/sh
    NODE = "node"  # Node.js, where it is installed


@dataclass(frozen=True, slots=True)
class Held:
    """What one run may use.  `cpu_s`: None takes the time by the clock on the wall."""

    cpu_s: float | None = None
    memory_bytes: int = 512 * MB
    file_bytes: int = 16 * MB  # of one file
    open_files: int = 64
    processes: int = 16  # with their threads
    output_bytes: int = LIMITS.blob_bytes
    network: bool = False


USUAL = Held()


class Mode(StrEnum):
    BWRAP = "bwrap"
    PROCESS = "process"
    OFF = "off"  # scripts do not run at all


class SandboxMissing(Exception):
    """The sandbox that the settings demand does not work on this machine."""


class InterpreterMissing(Exception):
    """Nothing on this machine runs scripts in this language."""


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
    language: Language = Language.PYTHON,
    held: Held = USUAL,
    environment: dict[str, str] | None = None,
    on_line: Callable[[str], Any] = lambda line: None,
    on_cancel: Callable[[Callable[[], None]], Any] | None = None,
) -> ScriptRun:
    """Run a source to its end, at most `timeout_s` by the clock on the wall.

    `on_line` gets what it writes to stderr, line by line.

    Raises:
        SandboxMissing, InterpreterMissing: see `mode` and `check`.
        OSError: no process can be started.
    """
    chosen = check(language)
    if chosen is Mode.PROCESS:
        _warn_once()
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", **(environment or {})}
    with _home(chosen) as home, tempfile.TemporaryFile() as code:
        code.write(source.encode())
        code.seek(0)
        os.fchmod(code.fileno(), 0o444)  # a shell opens it again, as its own user
        process = subprocess.Popen(
            _command(chosen, language, held, code.fileno(), timeout_s),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=home.path,
            pass_fds=(code.fileno(),),
            start_new_session=True,
            **home.identity,
        )
        conversation = Conversation(process, home.user, stdin, timeout_s, held.output_bytes, on_line)
        if on_cancel:
            on_cancel(conversation.cancel)
        return conversation.hold()


def check(language: Language) -> Mode:
    """How a script in this language runs here.

    Raises:
        SandboxMissing: scripts are off, or as `mode`.
        InterpreterMissing: its interpreter is not installed.
    """
    chosen = mode()
    if chosen is Mode.OFF:
        raise SandboxMissing("Scripts are switched off here (AGENTFLOW_SANDBOX=off).")
    if interpreter(language) is None:
        raise InterpreterMissing(f"No interpreter for {language.value} scripts is installed where this runs.")
    return chosen


def interpreter(language: Language) -> str | None:
    """The program that runs such scripts; None where it is not installed."""
    match language:
        case Language.PYTHON:
            return _process_interpreter()
        case Language.SHELL:
            return "/bin/sh" if os.path.exists("/bin/sh") else None
        case Language.NODE:
            found = shutil.which("node", path="/usr/bin:/usr/local/bin:/bin")
            return os.path.realpath(found) if found else None


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
        return NOBODY
    for low, high in ((700_000_000, 716_000_000), (60_001, 64_999)):
        if any(first <= low and high < first + count for first, _, count in spans):
            return random.randint(low, high)
    return NOBODY


def _command(chosen: Mode, language: Language, held: Held, source_fd: int, timeout_s: float) -> list[str]:
    counts_alone = chosen is Mode.BWRAP or os.geteuid() == 0
    limits = [
        int(held.cpu_s or timeout_s) + 1,
        held.memory_bytes,
        held.file_bytes,
        held.open_files,
        held.processes if counts_alone else 0,
        source_fd,
    ]
    arguments = ["-I", "-S", "-c", _LAUNCHER, language.value, *map(str, limits)]
    arguments += _becomes(language, held, source_fd)
    if chosen is Mode.PROCESS:
        return [_process_interpreter(), *arguments]
    python = _bwrap_interpreter()
    assert python is not None
    return [*_bwrap(python, held), python, *arguments]


def _becomes(language: Language, held: Held, source_fd: int) -> list[str]:
    """What the launcher turns into; nothing where it runs the source itself."""
    program = interpreter(language)
    if language is Language.PYTHON or program is None:
        return []
    if language is Language.SHELL:
        return [program, f"/dev/fd/{source_fd}"]
    heap = f"--max-old-space-size={max(held.memory_bytes * 3 // 4 // MB, 16)}"
    return [program, heap, "--v8-pool-size=2", "-e", _NODE % (source_fd, source_fd)]


def _interpreters() -> list[str]:
    """This one, free of its venv, then the system's."""
    own = os.path.realpath(sys.executable)
    return [own, *(path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path))]


# With a network: how names are resolved, and which certificates are believed.
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/pki")


def _bwrap(interpreter: str, held: Held = USUAL) -> list[str]:
    binary = shutil.which("bwrap") or "bwrap"
    command = [binary, "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
    if held.network:
        command.append("--share-net")
        command += [part for path in _NETWORK_FILES for part in ("--ro-bind-try", path, path)]
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
        *("--proc", "/proc", "--dev", "/dev"),
        *(
            part
            for path in ("/tmp", "/dev/shm")
            for part in ("--size", str(held.file_bytes), "--tmpfs", path)
        ),
        *("--remount-ro", "/dev", "--remount-ro", "/"),  # both are memory without an end
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
