"""Where the present work comes from: the request it serves and the channel it came by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    request_id: str = ""
    channel: str = "system"  # api | page | admin | websocket | worker | clock | cli | system


NOWHERE = Origin()
_origin: ContextVar[Origin] = ContextVar("agentflow_origin", default=NOWHERE)


def current() -> Origin:
    return _origin.get()


@contextmanager
def origin(*, channel: str, request_id: str = "") -> Iterator[Origin]:
    """Everything done inside is audited as coming from here."""
    made = Origin(request_id=request_id, channel=channel)
    token = _origin.set(made)
    try:
        yield made
    finally:
        _origin.reset(token)
