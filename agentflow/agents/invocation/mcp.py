"""MCP: one tool of one server."""

from __future__ import annotations

from ...integrations import mcp
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject
from ...workflow.failures import Failure, FailureKind
from .. import registry
from ..builtin import BuiltinFailure
from ..calls import Call, Completed, Failed, Outcome
from ..models import Effect
from ..registry import AgentSpec


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """`configuration {"server": name | "url": address, "tool": name, "arguments": {...}?, "headers": {}?}`.

    The tool gets the input, and over it what `arguments` fixes.
    """
    configuration = registry.merged_configuration(spec, call.configuration)
    tool = configuration.get("tool")
    if not isinstance(tool, str) or not tool:
        raise _bad("configuration.tool must name a tool.")
    server = _server(call, configuration)
    try:
        return Completed(
            mcp.call_tool(
                server,
                tool,
                _arguments(call, configuration),
                timeout_s=call.timeout_s,
                idempotency_key=call.idempotency_key,
                repeatable=call.effect != Effect.ONCE,
                on_cancel=call.cancel.on_cancel,
                on_progress=lambda line: call.log("info", line),
            )
        )
    except EgressError as error:
        return Failed(error.failure)


def _server(call: Call, configuration: JSONObject) -> mcp.Server:
    name, url = configuration.get("server"), configuration.get("url")
    if isinstance(name, str) and name and not url:
        return mcp.Server(name=name)
    if isinstance(url, str) and url and not name:
        headers = configuration.get("headers") or {}
        if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
            raise _bad("configuration.headers must be an object of texts.")
        return mcp.Server(
            url=url,
            headers=tuple(sorted(headers.items())),
            policy=EgressPolicy(registry.egress_allowed(call.workspace_id)),
        )
    raise _bad("configuration names either a server or a url.")


def _arguments(call: Call, configuration: JSONObject) -> JSONObject:
    fixed = configuration.get("arguments") or {}
    given = {} if call.input is None else call.input
    if not isinstance(fixed, dict) or not isinstance(given, dict):
        raise _bad("A tool's input and configuration.arguments must be objects.")
    return {**given, **fixed}


def _bad(message: str) -> BuiltinFailure:
    return BuiltinFailure(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))
