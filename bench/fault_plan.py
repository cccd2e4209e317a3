"""What `make bench-recovery` does, and how it judges it: workflows, faults, and a checker.  Pure.

Six shapes.  Their steps call an agent whose effect is `keyed`; in one shape a step pays, which is `once`.
About 30 % of the steps are hit: by the workspace's faults, by an agent that is killed and comes again, and
by workers that are killed while the agent holds their calls.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

AGENT, SPARE = "doer", "spare"
SLOW_MS, TIMEOUT_MS = 9000, 8000  # slower than a step's time: the call fails
KILL_SHARE = 0.05  # of the steps whose worker is killed
PAYS = "pay"

# In this order; each share is of what the rules before it let pass.
RULES: tuple[dict[str, Any], ...] = (
    {"kind": "transient", "code": "http_503", "share": 0.06, "attempts": 2},
    {"kind": "diesAfter", "share": 0.06, "attempts": 1},
    {"kind": "slow", "ms": SLOW_MS, "share": 0.05, "attempts": 1},
    {"kind": "wrongOutput", "output": {"wrong": True}, "share": 0.06, "attempts": 1},
    {"kind": "configuration", "code": "http_404", "share": 0.05, "attempts": 1},
)
_POLICY = {"maxRetries": 3, "initialDelay": 200, "maxDelay": 2000, "retryConditions": ["transient", "agent"]}
_LADDERS = {
    "transient": ["retry", "reassign", "queue", "ask"],
    "agent": ["retry", "reassign", "ask"],
    "configuration": ["ask"],
}
_NOTHING = {"maxRetries": 0, "onExhausted": "fail"}


def chance(seed: str, *, operation: str) -> float:
    """Between 0 and 1, and below 1: the same for the same operation."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{operation}".encode(), digest_size=8).digest()) / 2**64


# -- workflows -----------------------------------------------------------------


def workflows(*, recovers: bool) -> dict[str, dict[str, Any]]:
    """By name; `sub` is what `calls` calls, and is stored before it."""
    made = _Maker(recovers)
    return {
        "chain": made.template(
            "chain", [made.step(f"s{n}", *([f"s{n - 1}"] if n else [])) for n in range(5)]
        ),
        "diamond": made.template(
            "diamond",
            [made.step("a"), made.step("b", "a"), made.step("c", "a"), made.step("d", "b", "c")],
        ),
        "fan": made.template(
            "fan",
            [made.step("a"), *(made.step(f"w{n}", "a") for n in range(5)), made.step("z", *_ws(5))],
        ),
        "items": made.template(
            "items",
            [
                made.step("a"),
                {**made.step("each", "a"), "forEach": {"items": "[1, 2, 3, 4]"}},
                made.step("z", "each"),
            ],
        ),
        "choice": made.template(
            "choice",
            [
                {**made.step("a"), "conditions": _CHOICE},
                made.step("left", "a"),
                made.step("right", "a"),
                made.step("z", "left", "right"),
            ],
        ),
        "paying": made.template(
            "paying",
            [
                made.step("a"),
                {**made.step(PAYS, "a", effect="once"), "onUnknownOutcome": "ask" if recovers else "fail"},
                made.step("z", PAYS),
            ],
        ),
    }


_CHOICE = {
    "type": "if",
    "branches": [
        {"condition": "blocks.a.output.n % 2 == 0", "nextBlocks": ["left"]},
        {"condition": "default", "nextBlocks": ["right"]},
    ],
}


def _ws(count: int) -> list[str]:
    return [f"w{n}" for n in range(count)]


