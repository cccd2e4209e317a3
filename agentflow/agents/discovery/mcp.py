"""MCP servers: each tool is an agent."""

from __future__ import annotations

from ...integrations import mcp
from ...types import JSONObject
from ..models import ToolType
from .found import AGENTS_MAX, BadDocument, Found, Listing, Place, Skipped, schema, text


def look(place: Place) -> Listing:
    """
    Raises:
        EgressError: the server is not there, or its list is none.
    """
    server = mcp.Server(
        name=place.server,
        url=place.url,
        headers=tuple(sorted(place.sent.items())),
        policy=place.policy,
    )
    found: dict[str, Found] = {}
    skipped: list[Skipped] = []
    tools = mcp.list_tools(server, timeout_s=place.seconds(), at_most=AGENTS_MAX + 1)
    if len(tools) > AGENTS_MAX:
        raise BadDocument(f"The server lists more than {AGENTS_MAX} tools.", "too_many_agents")
    for tool in tools:
        key = text(tool.get("name"), 200)
        try:
            if not key or key in found:
                raise BadDocument("A tool has no name of its own.", "bad_tool")
            found[key] = _found(key, tool, place)
        except BadDocument as error:
            skipped.append(Skipped(key, error.failure.code, error.failure.message))
    return Listing(tuple(found.values()), tuple(skipped))


def _found(key: str, tool: JSONObject, place: Place) -> Found:
    """`hints` are the server's own word about the tool: shown, and believed only when an operator says so
    by the agent's `effect`."""
    where: JSONObject = {"server": place.server} if place.server else {"url": place.url}
    if place.headers:
        where["headers"] = place.headers
    hints = tool.get("annotations")
    return Found(
        key=key,
        name=text(tool.get("title"), 200) or key,
        description=text(tool.get("description"), 4000),
        tool_type=ToolType.MCP.value,
        configuration={**where, "tool": key, "hints": hints if isinstance(hints, dict) else {}},
        capabilities=({"name": key},),
        input_schema=schema(tool.get("inputSchema")),
        output_schema=schema(tool.get("outputSchema")),
    )
