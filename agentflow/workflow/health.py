"""How well something is, in the words that executions, templates and agents share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..types import JSONObject

ENOUGH = 5  # of what a figure is made of, on either side, before it says anything
SURE_Z = 1.96  # of shares: so many standard errors apart is no accident (two-sided 5 %)
NOTABLE_SHARE = 0.02  # shares that are nearer to each other count as the same
RUN = "run"  # the window of an execution, which is held against what others of its version were
NOTABLE_RATIO = 1.25  # as do times of which the longer is not so many times the shorter


class Status(StrEnum):
    HEALTHY = "healthy"
    UNKNOWN = "unknown"  # nothing was seen of it yet
    DEGRADED = "degraded"  # it works, and somebody should look
    UNHEALTHY = "unhealthy"  # it does not work until somebody, or time, mends it


class Direction(StrEnum):
    BETTER = "better"
    STEADY = "steady"  # or too little to tell
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is not healthy.  `code` is stable; `href` leads to the row that it tells of."""

    code: str
    message: str
    remedy: str
    href: str = ""
    status: Status = Status.DEGRADED

    def as_json(self) -> JSONObject:
        return {
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            "href": self.href,
            "status": str(self.status),
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """One number within a window and the window of the same length before; None: there is none."""

    name: str
    window: str
    now: float | None
    before: float | None
    direction: Direction

    @property
    def sentence(self) -> str:
        """`Success 91 % within 24h, 98 % before.`"""
        words = _WORDS.get(self.name, self.name)
        now, before = (_shown(self.name, value) for value in (self.now, self.before))
        if self.window == RUN:
            return f"{words} {now}, usually {before}."
        return f"{words} {now} within {self.window}, {before} before."

    def as_json(self) -> JSONObject:
        return {
            "name": self.name,
            "window": self.window,
            "now": self.now,
            "before": self.before,
            "direction": str(self.direction),
        }


@dataclass(frozen=True, slots=True)
class Health:
    status: Status
    reasons: tuple[Reason, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def trend(self) -> Direction:
        """Worse if anything is; better if something is and nothing is worse."""
        found = {figure.direction for figure in self.figures}
        if Direction.WORSE in found:
            return Direction.WORSE
        return Direction.BETTER if Direction.BETTER in found else Direction.STEADY

    @property
    def moved(self) -> tuple[Figure, ...]:
        """What makes the trend."""
        return tuple(each for each in self.figures if each.direction is not Direction.STEADY)

    def as_json(self) -> JSONObject:
        return {
            "status": str(self.status),
            "reasons": [reason.as_json() for reason in self.reasons],
            "trend": {
                "direction": str(self.trend),
                "figures": [figure.as_json() for figure in self.figures],
            },
        }


_ORDER = (Status.UNHEALTHY, Status.DEGRADED, Status.UNKNOWN, Status.HEALTHY)


def health(reasons: Iterable[Reason], figures: Iterable[Figure] = (), *, seen: bool = True) -> Health:
    """As bad as its worst reason, which comes first; unknown if there is none and nothing was `seen`."""
    ordered = tuple(sorted(reasons, key=lambda reason: _ORDER.index(reason.status)))
    if ordered:
        return Health(ordered[0].status, ordered, tuple(figures))
    return Health(Status.HEALTHY if seen else Status.UNKNOWN, (), tuple(figures))


def share(name: str, window: str, now: Sequence[int], before: Sequence[int]) -> Figure:
    """A share that is better the higher it is, each as (hits, of how many).

    Told apart by the two-proportion z-test with a pooled variance (Fleiss, Levin, Paik: Statistical Methods
    for Rates and Proportions, 2003, section 3).  It takes calls for independent.
    """
    (hits, calls), (hits_before, calls_before) = now, before
    here = hits / calls if calls else None
    there = hits_before / calls_before if calls_before else None
    direction = Direction.STEADY
    if here is not None and there is not None and min(calls, calls_before) >= ENOUGH:
        pooled = (hits + hits_before) / (calls + calls_before)
        error = math.sqrt(pooled * (1 - pooled) * (1 / calls + 1 / calls_before))
        apart = here - there
        if abs(apart) >= NOTABLE_SHARE and abs(apart) > SURE_Z * error:
            direction = Direction.BETTER if apart > 0 else Direction.WORSE
    return Figure(name, window, _rounded(here), _rounded(there), direction)


def duration(
    name: str, window: str, now: tuple[float | None, int], before: tuple[float | None, int]
) -> Figure:
    """A time that is better the shorter it is, each as (time, of how many)."""
    (here, count), (there, count_before) = now, before
    direction = Direction.STEADY
    if here is not None and there is not None and min(count, count_before) >= ENOUGH:
        if here > there * NOTABLE_RATIO:
            direction = Direction.WORSE
        elif there > here * NOTABLE_RATIO:
            direction = Direction.BETTER
    return Figure(name, window, _rounded(here, 1), _rounded(there, 1), direction)


_WORDS = {
    "successRate": "Success",
    "recoveredRate": "Recovered",
    "attemptSuccessRate": "Attempts that went well",
    "p95Ms": "p95",
    "tookMs": "Takes",
}


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    if name.endswith("Rate"):
        return f"{100 * value:.0f} %"
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.0f} s"


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
