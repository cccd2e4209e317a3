"""What kind of failure something is: one table for each place that a failure can come from.

    of_status(503)                     -> transient; it did not begin
    of_exit(78)                        -> configuration
    of_exception(TimeoutError())       -> transient
    of_model("context_length_exceeded", "...") -> ("llm_context_too_long", configuration)

The tables are data, so that what counts as what can be read at one place; a workspace may say otherwise
by rules of its own (`executions.recovery.rules`).
"""

from __future__ import annotations

from dataclasses import dataclass

from .failures import FailureKind

T, A, C = FailureKind.TRANSIENT, FailureKind.AGENT, FailureKind.CONFIGURATION


@dataclass(frozen=True, slots=True)
class Sort:
    """`unfinished`: it may have begun, and nobody knows how far it came."""

    kind: FailureKind
    unfinished: bool = False


# A client's error is the template's or the agent's settings; these are the server's moment.
_STATUSES = {
    408: Sort(T),
    425: Sort(T),
    429: Sort(T),
    501: Sort(C),  # it never will
    503: Sort(T),  # it says that it did not begin
    505: Sort(C),
}


def of_status(status: int) -> Sort:
    """An HTTP status that is no success."""
    known = _STATUSES.get(status)
    if known is not None:
        return known
    return Sort(T, unfinished=True) if 500 <= status < 600 else Sort(C)


# sysexits.h, and what a shell says.
_EXITS = {
    64: C,  # EX_USAGE
    69: T,  # EX_UNAVAILABLE
    75: T,  # EX_TEMPFAIL
    77: C,  # EX_NOPERM
    78: C,  # EX_CONFIG
    126: C,  # found, and no program
    127: C,  # not found
}


def of_exit(code: int | None) -> FailureKind:
    """A script's exit code; one that says nothing is the script's own failure."""
    return _EXITS.get(code or 0, A)


# By the first of its classes that is named here, the nearest first.
_EXCEPTIONS = {
    "TimeoutError": T,
    "ConnectionError": T,
    "InterruptedError": T,
    "BlockingIOError": T,
    "OperationalError": T,  # of a database
    "InterfaceError": T,
    "ImportError": C,
    "NotImplementedError": C,
    "PermissionError": C,
}


def of_exception(error: BaseException) -> FailureKind:
    """An exception that a tool or a function did not catch."""
    return next((_EXCEPTIONS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in _EXCEPTIONS), A)


# What providers of language models say beside the status.
_MODELS = {
    "context_length_exceeded": ("llm_context_too_long", C),
    "insufficient_quota": ("llm_quota_exhausted", C),
    "content_filter": ("llm_content_filtered", A),
}


def of_model(code: str, said: str) -> tuple[str, FailureKind] | None:
    """Our code and kind for a provider's; None: its status has to tell."""
    if "context length" in said.lower():
        code = "context_length_exceeded"
    return _MODELS.get(code)


# JSON-RPC's and MCP's own numbers: the call as such is wrong, so it is again the next time.
_RPC_CONFIGURATION = frozenset({-32600, -32601, -32602})


def of_rpc(code: int) -> FailureKind:
    return C if code in _RPC_CONFIGURATION else A
