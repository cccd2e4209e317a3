"""Agents that fail are left alone for a while: one circuit each, shared by all workers (`circuit_script`).

A call that finds its circuit closed, or heard so within the last moment, costs no round trip; results
are told afterwards, by a thread of the process.  While Valkey is away every circuit counts as closed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias
from uuid import UUID

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..workflow.failures import FailureKind
from . import registry
from .calls import Failed, Outcome
from .circuit_script import SCRIPT
from .models import Agent
from .profile import CircuitRules, Measures

log = structlog.get_logger(__name__)

Verdict: TypeAlias = Literal["ok", "bad", "gone", "none"]
Key: TypeAlias = tuple[UUID, str]

CLOSED_KNOWN_S = 2.0  # so long a process believes that a circuit is closed
OPEN_KNOWN_S = 0.5  # and that it is not
AWAY_S = 3.0  # after Valkey did not answer it is not asked for so long
SOCKET_S = 0.5
SLOTS = 10  # of a window, as in the script
RESULTS_AT_ONCE = 500
KNOWN_MAX = 10_000

# Of failures that reached nobody: the next call will fare no better.
UNREACHABLE = frozenset({"connect_failed", "dns_failed"})
_COUNTS = frozenset({FailureKind.AGENT, FailureKind.TRANSIENT})


@dataclass(frozen=True, slots=True)
class CircuitState:
    """`retry_s` is the time until it is worth trying again, `down_s` that since it opened."""

    state: str = "closed"  # closed | open | half_open
    retry_s: float = 0.0
    down_s: float = 0.0
    why: str = ""  # unreachable | failures | slow | probe; empty: closed
    opens: int = 0  # in a row
    calls: int = 0  # these three: in the window
    failures: int = 0
    slow: int = 0

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    @property
    def lets_through(self) -> bool:
        """Half-open it lets one call through: behind that nobody else gets in."""
        return self.closed or (self.state == "half_open" and self.retry_s <= 0)


CLOSED = CircuitState()


@dataclass(frozen=True, slots=True)
class _Result:
    verdict: Verdict
    ms: float
    began: float  # monotonic
    rules: CircuitRules


class _Circuits:
    """What this process knows of circuits, and the results it has yet to tell."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Key, tuple[float, CircuitState]] = {}
        self._results: deque[tuple[Key, _Result]] = deque(maxlen=10_000)
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._away_until = 0.0
        self._complained = False

    # -- asked by those who call ------------------------------------------------

    def enter(self, key: Key, rules: CircuitRules) -> CircuitState | None:
        """None: the call may go (and is the probe of a half-open circuit).  Else what keeps it out."""
        known = self._recall(key)
        if known is not None and known.closed:
            return None
        if known is not None and known.state == "open":
            return known
        answers = self.ask("allow", [(key, rules)])
        if not answers:
            return None
        state, allowed = answers[0]
        self._learn(key, state)
        return None if allowed else state

    def doubtful(self, key: Key) -> bool:
        """Whether the circuit was last seen otherwise than closed."""
        found = self._known.get(key)
        return found is not None and not found[1].closed

    def add(self, key: Key, result: _Result) -> None:
        self._results.append((key, result))
        self._idle.clear()
        self._wake.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="circuits", daemon=True)
                    self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all results have been told, or given up."""
        return self._idle.wait(timeout_s)

    def forget(self, key: Key) -> None:
        self._known.pop(key, None)

    def _recall(self, key: Key) -> CircuitState | None:
        found = self._known.get(key)
        return found[1] if found is not None and found[0] > time.monotonic() else None

    def _learn(self, key: Key, state: CircuitState) -> None:
        lasts = CLOSED_KNOWN_S if state.closed else min(OPEN_KNOWN_S, state.retry_s)
        with self._lock:
            if len(self._known) > KNOWN_MAX:
                self._known.clear()
            self._known[key] = (time.monotonic() + lasts, state)

    # -- Valkey -----------------------------------------------------------------

    def ask(
        self,
        what: str,
        circuits: Sequence[tuple[Key, CircuitRules]],
        results: dict[Key, list[_Result]] | None = None,
    ) -> list[tuple[CircuitState, bool]]:
        """The state of each, and whether it lets a call through, in one round trip; empty: nobody knows."""
        if time.monotonic() < self._away_until or not circuits:
            return []
        try:
            pipeline = _client().pipeline(transaction=False)
            for key, rules in circuits:
                told = [] if results is None else _told(results[key])
                # By its text: a script that Valkey forgot would cost a round trip to find out.
                pipeline.eval(SCRIPT, 1, _name(key), what, "", *_rules(rules), *told)
            answers = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self._lost(error)
            return []
        self._complained = False
        return [_read(answer) for answer in answers]

    def peek(self, circuits: Sequence[tuple[Key, CircuitRules]]) -> list[CircuitState]:
        """The state of each, whatever their number in one round trip; empty: nobody knows."""
        if time.monotonic() < self._away_until or not circuits:
            return []
        try:
            pipeline = _client().pipeline(transaction=False)
            pipeline.time()
            pipeline.mget([_name(key) for key, _ in circuits])
            (seconds, micros), stored = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self._lost(error)
            return []
        self._complained = False
        now = seconds * 1000 + micros // 1000
        return [
            CLOSED if text is None else _seen(json.loads(text), rules, now)
            for text, (_, rules) in zip(stored, circuits, strict=True)
        ]

    def _lost(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_S
        if not self._complained:
            self._complained = True
            log.warning("circuits_unknown", error=repr(error))

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._results:
                try:
                    self._tell()
                except Exception:  # the thread must live: without it no circuit would ever open
                    log.exception("circuits_not_told")
            self._idle.set()
            if self._results:  # added between the last look and now
                self._idle.clear()
                self._wake.set()

    def _tell(self) -> None:
        taken: dict[Key, list[_Result]] = defaultdict(list)
        for _ in range(min(len(self._results), RESULTS_AT_ONCE)):
            key, result = self._results.popleft()
            taken[key].append(result)
        circuits = [(key, found[-1].rules) for key, found in taken.items()]
        for (key, _), (state, _) in zip(circuits, self.ask("record", circuits, taken), strict=False):
            self._learn(key, state)


circuits = _Circuits()


# -- what others use --------------------------------------------------------------


def states(workspace_id: UUID, agent_ids: Iterable[str]) -> dict[str, CircuitState]:
    """The circuits of agents, in one round trip at most; closed where nobody knows."""
    wanted = list(agent_ids)
    found: dict[str, CircuitState] = {}
    ask: list[tuple[Key, CircuitRules]] = []
    specs = {spec.agent_id: spec for spec in registry.candidates(workspace_id)}
    for agent_id in wanted:
        key = (workspace_id, agent_id)
        known = circuits._recall(key)
        if known is not None:
            found[agent_id] = known
        elif agent_id in specs and specs[agent_id].measures.circuit.enabled:
            ask.append((key, specs[agent_id].measures.circuit))
    for (key, _), state in zip(ask, circuits.peek(ask), strict=False):
        circuits._learn(key, state)
        found[key[1]] = state
    return {agent_id: found.get(agent_id, CLOSED) for agent_id in wanted}


def state_of(agent: Agent) -> CircuitState:
    """One circuit, as it is at this moment."""
    rules = Measures.model_validate(agent.measures).circuit
    found = circuits.peek([((agent.workspace_id, agent.agent_id), rules)]) if rules.enabled else []
    return found[0] if found else CLOSED


def allow(workspace_id: UUID, agent_id: str) -> bool:
    """Whether the agent may be called now; of a half-open circuit this takes the one call it lets through."""
    return enter(workspace_id, agent_id, _rules_of(workspace_id, agent_id)) is None


def enter(workspace_id: UUID, agent_id: str, rules: CircuitRules) -> CircuitState | None:
    """None: the call may go.  Else the state that keeps it out."""
    return circuits.enter((workspace_id, agent_id), rules) if rules.enabled else None


def record(workspace_id: UUID, agent_id: str, ok: bool, ms: float, *, unreachable: bool = False) -> None:
    """How a call that ends now went.  Told in the background."""
    verdict: Verdict = "ok" if ok else "gone" if unreachable else "bad"
    _record((workspace_id, agent_id), _rules_of(workspace_id, agent_id), verdict, ms)


def note(
    workspace_id: UUID, agent_id: str, rules: CircuitRules, outcome: Outcome, *, ms: float, cancelled: bool
) -> None:
    """How a call that ends now went; one that its caller stopped, or called wrongly, says nothing."""
    if not rules.enabled:
        return
    verdict = _verdict(outcome, cancelled=cancelled)
    if verdict != "none" or circuits.doubtful((workspace_id, agent_id)):
        _record((workspace_id, agent_id), rules, verdict, ms)


def reset(workspace_id: UUID, agent_id: str) -> bool:
    """Close a circuit; what began before does not count any more.  False: Valkey does not answer."""
    key = (workspace_id, agent_id)
    circuits.forget(key)
    return bool(circuits.ask("reset", [(key, _rules_of(workspace_id, agent_id))]))


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until this process has told all results."""
    return circuits.flush(timeout_s)


