"""What is done to the rig, and when: every kind of fault, from a seeded schedule."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

from config.engines import wait_until

from .rig import Machine, Rig

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
PARTS = ("web", "worker-1", "clock")


@dataclass
class Fault:
    """One fault that happened; times are seconds of the wall clock."""

    kind: str
    at: float
    over: float = 0.0  # from then on the rig was left alone again
    what: str = ""


End = Callable[[], None]


@dataclass
class Faults:
    """Begins faults, and ends those that last.  All calls come from the rig's thread."""

    rig: Rig
    chance: random.Random
    done: list[Fault] = field(default_factory=list)
    _ends: list[tuple[float, int, End]] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)  # machines with a process that is stopped or lies
    _valkey_stopped: bool = False

    def kinds(self) -> list[str]:
        return [name for name in KINDS if name != "worker's clock is wrong" or FAKETIME is not None]

    def begin(self, kind: str) -> Fault:
        fault = Fault(kind, time.time())
        self.done.append(fault)
        KINDS[kind](self, fault)
        if not fault.over:
            fault.over = time.time()
        return fault

    def tick(self) -> None:
        """End what has lasted long enough."""
        while self._ends and self._ends[0][0] <= time.monotonic():
            heapq.heappop(self._ends)[2]()

    def lasting(self) -> bool:
        return bool(self._ends)

    def mend(self) -> None:
        """What a supervisor does for a machine, the rig does for supervisors and engines."""
        for machine in self.rig.machines:
            if machine.process is not None and machine.process.poll() is not None:
                self.rig.start_machine(machine)
        for engine in self.rig.engines.dead():
            self.rig.engines.restart(engine)

    def _for(self, seconds: float, fault: Fault, end: End) -> None:
        fault.over = fault.at + seconds

        def over() -> None:
            end()
            fault.over = time.time()

        heapq.heappush(self._ends, (time.monotonic() + seconds, len(self.done), over))

    def _signal(self, fault: Fault, part: str, number: int) -> tuple[Machine, int] | None:
        """Send a signal to a part of a machine that is not in trouble already."""
        machines = [machine for machine in self.rig.machines if machine.name not in self._busy]
        self.chance.shuffle(machines)
        for machine in machines:
            pid = machine.pid(part)
            if pid is not None:
                fault.what = f"{part} of machine {machine.name}"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    return machine, pid
        fault.what = f"no {part} was there"
        return None

    # -- processes ------------------------------------------------------------

    def kill_worker(self, fault: Fault) -> None:
        self._signal(fault, "worker-1", signal.SIGKILL)

    def kill_clock(self, fault: Fault) -> None:
        self._signal(fault, "clock", signal.SIGKILL)

    def kill_web(self, fault: Fault) -> None:
        self._signal(fault, "web", signal.SIGKILL)

    def end_worker(self, fault: Fault) -> None:
        self._signal(fault, "worker-1", signal.SIGTERM)

    def kill_machine(self, fault: Fault) -> None:
        """All processes of a machine end with their supervisor; it comes back a moment later."""
        machine = self.chance.choice(
            [m for m in self.rig.machines if m.name not in self._busy] or self.rig.machines
        )
        fault.what = f"machine {machine.name}"
        assert machine.process is not None
        machine.process.kill()
        machine.process.wait()
        wait_until(lambda: not any(machine.pid(part) for part in PARTS), 5)

    def stop_worker(self, fault: Fault) -> None:
        """Longer than its lease, then it wakes with results that others have brought."""
        found = self._signal(fault, "worker-1", signal.SIGSTOP)
        if found is None:
            return
        machine, pid = found
        self._busy.add(machine.name)

        def wake() -> None:
            self._busy.discard(machine.name)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        self._for(45, fault, wake)

    def wrong_clock(self, fault: Fault) -> None:
        """The worker is killed, and the one that follows lives ten minutes ahead or behind."""
        minutes = self.chance.choice([-10, 10])
        machine = self.chance.choice(
            [m for m in self.rig.machines if m.name not in self._busy] or self.rig.machines
        )
        path = machine.home / "worker-1.env"
        path.write_text(
            json.dumps({"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{minutes:+d}m", "DONT_FAKE_MONOTONIC": "1",
                        "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
        )  # fmt: skip
        fault.what = f"worker of machine {machine.name}, {minutes:+d} min"
        self._kill(machine, "worker-1")

        def right() -> None:
            path.unlink(missing_ok=True)
            self._kill(machine, "worker-1")

        self._for(40, fault, right)

    def _kill(self, machine: Machine, part: str) -> None:
        if pid := machine.pid(part):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- Valkey ---------------------------------------------------------------

    def restart_valkey(self, fault: Fault) -> None:
        os.kill(self.rig.engines.pid("valkey"), signal.SIGKILL)
        self._await_end("valkey")
        self.rig.engines.restart("valkey")

    def empty_valkey(self, fault: Fault) -> None:
        os.kill(self.rig.engines.pid("valkey"), signal.SIGKILL)
        self._await_end("valkey")
        shutil.rmtree(self.rig.engines.valkey_dir, ignore_errors=True)
        self.rig.engines.restart("valkey")

    def flush_valkey(self, fault: Fault) -> None:
        while self._valkey_stopped:  # nobody else would let it go on
            self.tick()
            time.sleep(0.1)
        redis.Redis(unix_socket_path=str(self.rig.engines.valkey_socket)).flushall()

    def pause_valkey(self, fault: Fault) -> None:
        pid = self.rig.engines.pid("valkey")
        os.kill(pid, signal.SIGSTOP)
        self._valkey_stopped = True

        def go_on() -> None:
            self._valkey_stopped = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        self._for(20, fault, go_on)

    # -- PostgreSQL -----------------------------------------------------------

    def restart_postgres(self, fault: Fault) -> None:
        """An immediate shutdown: no word to anybody, its log is replayed at the start."""
        os.kill(self.rig.engines.pid("postgres"), signal.SIGQUIT)
        self._await_end("postgres")
        self.rig.engines.restart("postgres")

    def cut_backends(self, fault: Fault) -> None:
        with psycopg.connect(self.rig.engines.database_url(), autocommit=True) as connection:
            found = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            fault.what = f"{found[0] if found else 0} connections"

    def _await_end(self, engine: str) -> None:
        wait_until(lambda: engine in self.rig.engines.dead(), 10)

    # -- the wire -------------------------------------------------------------

    def slow_wire(self, fault: Fault) -> None:
        self.rig.wire(delay=(0.1, 0.5))
        self._for(12, fault, self._let_go)

    def _let_go(self) -> None:
        self.rig.wire()

    def broken_wire(self, fault: Fault) -> None:
        self.rig.wire(reset=0.01)
        self._for(12, fault, self._let_go)


KINDS: dict[str, Callable[[Faults, Fault], None]] = {
    "worker stopped for 45 s": Faults.stop_worker,
    "kill -9 worker": Faults.kill_worker,
    "kill -9 clock": Faults.kill_clock,
    "kill -9 web": Faults.kill_web,
    "kill -9 supervisor": Faults.kill_machine,
    "SIGTERM worker": Faults.end_worker,
    "Valkey restart": Faults.restart_valkey,
    "Valkey restart, empty": Faults.empty_valkey,
    "FLUSHALL": Faults.flush_valkey,
    "Valkey stopped for 20 s": Faults.pause_valkey,
    "PostgreSQL restart": Faults.restart_postgres,
    "connections terminated": Faults.cut_backends,
    "network slow": Faults.slow_wire,
    "network resets": Faults.broken_wire,
    "worker's clock is wrong": Faults.wrong_clock,
}


def schedule(
    kinds: list[str], *, first_s: float, last_s: float, count: int, chance: random.Random
) -> Iterator[tuple[float, str]]:
    """When which fault begins: each kind equally often, in random order, at uneven gaps."""
    order: list[str] = []
    while len(order) < count:
        order += chance.sample(kinds, len(kinds))
    order = order[:count]
    if "worker stopped for 45 s" in order and count == len(kinds):  # lasts longest: begin with it
        order.remove("worker stopped for 45 s")
        order.insert(0, "worker stopped for 45 s")
    gap = (last_s - first_s) / max(count - 1, 1)
    for number, kind in enumerate(order):
        yield first_s + gap * number + chance.uniform(-0.3, 0.3) * gap * (number > 0), kind
