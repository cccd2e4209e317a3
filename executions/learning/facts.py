"""What is known of a template's steps when it is asked what would mend them, and what an answer is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from agentflow.types import JSONObject
from executions.recovery.ordering import Tried

BY_HAND = frozenset({"ask", "fail", "compensate"})  # recovery did not go on by itself


@dataclass(frozen=True, slots=True)
class Seen:
    """One ended attempt; `row` is its block's row, of which `status` and `reason` are how it stands."""

    block_id: str
    row: int
    execution_id: UUID
    attempt: int
    agent_id: str
    ok: bool
    seconds: float
    code: str = ""
    kind: str = ""
    strategy: str = ""
    unknown: bool = False
    status: str = ""
    reason: str = ""

    @property
    def stuck(self) -> bool:
        return not self.ok and self.strategy in BY_HAND


@dataclass(frozen=True)
class Facts:
    """`seen`: attempts of blocks that are as `definition` has them, the latest last.

    `retried`: what trying again came to, by code, anywhere in the workspace.  `inputs`: of some rows.
    """

    definition: JSONObject
    seen: Sequence[Seen] = ()
    retried: Mapping[str, Tried] = field(default_factory=dict)
    inputs: Mapping[int, JSONObject] = field(default_factory=dict)
    agents: frozenset[str] = frozenset()  # alternatives that are switched on

    @cached_property
    def by_block(self) -> Mapping[str, Sequence[Seen]]:
        found: dict[str, list[Seen]] = defaultdict(list)
        for each in self.seen:
            found[each.block_id].append(each)
        return found


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of if self.of else 0.0


ATTEMPTS, RUNS = "attempts", "runs"  # what a share is of


def failing(seen: Iterable[Seen], measure: str, codes: Collection[str]) -> Share:
    """Of the attempts those that failed so; of a step's runs those in which recovery could not mend it.

    No codes: whatever they failed with.
    """
    rows: dict[int, bool] = {}
    count = total = 0
    for each in seen:
        hit = not each.ok and (not codes or each.code in codes)
        total += 1
        count += hit
        rows[each.row] = rows.get(each.row, False) or (hit and each.stuck)
    return Share(count, total) if measure == ATTEMPTS else Share(sum(rows.values()), len(rows))


class Kind(StrEnum):
    TIMEOUT = "timeout"  # more time for an attempt
    RETRY = "retry"  # try again after failures with these codes
    AGENT = "agent"  # begin with another agent
    SPLIT = "split"  # one call for each entry of a list
    GUARD = "guard"  # what fails anyway is not tried, or does not hold up what follows


@dataclass(frozen=True, slots=True)
class Proposed:
    """`evidence`: {"measure", "codes", "failures", "of", ...}; `predicted`: {"share", "because"}."""

    kind: Kind
    block_id: str
    patch: JSONObject
    evidence: JSONObject
    predicted: JSONObject
    fits: frozenset[int] = field(default_factory=frozenset)  # the rows that it is about