@dataclass(frozen=True, slots=True)
class _Maker:
    recovers: bool

    def step(self, block_id: str, *after: str, effect: str = "keyed") -> dict[str, Any]:
        found: dict[str, Any] = {
            "blockId": block_id,
            "agentId": AGENT,
            "dependencies": list(after),
            "effect": effect,
            "timeout": TIMEOUT_MS if block_id != PAYS else 60_000,
            "retryPolicy": _POLICY if self.recovers else _NOTHING,
        }
        if self.recovers:
            found["recovery"] = {**_LADDERS, "alternatives": [SPARE]}
        return found

    def template(self, name: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        return {"name": f"{name}, {'with' if self.recovers else 'without'} recovery", "blocks": blocks}


# -- judging -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """One ended attempt, in seconds of one clock.  `cause` is what was wrong with it; empty: nothing."""

    execution: str
    step: str  # block and item
    number: int
    cause: str
    began: float
    ended: float


@dataclass(slots=True)
class History:
    """What one part of the benchmark left behind."""

    statuses: dict[str, str] = field(default_factory=dict)  # of executions by id
    completed: set[str] = field(default_factory=set)  # operations of completed steps
    effects: list[str] = field(default_factory=list)  # the key of each effect, as the agent counted them
    attempts: list[Attempt] = field(default_factory=list)
    by_hand: int = 0


def operation(key: str) -> str:
    """What a key stands for, without its round: `<execution>:<block>:<item>`."""
    return key.rpartition(":")[0]


def violations(history: History) -> list[str]:
    """What must never be: an effect twice, or a step that completed without its effect."""
    found = [f"{key} was done {n} times" for key, n in Counter(history.effects).items() if n > 1]
    keys: dict[str, set[str]] = defaultdict(set)
    for key in history.effects:
        keys[operation(key)].add(key)
    found += [f"{name} was done under {len(of)} keys" for name, of in keys.items() if len(of) > 1]
    found += [f"{name} completed and was never done" for name in history.completed - keys.keys()]
    return sorted(found)


def success(history: History) -> float:
    """The share of executions that completed."""
    done = sum(status == "completed" for status in history.statuses.values())
    return done / len(history.statuses) if history.statuses else 0.0


@dataclass(frozen=True, slots=True)
class Recovered:
    """Of the steps that met a cause first: how many came through, and how long that took."""

    hit: int
    through: int
    mean_s: float
    worst_s: float


def recovered(attempts: Iterable[Attempt]) -> dict[str, Recovered]:
    """By the first cause of a step: from its first failure to its first attempt with nothing wrong.

    A worker that vanished did so at an unknown moment of its attempt: it counts from the attempt's begin.
    """
    steps: Mapping[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        steps[attempt.execution, attempt.step].append(attempt)
    took: dict[str, list[float | None]] = defaultdict(list)
    for tries in steps.values():
        tries.sort(key=lambda each: each.number)
        first = next((each for each in tries if each.cause), None)
        if first is None:
            continue
        since = first.began if first.cause == WORKER_KILLED else first.ended
        good = next((each for each in tries if not each.cause and each.number > first.number), None)
        took[first.cause].append(None if good is None else max(good.ended - since, 0.0))
    return {cause: _recovered(of) for cause, of in sorted(took.items())}


WORKER_KILLED = "worker killed"


def _recovered(took: Sequence[float | None]) -> Recovered:
    through = [each for each in took if each is not None]
    mean = statistics.fmean(through) if through else 0.0
    return Recovered(len(took), len(through), mean, max(through, default=0.0))


def hit_share(history: History) -> float:
    """Of the steps that ended an attempt, how many met something."""
    steps = {(each.execution, each.step) for each in history.attempts}
    hit = {(each.execution, each.step) for each in history.attempts if each.cause}
    return len(hit) / len(steps) if steps else 0.0


def table(with_: History, without: History) -> str:
    """In the style of docs/performance.md."""
    rows = ["| | with recovery | without |", "| --- | --- | --- |"]

    def row(name: str, *cells: str) -> None:
        rows.append(f"| {name} | {' | '.join(cells)} |")

    both = (with_, without)
    row("executions", *(f"{len(each.statuses):,}" for each in both))
    met = " (at least 95 %: met)" if success(with_) >= 0.95 else " (at least 95 %: missed)"
    row("completed", f"{success(with_):.1%}{met}", f"{success(without):.1%}")
    row("steps that met something", *(f"{hit_share(each):.0%}" for each in both))
    row("decided by the bench's operator", *(f"{each.by_hand:,}" for each in both))
    row("effects", *(f"{len(each.effects):,}" for each in both))
    row("effects twice, or missing", *(f"{len(violations(each)):,}" for each in both))
    rows += ["", "| what a step met first | steps | came through | mean time to recover | slowest |"]
    rows.append("| --- | --- | --- | --- | --- |")
    for cause, found in recovered(with_.attempts).items():
        row(cause, f"{found.hit:,}", f"{found.through:,}", f"{found.mean_s:.1f} s", f"{found.worst_s:.1f} s")
    return "\n".join(rows) + "\n"
