"""What can go wrong with one attempt of a block, said in a way that a rule can act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from ..types import JSONObject


class FailureKind(StrEnum):
    """The four kinds of the seed design; each names who can mend it."""

    TRANSIENT = "transient"  # time may mend it: time-outs, refused connections, 429, 5xx
    AGENT = "agent"  # another agent may mend it: it answered garbage, or it crashed
    CONFIGURATION = "configuration"  # a person may mend it: 4xx, a mapping that does not fit, a missing tool
    CRITICAL = "critical"  # nothing mends it: the block fails and no retry is tried


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not succeed.

    `code` is stable (snake_case: `http_503`, `timeout`, `agent_crashed`); `message` is for people.
    `outcome_unknown` says that the effect may have happened all the same (the call was sent and no
    answer came): such a failure is never retried for an agent whose effect is `once`.
    """

    kind: FailureKind
    code: str
    message: str
    retry_after_s: float | None = None
    outcome_unknown: bool = False
    evidence: JSONObject = field(default_factory=dict)

    def as_json(self) -> JSONObject:
        """`{"kind": "transient", "code": "http_503", "message": "...", "outcomeUnknown": false}`"""
        found: JSONObject = {
            "kind": str(self.kind),
            "code": self.code,
            "message": self.message,
            "outcomeUnknown": self.outcome_unknown,
        }
        if self.retry_after_s is not None:
            found["retryAfterSeconds"] = self.retry_after_s
        if self.evidence:
            found["evidence"] = self.evidence
        return found

    @classmethod
    def from_json(cls, stored: JSONObject) -> Self:
        """What `as_json` gave."""
        return cls(
            FailureKind(stored["kind"]),
            stored["code"],
            stored["message"],
            retry_after_s=stored.get("retryAfterSeconds"),
            outcome_unknown=stored["outcomeUnknown"],
            evidence=stored.get("evidence", {}),
        )
