"""In which order the rungs of a ladder are tried, where its policy lets that be learned.

    learned(("retry", "reassign", "ask"), {"retry": Tried(50, 5, 600), "reassign": Tried(40, 38, 80)})
    -> ("reassign", "retry", "ask")

Pure.  Rungs change places only with rungs, and only those that go on by the block itself: how often each
may be taken, whether it is possible, and what stands last stays as it was written.

Trying things one after the other until one helps takes the least time in expectation if they are ordered
by chance of success over time needed (W. E. Smith, 1956).  The chance is the mean of a Beta posterior over
a flat prior, taken between its mean and 1.28 standard deviations on either side, which is about 80 % of a
normal; the time is a mean.  A rung that is tried after another is measured on what the other did not mend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentflow.types import JSONObject

R = TypeVar("R", bound=str)

SWAPPED = frozenset({"retry", "reassign", "queue"})
LEAST_TRIES = 20  # of which the result is known: with fewer a rung stays where it was written
DEVIATIONS = 1.28
LEAST_S = 1.0  # what is faster counts as fast as this


@dataclass(frozen=True, slots=True)
class Tried:
    """`seconds`: of all tries together, each from the failure to the end of the next attempt."""

    tries: int
    recovered: int
    seconds: float

    @property
    def enough(self) -> bool:
        return self.tries >= LEAST_TRIES

    @property
    def chance(self) -> float:
        return (self.recovered + 1) / (self.tries + 2)

    @property
    def mean_s(self) -> float:
        return self.seconds / self.tries if self.tries else 0.0

    def __add__(self, other: Tried) -> Tried:
        return Tried(self.tries + other.tries, self.recovered + other.recovered, self.seconds + other.seconds)

    def bounds(self) -> tuple[float, float]:
        """Recoveries a second, at least and at most."""
        chance = self.chance
        spread = DEVIATIONS * math.sqrt(chance * (1 - chance) / (self.tries + 3))
        each_s = max(self.mean_s, LEAST_S)
        return max(chance - spread, 0.0) / each_s, min(chance + spread, 1.0) / each_s

    def clearly_better(self, other: Tried) -> bool:
        return self.bounds()[0] > other.bounds()[1]

    def as_json(self) -> JSONObject:
        return {"tries": self.tries, "recovered": self.recovered, "meanSeconds": round(self.mean_s, 3)}


@dataclass(frozen=True, slots=True)
class Experience:
    """What came of strategies lately, and of which failures that is told.

    `scope`: `template` or `workspace`; `code` is empty where it is of all failures of the cause.
    """

    scope: str
    cause: str
    code: str
    tried: Mapping[str, Tried]

    def as_json(self, written: Sequence[str], order: Sequence[str]) -> JSONObject:
        told = {name: self.tried[name].as_json() for name in order if name in self.tried}
        return {
            "scope": self.scope,
            "cause": self.cause,
            **({"code": self.code} if self.code else {}),
            "written": [str(rung) for rung in written],
            "order": [str(rung) for rung in order],
            "results": told,
        }


def learned(ladder: Sequence[R], tried: Mapping[str, Tried]) -> tuple[R, ...]:
    """The ladder with what is clearly better first; what is not known to be stays in place."""
    found = list(ladder)
    begin = 0
    while begin < len(found):
        end = begin
        while end < len(found) and found[end] in SWAPPED:
            end += 1
        places = [at for at in range(begin, end) if found[at] in tried and tried[found[at]].enough]
        for at, rung in zip(places, _ordered([found[at] for at in places], tried), strict=True):
            found[at] = rung
        begin = end + 1
    return tuple(found)


def _ordered(rungs: list[R], tried: Mapping[str, Tried]) -> list[R]:
    """The first written of those than which none that is left is clearly better, again and again."""
    left, found = list(rungs), list[R]()
    while left:
        at = next(
            at
            for at, rung in enumerate(left)
            if not any(tried[other].clearly_better(tried[rung]) for other in left)
        )
        found.append(left.pop(at))
    return found
