"""`make run`: the whole product on one machine, by one command, stopped by one Ctrl-C.

Starts in order: PostgreSQL and Valkey (unless AGENTFLOW_DATABASE_URL and AGENTFLOW_REDIS_URL name
others), migrations, the demo once; then web, workers and clock, each started again if it dies.
Stops in the reverse order within 15 s.  Django is imported by the children only.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import NoReturn

from config.children import Child, stop_orphans
from config.engines import AlreadyRunning, EngineError, Engines

ROOT = Path(__file__).resolve().parent.parent
WORKER_THREADS = 8
READY_WITHIN_S = 90.0
TICK_S = 0.1
ENGINE_STOP_S = 2.0
DATABASE_POOL = {"AGENTFLOW_DATABASE_POOL": "40"}  # of the web server; config.engines has the budget


class CannotStart(Exception):
    """What is wrong and what to do, for the terminal."""


class Stop(BaseException):
    """Somebody asked us to stop."""


@dataclass(frozen=True)
class Options:
    home: Path
    host: str
    port: int
    workers: int

    @classmethod
    def from_environment(cls) -> Options:
        return cls(
            home=(ROOT / os.environ.get("AGENTFLOW_HOME", ".agentflow")).absolute(),
            host=os.environ.get("HOST") or "127.0.0.1",
            port=_number("PORT", 8000, 1, 65535),
            workers=_number("WORKERS", min(os.cpu_count() or 1, 4), 0, 64),
        )

    @property
    def base_url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def _number(name: str, default: int, low: int, high: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise CannotStart(f"{name} must be a whole number from {low} to {high}, not {text!r}.")
    return int(text)


def given(name: str) -> bool:
    """Whether the shell sets a variable, by itself or by the name of a file (`config.env.text`)."""
    return name in os.environ or f"{name}_FILE" in os.environ


def embedded() -> dict[str, bool]:
    """Which engines are ours: those whose address the shell does not name."""
    return {"postgres": not given("AGENTFLOW_DATABASE_URL"), "valkey": not given("AGENTFLOW_REDIS_URL")}


def tell(text: str = "") -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone must not disturb the order of stopping
        print(text, flush=True)


def say(name: str, text: str) -> None:
    tell(f"  {name:<10} {text}")


class Supervisor:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.engines = Engines(options.home)
        self.environment: dict[str, str] = {}
        self.children: list[Child] = []
        self._stopping = False
        self._forced = False
        self._announced = False
        self._engine_failures: dict[str, int] = {}

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)
        try:
            self._prepare()
            self._start_engines()
            self._migrate()
            self._load_demo()
            self._start_children()
            self._watch()
        except Stop:
            return 0
        finally:
            # From here on a second Ctrl-C forces, and nothing interrupts the order.
            self._stopping = True
            self._stop()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            self._forced = True
            return
        self._stopping = True
        raise Stop

    # Start

    def _prepare(self) -> None:
        home = self.options.home
        try:
            self.engines.lock()
        except AlreadyRunning as running:
            raise CannotStart(
                f"agentflow already runs on {home} (process {running.pid or 'unknown'}). Use that one, stop "
                f"it with Ctrl-C, or start another beside it: "
                f"AGENTFLOW_HOME=.agentflow-2 PORT={self.options.port + 1} make run"
            ) from None
        except OSError as error:
            raise CannotStart(
                f"cannot write {home}: {error.strerror}. Set AGENTFLOW_HOME to a folder of yours."
            ) from error
        for folder in ("logs", "pids"):
            (home / folder).mkdir(mode=0o700, exist_ok=True)
        stop_orphans(home)
        self._check_port()
        tell(f"agentflow is starting; its data and logs are in {_short(home)}")

    def _check_port(self) -> None:
        host, port = self.options.host, self.options.port
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except PermissionError:
            raise CannotStart(
                f"port {port} needs privileges this user lacks. Use a port from 1024 up: PORT=8000 make run"
            ) from None
        except socket.gaierror:
            raise CannotStart(f"HOST={host} is not an address of this machine. Try HOST=127.0.0.1") from None
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host}:{port}: {error.strerror}. Another program may use it: stop that, "
                f"or choose another port: PORT={port + 1 if port < 65535 else 8001} make run"
            ) from None

    def _start_engines(self) -> None:
        own = embedded()
        self.engines.start(**own)
        self.environment = local_environment(self.options, self.engines)
        self.environment.setdefault("AGENTFLOW_DEMO_PORT", str(self._demo_port()))
        say("postgres", "ready" if own["postgres"] else "external, as AGENTFLOW_DATABASE_URL says")
        say("valkey", "ready" if own["valkey"] else "external, as AGENTFLOW_REDIS_URL says")

    def _demo_port(self) -> int:
        """The same at every start if it is still free, for the demo's templates name it."""
        path = self.options.home / "demo_port"
        kept = path.read_text().strip() if path.exists() else "0"
        for wanted in (int(kept) if kept.isdecimal() else 0, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", wanted))
                except OSError:
                    continue
                port = int(probe.getsockname()[1])
            path.write_text(f"{port}\n")
            return port
        raise CannotStart("no free port is left on 127.0.0.1")

    def _migrate(self) -> None:
        self._manage("migrate", "--no-input", failed="the database could not be brought up to date")
        say("database", "up to date")

    def _load_demo(self) -> None:
        if not has_command("load_demo"):
            return
        self._manage("load_demo", failed="the demo could not be loaded")
        demo = self.options.home / "demo.json"
        if demo.exists():
            facts = json.loads(demo.read_text())
            if facts.get("baseUrl") != self.options.base_url:  # another PORT than at the first run
                write_private(demo, json.dumps({**facts, "baseUrl": self.options.base_url}, indent=2) + "\n")
        say("demo", "loaded")

    def _manage(self, *arguments: str, failed: str) -> None:
        log = self.options.home / "logs" / "setup.log"
        with log.open("ab") as out:
            before = out.tell()
            ended = subprocess.run(
                [sys.executable, "manage.py", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=False,
            )
        if ended.returncode != 0:
            lines = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()[-8:]
            raise CannotStart("\n  ".join([f"{failed} (`manage.py {' '.join(arguments)}`):", *lines]))

    def _start_children(self) -> None:
        options, python = self.options, sys.executable
        if has_command("demo_service"):
            self._add("demo", [python, "manage.py", "demo_service"], says="ready")
        web = [
            *(python, "-m", "uvicorn", "--host", options.host, "--port", str(options.port)),
            *("--lifespan", "off", "--ws-max-size", "65536", "--timeout-graceful-shutdown", "2"),
            "config.asgi:application",
        ]
        self._add("web", web, DATABASE_POOL, answers=self._web_ready, detail=options.base_url)
        for number in range(1, options.workers + 1):
            name = f"worker-{number}"
            worker = [
                *(
                    python,
                    "-m",
                    "celery",
                    "-A",
                    "config",
                    "worker",
                    "-P",
                    "threads",
                    "-c",
                    str(WORKER_THREADS),
                ),
                *("-Q", "blocks,control", "--loglevel", "INFO"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
                *("-n", f"{name}-{os.getpid()}@%h"),
            ]
            self._add(name, worker, says=" ready.", stop_within_s=5.0)
        self._add("clock", [python, "manage.py", "clock"], says="ready", stop_within_s=2.0)
        for child in self.children:
            child.start()

    def _add(
        self, name: str, command: list[str], more: Mapping[str, str] = MappingProxyType({}), **how: object
    ) -> None:
        home, environment = self.options.home, {**more, **self.environment}
        self.children.append(Child(name, command, environment, ROOT, home, **how))  # type: ignore[arg-type]

    def _web_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.options.base_url}/ready", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    # Watch

    def _watch(self) -> NoReturn:
        began = time.monotonic()
        while True:
            for child in self.children:
                self._look_after(child)
            for engine in self.engines.dead():
                self._revive(engine)
            if not self._announced and all(child.ready for child in self.children):
                self._announce()
            if not self._announced and time.monotonic() - began > READY_WITHIN_S:
                self._announce()
                late = ", ".join(child.name for child in self.children if not child.ready)
                tell(f"  Not ready yet: {late}. See the logs.")
            time.sleep(TICK_S)

    def _look_after(self, child: Child) -> None:
        if child.became_ready():
            say(child.name, f"ready  {child.detail}".rstrip())
        elif child.process is None:
            if time.monotonic() >= child.start_at:
                child.start()
        elif not child.alive():
            say(child.name, child.ended())
            if child.failures in (1, 4):  # often enough to see why, not to fill the screen
                for line in child.last_words:
                    tell(f"             | {line}")

    def _revive(self, engine: str) -> None:
        """Bring an engine back at once; after five failures in a row there is nothing left to stand on."""
        say(engine, "ended; starts again")
        try:
            self.engines.restart(engine)
        except EngineError:
            self._engine_failures[engine] = self._engine_failures.get(engine, 0) + 1
            if self._engine_failures[engine] >= 5:
                raise
            return
        self._engine_failures[engine] = 0
        say(engine, "ready")

    def _announce(self) -> None:
        self._announced = True
        base = self.options.base_url
        tell(f"\n  Inbox      {base}/inbox/\n  Executions {base}/executions/\n  Admin      {base}/admin/")
        tell(f"  API        {base}/api/v1/\n  Logs       {_short(self.options.home / 'logs')}/")
        demo = self.options.home / "demo.json"
        if demo.exists():
            users = json.loads(demo.read_text())["users"]
            tell(f"\n  Demo users (kept in {_short(demo)})")
            for role, user in users.items():
                tell(f"    {role:<10} {user['username']:<12} {user['password']}")
        tell("\n  Ctrl-C stops it all.")

    # Stop

    def _stop(self) -> None:
        """Web first, so that nothing new comes in; the engines last, for all others need them."""
        if self.children:
            tell("\nStopping; Ctrl-C again forces.")
        groups: dict[str, list[Child]] = {}
        for child in self.children:
            groups.setdefault(child.name.partition("-")[0], []).append(child)
        for name in ("web", "worker", "demo", "clock"):
            self._stop_group(groups.get(name, []))
        self.engines.stop(0.5 if self._forced else ENGINE_STOP_S)
        if self.children:
            tell("Stopped.")

    def _stop_group(self, group: list[Child]) -> None:
        for child in group:
            child.ask_to_stop()
        deadline = time.monotonic() + max((child.stop_within_s for child in group), default=0)
        while any(child.alive() for child in group) and time.monotonic() < deadline and not self._forced:
            time.sleep(0.05)
        # A worker cut short here loses nothing: its blocks' leases run out, and they run again.
        for child in group:
            child.kill()


def local_environment(options: Options, engines: Engines) -> dict[str, str]:
    """What a child needs to know; what the shell has set wins."""
    local = {
        **engines.environment(),
        "DJANGO_SETTINGS_MODULE": "config.settings.local",
        "AGENTFLOW_BASE_URL": options.base_url,
        "AGENTFLOW_ALLOWED_HOSTS": ",".join(
            dict.fromkeys(["127.0.0.1", "localhost", "[::1]", options.host, socket.gethostname()])
        ),
        "PYTHONUNBUFFERED": "1",
    }
    if not given("AGENTFLOW_SECRET_KEY"):
        local["AGENTFLOW_SECRET_KEY_FILE"] = str(secret_key(options.home))
    return {**local, **os.environ, "AGENTFLOW_HOME": str(options.home)}


def secret_key(home: Path) -> Path:
    """Made once and kept: sessions and stored secrets outlive a restart."""
    path = home / "secret_key"
    if not path.exists():
        write_private(path, secrets.token_urlsafe(50) + "\n")
    return path


def manage(options: Options, arguments: list[str]) -> NoReturn:
    """Become `manage.py ARGUMENTS` on the engines of the running `make run`."""
    engines = Engines.attach(options.home, **embedded())
    if engines is None:
        raise CannotStart(f"nothing runs on {options.home}: `make run` first, in another terminal.")
    os.chdir(ROOT)
    command = [sys.executable, "manage.py", *arguments]
    os.execve(command[0], command, local_environment(options, engines))


def has_command(name: str) -> bool:
    """Whether an app brings the management command, told without importing Django."""
    file = f"management/commands/{name}.py"
    return any(next(ROOT.glob(f"{depth}{file}"), None) for depth in ("*/", "agentflow/*/"))


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner may read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.replace(path)


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main() -> int:
    try:
        options = Options.from_environment()
        if sys.argv[1:]:
            manage(options, sys.argv[1:])
        return Supervisor(options).run()
    except (CannotStart, EngineError) as problem:
        print(f"agentflow cannot start: {problem}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
