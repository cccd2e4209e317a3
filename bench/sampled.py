"""`python -m bench.sampled -A config worker ...`: a Celery worker that tells where its walkers' time goes.

SIGUSR2 makes it read the file BENCH_SAMPLES/mode: `plain` begins to count the processor time of walkers,
`profile` runs them under cProfile as well, `off` writes what was found to BENCH_SAMPLES/NAME.json.
"""

from __future__ import annotations

import cProfile
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from uuid import UUID

from celery.signals import worker_ready

# Where a file's path holds this, its time is that layer's; what is in none of them is its caller's.
LAYERS = (
    ("bench/blocks", "the block itself"),
    ("/psycopg", "psycopg"),
    ("/django/", "Django"),
    ("executions/engine/", "engine: "),  # and the module's name
    ("executions/dispatch", "hints"),
    ("executions/", "executions"),
    ("agentflow/agents/", "agents"),
    ("agentflow/events/", "events"),
    ("agentflow/", "agentflow, other"),
    ("/kombu/", "Celery"),
    ("/celery/", "Celery"),
)
OTHER = "Python"


def layer_of(code: CodeType | str) -> str | None:
    """None: builtins and the standard library, which work for whoever called them."""
    path = code if isinstance(code, str) else code.co_filename
    for part, layer in LAYERS:
        if part in path:
            return layer + Path(path).stem if layer.endswith(": ") else layer
    return None


class Meter:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._mode = "off"
        self._walks_ms = 0.0
        self._layers: Counter[str] = Counter()
        # One at a time: from Python 3.12 on a process has room for one profiler.
        self._profiling = threading.Lock()

    def wrap(self, walk: Any) -> Any:
        def metered(execution_id: UUID) -> None:
            began = time.thread_time()
            if self._mode == "profile" and self._profiling.acquire(blocking=False):
                try:
                    self._profiled(walk, execution_id)
                finally:
                    self._profiling.release()
            else:
                walk(execution_id)
            self._walks_ms += (time.thread_time() - began) * 1000

        return metered

    def _profiled(self, walk: Any, execution_id: UUID) -> None:
        profile = cProfile.Profile(time.thread_time)
        profile.runcall(walk, execution_id)
        for entry in profile.getstats():
            layer = layer_of(entry.code)
            if layer:
                self._layers[layer] += entry.inlinetime * 1000  # type: ignore[assignment]
            for called in entry.calls or ():
                if layer_of(called.code) is None:
                    self._layers[layer or OTHER] += called.inlinetime * 1000  # type: ignore[assignment]

    def obey(self, number: int, frame: FrameType | None) -> None:
        mode = (self._folder / "mode").read_text()
        if mode == "off":
            found = {"walks_ms": self._walks_ms, "layers": self._layers}
            fresh = self._folder / f"{self._name}.new"
            fresh.write_text(json.dumps(found))
            fresh.rename(self._folder / f"{self._name}.json")
        self._walks_ms, self._layers = 0.0, Counter()
        self._mode = mode
        (self._folder / f"{self._name}.{mode}").touch()


@worker_ready.connect
def _begin(**kwargs: Any) -> None:
    from executions.engine import walker

    meter = Meter(Path(os.environ["BENCH_SAMPLES"]), os.environ["PGAPPNAME"])
    walker.walk = meter.wrap(walker.walk)
    signal.signal(signal.SIGUSR2, meter.obey)


if __name__ == "__main__":
    from celery.__main__ import main

    main()
