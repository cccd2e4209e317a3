"""Points in time, as authors and expressions write them."""

from __future__ import annotations

import math
from datetime import datetime

from ..types import JSONValue
from .expressions import ExpressionError

LONGEST_WAIT_S = 366 * 86_400.0  # a wait of years is a mistake, or wants a schedule


def as_moment(value: JSONValue) -> datetime:
    """An RFC 3339 time with its zone: `2026-12-24T18:00:00Z`.

    Raises:
        ExpressionError: it is not one.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return moment
    raise ExpressionError(
        "not_a_time",
        f"{value!r:.100} is not a point in time with its zone.",
        remedy="Write it as 2026-12-24T18:00:00Z.",
    )


def is_moment(text: str) -> bool:
    try:
        as_moment(text)
    except ExpressionError:
        return False
    return True


def check_wait_s(seconds: float) -> float:
    """A wait that can be waited for; a moment that has passed is no wait.

    Raises:
        ExpressionError: it is longer than a year.
    """
    if math.isnan(seconds) or seconds > LONGEST_WAIT_S:
        raise ExpressionError(
            "wait_too_long", "A block waits for a year at most.", remedy="Wait for an earlier moment."
        )
    return max(0.0, seconds)
