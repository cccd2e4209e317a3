"""Whether an agent fails more, or is slower, than it usually is: told before its circuit opens.

Pure.  Both signals are shares of calls: of those that failed, and of those slower than nearly all used to be.
The last hour is read bucket by bucket against the day before it by a cumulative sum of log-likelihood ratios
for Bernoulli trials (CUSUM: Page, Continuous Inspection Schemes, Biometrika 41, 1954; for a proportion:
Reynolds and Stoumbos, Journal of Quality Technology 31, 1999):

    S = max(0, S + k ln(p1/p0) + (n - k) ln((1 - p1)/(1 - p0)))    for a bucket of n calls, k of them hits

with p0 the usual share and p1 the one that is feared.  It is an onset once S reaches ALARM = ln(100,000).
While p0 holds, an alarm comes on average after no fewer than exp(ALARM) = 100,000 calls (Lorden, Procedures
for Reacting to a Change in Distribution, Annals of Mathematical Statistics 42, 1971); a share of p1 is seen
after about ALARM / KL(p1, p0) calls: some 40 from 2 % to 20 %.

Limits: calls count as independent, so a burst of failures with one cause counts in full; p0 is an estimate,
taken one standard error too high and never under 1 %; what is slow but usual at some hours of the day may be
taken for a drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALARM = math.log(100_000)
OVER = math.log(100)  # evidence, the other way round, that it is as usual again
ENOUGH = 50  # calls of the day before; with fewer nobody knows what is usual
LEAST = 0.01  # a usual share
MARGIN = 0.1  # the feared share is so much more, or three times as much
MOST = 0.95
SLOW = 0.95  # of the calls of the day before were not slower


@dataclass(frozen=True, slots=True)
class Shares:
    usual: float
    feared: float

    def ratio(self, hits: int, calls: int) -> float:
        """The logarithm of how much likelier these calls are with the feared share."""
        misses = calls - hits
        return hits * math.log(self.feared / self.usual) + misses * math.log(
            (1 - self.feared) / (1 - self.usual)
        )


def shares(hits: int, calls: int) -> Shares | None:
    """What is usual and what is feared, from what was seen; None: that says too little."""
    if calls < ENOUGH:
        return None
    seen = (hits + 0.5) / (calls + 1)
    usual = max(seen + math.sqrt(seen * (1 - seen) / calls), LEAST)
    feared = min(max(3 * usual, usual + MARGIN), MOST)
    return Shares(usual, feared) if feared >= usual + MARGIN / 2 else None


def begins(known: Shares, buckets: Iterable[tuple[int, int]]) -> bool:
    """Whether the newest calls, as (hits, calls) from the oldest on, no longer fit what is usual."""
    total = 0.0
    for hits, calls in buckets:
        total = max(0.0, total + known.ratio(hits, calls))
    return total >= ALARM


def is_over(known: Shares, buckets: Iterable[tuple[int, int]]) -> bool:
    """Whether they fit it again."""
    total = 0.0
    for hits, calls in buckets:
        total = max(0.0, total - known.ratio(hits, calls))
    return total >= OVER


def slow_from(histogram: Sequence[int]) -> int | None:
    """The slot of a histogram, as `performance.slot`, from which on a call was slower than nearly all."""
    left = SLOW * sum(histogram)
    for number, count in enumerate(histogram):
        left -= count
        if count and left <= 0:
            return number + 2  # the next is less than a fifth slower: no drift anybody would feel
    return None