def _verdict(outcome: Outcome, *, cancelled: bool) -> Verdict:
    if not isinstance(outcome, Failed):
        return "ok"
    failure = outcome.failure
    if cancelled or failure.code == "cancelled" or failure.kind not in _COUNTS:
        return "none"
    return "gone" if failure.code in UNREACHABLE else "bad"


def _record(key: Key, rules: CircuitRules, verdict: Verdict, ms: float) -> None:
    circuits.add(key, _Result(verdict, ms, time.monotonic() - ms / 1000, rules))


def _rules_of(workspace_id: UUID, agent_id: str) -> CircuitRules:
    spec = registry.resolve(workspace_id, agent_id)
    return spec.measures.circuit if spec is not None else CircuitRules()


@cache
def _client() -> redis.Redis:
    # A call waits for this, if briefly: no second try, and no patience.
    return redis.Redis.from_url(
        str(settings.CACHES["default"]["LOCATION"]),
        socket_connect_timeout=SOCKET_S,
        socket_timeout=SOCKET_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def _name(key: Key) -> str:
    return f"{settings.CACHES['default']['KEY_PREFIX']}:circuit:{key[0]}:{key[1]}"


def _rules(rules: CircuitRules) -> list[Any]:
    return [
        rules.window_seconds * 1000,
        rules.minimum_calls,
        rules.failure_rate,
        -1 if rules.slow_ms is None else rules.slow_ms,
        rules.slow_rate,
        rules.cooldown_seconds * 1000,
        rules.cooldown_growth,
        max(rules.cooldown_max_seconds, rules.cooldown_seconds) * 1000,
        rules.unreachable_calls,
        rules.probe_seconds * 1000,
    ]


def _told(results: Iterable[_Result]) -> list[Any]:
    now = time.monotonic()
    return [
        part
        for result in results
        # Valkey's clock is read in whole ms: a call must not seem to have begun before its own probe.
        for part in (result.verdict, round(result.ms, 3), max(int((now - result.began) * 1000) - 1, 0))
    ]


def _seen(stored: dict[str, Any], rules: CircuitRules, now: int) -> CircuitState:
    """The state in what the script keeps."""
    oldest = now * SLOTS // (rules.window_seconds * 1000) - SLOTS
    counts = [each for slot, each in dict(stored["b"] or {}).items() if int(slot) > oldest]
    calls, failures, slow = (int(sum(each[at] for each in counts)) for at in range(3))
    if not stored["open"]:
        return CircuitState(opens=int(stored["opens"]), calls=calls, failures=failures, slow=slow)
    cooling = now < stored["till"]
    wait_ms = stored["till"] - now if cooling else max(stored["held"] - now, 0)
    return CircuitState(
        "open" if cooling else "half_open",
        retry_s=wait_ms / 1000,
        down_s=(now - stored["down"]) / 1000,
        why=stored["why"],
        opens=int(stored["opens"]),
    )


def _read(answer: list[Any]) -> tuple[CircuitState, bool]:
    state, allowed, wait_ms, down_ms, why, opens, calls, failures, slow = answer
    found = CircuitState(
        state, int(wait_ms) / 1000, int(down_ms) / 1000, why, int(opens), int(calls), int(failures), int(slow)
    )
    return found, bool(allowed)
