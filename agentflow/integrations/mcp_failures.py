"""What may go wrong with an MCP server, each as the kind of failure that a retry rule can act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import httpx2

from ..types import JSONObject
from ..workflow.classification import of_rpc
from ..workflow.failures import FailureKind
from . import http_failures
from .egress import EgressError
from .http_watch import RESPONSE_BYTES

if TYPE_CHECKING:
    import mcp


class UnknownServer(EgressError):
    """No stdio server of that name is configured."""

    def __init__(self, name: str) -> None:
        super().__init__(
            FailureKind.CONFIGURATION,
            "unknown_mcp_server",
            f"No MCP server {name[:100]!r} is configured (AGENTFLOW_MCP_STDIO).",
        )


class ToolFailed(EgressError):
    """The tool itself says that it failed."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.AGENT, "tool_error", message[:1000] or "The tool failed.")


class BadArguments(EgressError):
    """The arguments do not fit the tool's own schema; nothing was called."""

    def __init__(self, issues: list[JSONObject]) -> None:
        message = f"arguments{issues[0]['pointer']}: {issues[0]['message']}"
        super().__init__(
            FailureKind.CONFIGURATION, "mcp_invalid_call", message[:500], evidence={"issues": issues[:5]}
        )


class BadResult(EgressError):
    """What the tool gave does not fit its own schema; it may have done its work."""

    def __init__(self, message: str, issues: Sequence[JSONObject] = ()) -> None:
        evidence: JSONObject = {"issues": list(issues[:5])} if issues else {}
        super().__init__(
            FailureKind.AGENT, "mcp_bad_response", message[:500], outcome_unknown=True, evidence=evidence
        )


class ListRefused(EgressError):
    """The server does not say what its tools are; no tool was called."""

    def __init__(self, label: str, said: str) -> None:
        message = (
            f"The MCP server {label} refuses to list its tools, so nothing can be checked: {said[:200]}."
        )
        remedy = " Let it answer tools/list for the headers of this agent."
        super().__init__(FailureKind.CONFIGURATION, "mcp_list_refused", message[:400] + remedy)


class ServerFailed(EgressError):
    """The server could not be started or did not shake hands; no tool was called."""

    def __init__(self, label: str, said: str) -> None:
        message = f"The MCP server {label} cannot be reached: {said}"
        super().__init__(FailureKind.TRANSIENT, "mcp_server_failed", message[:500])


def innermost(error: BaseException) -> BaseException:
    """The one that matters in anyio's groups: ours if there is one, else the first."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup(EgressError)
        error = (ours or error).exceptions[0]
    cause = error.__cause__
    return cause if isinstance(cause, EgressError) else error


def not_opened(error: BaseException, *, label: str, command: str) -> EgressError:
    """Why there is no session."""
    error = innermost(error)
    if isinstance(error, EgressError):
        return error
    if isinstance(error, FileNotFoundError | PermissionError):
        return EgressError(
            FailureKind.CONFIGURATION, "mcp_server_failed", f"The command {command!r} cannot be started."
        )
    status = _status_of(error)
    return status or ServerFailed(label, f"{type(error).__name__}: {error}"[:300])


def _status_of(error: BaseException) -> EgressError | None:
    if not isinstance(error, httpx2.HTTPStatusError):
        return None
    try:
        http_failures.check_status(error.response.status_code, error.response.headers, method="POST")
    except EgressError as status:
        return status
    return None


def gone(error: mcp.MCPError) -> bool:
    from mcp_types import CONNECTION_CLOSED

    return error.code == CONNECTION_CLOSED or "session terminated" in error.message.lower()


def too_large(error: mcp.MCPError) -> bool:
    """The SDK has the transport's refusals in words alone."""
    said = error.message
    stream = said.startswith("SSE stream failed: ") and "byte limit" in said
    return stream or said.endswith(http_failures.ResponseTooLarge(RESPONSE_BYTES).failure.message)


def translated(error: Exception, label: str, *, sent: bool) -> EgressError:
    """What went wrong with a call; `sent`: the tool may have been called."""
    from mcp import MCPError

    inner = innermost(error)
    if isinstance(inner, EgressError):
        return inner
    if isinstance(inner, MCPError):
        if too_large(inner):
            return http_failures.ResponseTooLarge(RESPONSE_BYTES, sent=sent)
        if of_rpc(inner.code) is FailureKind.CONFIGURATION:
            return EgressError(FailureKind.CONFIGURATION, "mcp_invalid_call", inner.message[:500])
        if not gone(inner):
            return EgressError(
                FailureKind.AGENT,
                "mcp_error",
                inner.message[:500],
                outcome_unknown=sent,
                evidence={"code": inner.code},
            )
    if isinstance(inner, httpx2.HTTPStatusError):
        return _status_of(inner) or http_failures.ConnectionLost(str(inner)[:300], sent=sent)
    # pydantic's, and the SDK's own about answers that it cannot use
    if isinstance(inner, ValueError | RuntimeError):
        return EgressError(
            FailureKind.AGENT, "mcp_bad_response", f"{label}: {inner}"[:500], outcome_unknown=sent
        )
    return http_failures.ConnectionLost(f"{label}: {inner}"[:300], sent=sent)
