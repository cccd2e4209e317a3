"""Waiting for something to become true: the only place in the tests that lets time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0  # with a slow machine; what never comes takes a test that fails this long


def until(
    condition: Callable[[], T], timeout_s: float = PATIENCE_S, *, every_s: float = 0.05, why: str = ""
) -> T:
    """The first truthy value of `condition()`; fails, with the last value, when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            name = why or getattr(condition, "__name__", "condition")
            raise AssertionError(f"waited {timeout_s:g} s in vain for {name}; last value: {value!r}")
        time.sleep(every_s)
