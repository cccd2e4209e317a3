"""What may go wrong with an HTTP exchange, each as the kind of failure that a retry rule can act on."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..workflow.classification import of_status
from ..workflow.failures import FailureKind
from .egress import EgressError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class CallCancelled(EgressError):
    """Somebody stopped the call from outside."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__(FailureKind.TRANSIENT, "cancelled", "The call was cancelled.", outcome_unknown=sent)


class TimedOut(EgressError):
    """There was no whole answer by the deadline."""

    def __init__(self, timeout_s: float, *, sent: bool) -> None:
        message = f"No answer within {timeout_s:g} s."
        super().__init__(FailureKind.TRANSIENT, "timeout", message, outcome_unknown=sent)


class ConnectFailed(EgressError):
    """Nobody answers there; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.TRANSIENT, "connect_failed", message)


class TlsFailed(EgressError):
    """The certificate does not prove that it is the right server; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.CONFIGURATION, "tls_failed", message)


class ConnectionLost(EgressError):
    """The connection broke before the answer was whole."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(FailureKind.TRANSIENT, "connection_lost", message, outcome_unknown=sent)


class ResponseTooLarge(EgressError):
    """The answer is larger than anybody has room for; the rest was not read."""

    def __init__(self, max_bytes: int, *, sent: bool = True) -> None:
        super().__init__(
            FailureKind.AGENT,
            "response_too_large",
            f"The answer is larger than {max_bytes} bytes.",
            outcome_unknown=sent,
        )


class BadResponse(EgressError):
    """The answer breaks HTTP, or is in an encoding that was not asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.AGENT, "bad_response", message, outcome_unknown=True)


class BadStatus(EgressError):
    """The server answered, and its status says no."""


def check_status(status: int, headers: Any, *, method: str, body: bytes = b"") -> None:
    """Nothing, for a success; else the status as a failure that a retry rule can act on.

    Raises:
        BadStatus: status outside 200..299.
    """
    if 200 <= status < 300:
        return
    sort = of_status(status)
    transient = sort.kind is FailureKind.TRANSIENT
    raise BadStatus(
        sort.kind,
        f"http_{status}",
        f"The server answered {status}.",
        outcome_unknown=sort.unfinished and method.upper() not in SAFE_METHODS,
        retry_after_s=retry_after_s(headers.get("retry-after")) if transient else None,
        evidence={"status": status, "body": body[:500].decode("utf-8", "replace")},
    )


def retry_after_s(header: str | None) -> float | None:
    """`Retry-After` as seconds from now, at most a day; None when it says nothing we understand."""
    if not header:
        return None
    text = header.strip()
    if text.isdigit() and len(text) < 12:
        return min(float(text), 86400.0)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), 86400.0)
