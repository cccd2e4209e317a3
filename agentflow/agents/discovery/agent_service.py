"""The Agent Service: agents listed over HTTP, each with its capabilities."""

from __future__ import annotations

from urllib.parse import quote

from ...types import JSONObject
from ..models import ToolType
from . import documents
from .found import SECONDS, BadDocument, Found, Listing, Place, Skipped, bounded, schema, text


def look(place: Place) -> Listing:
    """`GET {url}/agents` answers `{"agents": [{"id", "name", "description", "inputSchema", "outputSchema",
    "capabilities"?}]}`; `GET {url}/agents/{id}/capabilities` the capabilities where the list has none.

    Raises:
        EgressError: the service is not there, or its list is none.
    """
    base = place.url.rstrip("/")
    answer = documents.fetch(place, f"{base}/agents")
    listed = answer.get("agents") if isinstance(answer, dict) else answer
    found: dict[str, Found] = {}
    skipped: list[Skipped] = []
    for agent in bounded(listed, "The agents"):
        key = text(agent.get("id"), 200)
        try:
            if not key or key in found:
                raise BadDocument("An agent has no id of its own.", "bad_agent")
            found[key] = _found(key, agent, place, base)
        except BadDocument as error:
            skipped.append(Skipped(key, error.failure.code, error.failure.message))
    return Listing(tuple(found.values()), tuple(skipped))


def _found(key: str, agent: JSONObject, place: Place, base: str) -> Found:
    return Found(
        key=key,
        name=text(agent.get("name"), 200) or key,
        description=text(agent.get("description"), 4000),
        tool_type=ToolType.AGENT_SERVICE.value,
        configuration={"url": base, "agent": key, "headers": place.headers},
        capabilities=tuple(_capabilities(key, agent, place, base)),
        input_schema=schema(agent.get("inputSchema")),
        output_schema=schema(agent.get("outputSchema")),
    )


def _capabilities(key: str, agent: JSONObject, place: Place, base: str) -> list[JSONObject]:
    given = agent.get("capabilities")
    if given is None:
        answer = documents.fetch(
            place, f"{base}/agents/{quote(key, safe='')}/capabilities", timeout_s=SECONDS / 4
        )
        given = answer.get("capabilities") if isinstance(answer, dict) else answer
    found: dict[str, JSONObject] = {}
    for each in given[:200] if isinstance(given, list) else []:
        said = {"name": each} if isinstance(each, str) else each if isinstance(each, dict) else {}
        if name := text(said.get("name"), 200):
            tags = said.get("tags")
            found[name] = {
                "name": name,
                "description": text(said.get("description"), 4000),
                "tags": [text(tag, 100) for tag in tags if text(tag, 100)][:50]
                if isinstance(tags, list)
                else [],
                "inputSchema": schema(said.get("inputSchema")),
                "outputSchema": schema(said.get("outputSchema")),
            }
    return list(found.values())
