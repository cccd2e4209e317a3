"""Tells who cares that this thread only waits for somebody outside: it needs no place to work meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Place(Protocol):
    """What a thread holds while it works, such as a database connection."""

    def leave(self) -> None: ...
    def come_back(self) -> None: ...


class _Here(threading.local):
    place: Place | None = None
    outside = False
    waited_s = 0.0


_here = _Here()


def hold(place: Place | None) -> None:
    """From now on this thread works from that place."""
    _here.place = place


def held() -> bool:
    """Whether this thread has a place that others may wait for."""
    return _here.place is not None


def waited_s() -> float:
    """How long this thread has waited for others so far."""
    return _here.waited_s


@contextmanager
def outside(*, elsewhere: bool = True) -> Iterator[None]:
    """Give the thread's place away until the other side is done.

    `elsewhere`: it works on another machine, or as good as that; else waiting for it is no waiting to be
    told of, for more of them at once are more work here.
    """
    here = _here
    if here.outside:
        yield
        return
    began = time.monotonic()
    here.outside = True
    if here.place is not None:
        here.place.leave()
    try:
        yield
    finally:
        if elsewhere:
            here.waited_s += time.monotonic() - began
        if here.place is not None:
            here.place.come_back()
        here.outside = False


@contextmanager
def inside() -> Iterator[None]:
    """Have the place for a moment: there is something to write down while the other side works on."""
    here = _here
    if here.place is None or not here.outside:
        yield
        return
    here.place.come_back()
    here.outside = False
    try:
        yield
    finally:
        here.outside = True
        here.place.leave()
