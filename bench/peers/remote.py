"""A peer in its own process and environment, told by lines of JSON what to run."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..graphs import WORKLOADS
from ..measuring import TIMEOUT_S, Figures, System, perform

ROOT = Path(__file__).resolve().parents[2]


class PeerFailed(RuntimeError):
    """What a peer's process said, or that it is gone."""


class Peer:
    """This process's end.  The peer measures itself, for its engine runs in the same process."""

    def __init__(self, name: str, python: Path, database_url: str, folder: Path) -> None:
        from config.engines import launched

        self.log = folder / f"{name}.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                launched([python, "-m", f"bench.peers.on_{name}"], death_signal=signal.SIGKILL),
                cwd=ROOT,
                env={**os.environ, "BENCH_DATABASE": database_url},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, name: str) -> None:
        self._ask(do="prepare", name=name)

    def perform(self, name: str, run: str) -> Figures:
        return self._ask(do="perform", name=name, run=run)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, **command: str) -> Figures:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._last_words()) from None
        if not select.select([self._process.stdout], [], [], 1.5 * TIMEOUT_S)[0]:
            raise PeerFailed("no answer")
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(self._last_words())
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise PeerFailed(found["error"])
        return found

    def _last_words(self) -> str:
        return f"its process ended: {self.log.read_text(errors='replace')[-500:]}"


def serve(make: Callable[[str], System]) -> None:
    """The peer's end: a line for a line, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to the log
    system = make(os.environ["BENCH_DATABASE"])
    for line in sys.stdin:
        answers.write(json.dumps(_obey(system, json.loads(line))) + "\n")
    os._exit(0)  # without waiting for the threads of an engine that is no longer needed


def _obey(system: System, command: dict[str, str]) -> dict[str, Any]:
    name = command["name"]
    try:
        if command["do"] == "prepare":
            system.prepare(name, WORKLOADS[name].make())
            return {}
        return perform(system, name, command["run"])
    except Exception as error:  # noqa: BLE001  # a peer that cannot do it is a finding, too
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
