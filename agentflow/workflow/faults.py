"""What goes wrong on purpose: in a simulation as its script says, in a real run as its workspace's mode says.

Fault.of({"kind": "timeout"}).failure("simulated", timeout_s=30)
    -> Failure(transient, "timeout", "A simulated fault: no answer within 30 s.", outcome_unknown=True)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from ..types import JSONObject, JSONValue
from .failures import Failure, FailureKind


class FaultKind(StrEnum):
    TRANSIENT = "transient"
    AGENT = "agent"
    CONFIGURATION = "configuration"
    CRITICAL = "critical"
    TIMEOUT = "timeout"  # no answer in time
    DIES_BEFORE = "diesBefore"  # the agent dies before it did anything, which nobody can tell
    DIES_AFTER = "diesAfter"  # the agent dies once it has done it, before it answers
    SLOW = "slow"  # it answers, `ms` later
    WRONG_OUTPUT = "wrongOutput"  # it answers, with `output`


SPARES = frozenset({FaultKind.SLOW, FaultKind.WRONG_OUTPUT})  # the call as such does not fail
UNKNOWN = frozenset({FaultKind.TIMEOUT, FaultKind.DIES_BEFORE, FaultKind.DIES_AFTER})


@dataclass(frozen=True, slots=True)
class Fault:
    """`code`, `message` and `outcome_unknown` are as its kind has them where nothing is said."""

    kind: FaultKind
    code: str = ""
    message: str = ""
    outcome_unknown: bool = False
    retry_after_s: float | None = None
    ms: float = 0.0
    output: JSONValue = None

    @classmethod
    def of(cls, stored: JSONObject) -> Self:
        """As it stands in a script or a rule: `{"kind": "transient", "code": "http_503"}`."""
        kind = FaultKind(stored["kind"])
        return cls(
            kind,
            code=stored.get("code", ""),
            message=stored.get("message", ""),
            outcome_unknown=bool(stored.get("outcomeUnknown", kind in UNKNOWN)),
            retry_after_s=stored.get("retryAfterSeconds"),
            ms=float(stored.get("ms", 0)),
            output=stored.get("output"),
        )

    def failure(self, how: str, *, timeout_s: float) -> Failure | None:
        """What the call fails with; None: it does not.  `how`: simulated or injected."""
        if self.kind in SPARES:
            return None
        kind, code, what, message = self._said(how, timeout_s)
        message = self.message or message
        return Failure(
            kind,
            self.code or code,
            f"{_article(how)} {how} {what}: {message}" if message else f"{_article(how)} {how} {what}.",
            retry_after_s=self.retry_after_s,
            outcome_unknown=self.outcome_unknown,
        )

    def _said(self, how: str, timeout_s: float) -> tuple[FailureKind, str, str, str]:
        if self.kind is FaultKind.TIMEOUT:
            return FailureKind.TRANSIENT, "timeout", "fault", f"no answer within {timeout_s:g} s."
        if self.kind in UNKNOWN:
            broke = "the connection broke before the answer was whole."
            return FailureKind.TRANSIENT, "connection_lost", "fault", broke
        kind = FailureKind(str(self.kind))
        return kind, f"{how}_{kind}", f"{kind} failure", ""


def _article(how: str) -> str:
    return "An" if how[:1] in "aeiou" else "A"


def scripted(entries: list[JSONObject], attempt: int) -> Fault | None:
    """Of a block's script what holds for this attempt.

    An entry with `attempt` is for that one; the others take turns, each for `times` attempts.
    """
    own = next((entry for entry in entries if entry.get("attempt") == attempt), None)
    if own is not None:
        return Fault.of(own)
    left = attempt - sum(entry.get("attempt", attempt) < attempt for entry in entries)
    for entry in entries:
        if "attempt" in entry:
            continue
        left -= entry.get("times", 1)
        if left <= 0:
            return Fault.of(entry)
    return None


def is_unsure(entries: list[JSONObject]) -> bool:
    """Whether a script leaves open whether an effect has happened."""
    return any(Fault.of(entry).outcome_unknown for entry in entries)


_FAILS = ("code", "message", "outcomeUnknown", "retryAfterSeconds")


def misplaced(entry: JSONObject) -> list[tuple[str, str]]:
    """Fields that say nothing about a fault of this kind, each with what is wrong; `{field: value}` given."""
    kind = FaultKind(entry["kind"])
    found = [(name, f"A {kind} fault is no failure.") for name in _FAILS if name in entry and kind in SPARES]
    if "ms" in entry and kind not in (FaultKind.SLOW, FaultKind.TIMEOUT):
        found.append(("ms", f"A {kind} fault takes no time."))
    if "ms" not in entry and kind is FaultKind.SLOW:
        found.append(("ms", "Say how many milliseconds longer it takes."))
    if "output" in entry and kind is not FaultKind.WRONG_OUTPUT:
        found.append(("output", f"A {kind} fault has no output."))
    if "times" in entry and "attempt" in entry:
        found.append(("attempt", "An entry is for one attempt or for so many times."))
    return found
