"""`callback` of an HTTP call: the other side may answer 202 and bring its result later."""

from __future__ import annotations

from agentflow.conf import LIMITS
from agentflow.types import JSONValue

from .moments import LONGEST_WAIT_S

ACCEPTED = 202


class BadCallback(ValueError):
    """`callback` is not what it must be; `pointer` leads from it to the place."""

    def __init__(self, pointer: str, message: str) -> None:
        self.pointer = pointer
        super().__init__(message)


def timeout_s(callback: JSONValue) -> float:
    """How long the result is waited for: `{"timeout": 3600000}` says an hour, `{}` means a day.

    Raises:
        BadCallback: it is no such object.
    """
    if not isinstance(callback, dict):
        raise BadCallback("", 'callback is an object such as {"timeout": 3600000}.')
    for name in callback:
        if name != "timeout":
            raise BadCallback(f"/{name}", f"callback has no field {name[:50]!r}; it has timeout.")
    timeout_ms = callback.get("timeout", LIMITS.callback_timeout_ms)
    longest_ms = int(LONGEST_WAIT_S * 1000)
    if type(timeout_ms) is not int or not 1 <= timeout_ms <= longest_ms:
        raise BadCallback("/timeout", f"callback.timeout is a whole number of ms from 1 to {longest_ms}.")
    return timeout_ms / 1000
