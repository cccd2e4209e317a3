"""A2A: the agent of a card, with its skills as capabilities."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from ...types import JSONObject, JSONValue
from ..checks import address_problem
from ..models import ToolType
from . import documents
from .found import BadDocument, Found, Listing, Place, bounded, text

CARD = "/.well-known/agent-card.json"
KEY = "agent"  # a card describes one agent


def look(place: Place) -> Listing:
    """
    Raises:
        EgressError: there is no card, or none that can be called.
    """
    path = urlsplit(place.url).path
    url = place.url if path.endswith(".json") else urljoin(place.url, CARD)
    card = documents.fetch(place, url)
    if not isinstance(card, dict) or not text(card.get("name"), 200):
        raise BadDocument("This is no agent card.")
    address, version, tenant = _interface(card)
    return Listing(
        (
            Found(
                key=KEY,
                name=text(card["name"], 200),
                description=text(card.get("description"), 4000),
                tool_type=ToolType.A2A.value,
                configuration={
                    "url": address,
                    "protocolVersion": version,
                    "tenant": tenant,
                    "headers": place.headers_for(address),
                },
                capabilities=tuple(_capabilities(card)),
            ),
        )
    )


def _interface(card: JSONObject) -> tuple[str, str, str]:
    """Address, protocol version and tenant of the first JSON-RPC interface.

    1.0 lists `supportedInterfaces`; 0.3 has one `url`, and others in `additionalInterfaces`.
    """
    offered = [
        (each.get("url"), each.get("protocolBinding"), each.get("protocolVersion"), each.get("tenant"))
        for each in _objects(card.get("supportedInterfaces"))
    ]
    older = text(card.get("protocolVersion"), 20) or "0.3"
    offered.append((card.get("url"), card.get("preferredTransport") or "JSONRPC", older, None))
    offered += [
        (each.get("url"), each.get("transport"), older, None)
        for each in _objects(card.get("additionalInterfaces"))
    ]
    for url, binding, version, tenant in offered:
        if binding == "JSONRPC" and address_problem(url) is None:
            return str(url), "0.3" if text(version, 20).startswith("0.") else "1.0", text(tenant, 200)
    raise BadDocument("The card offers no JSON-RPC interface at an http address.", "no_interface")


def _capabilities(card: JSONObject) -> list[JSONObject]:
    found: dict[str, JSONObject] = {}
    for skill in bounded(card.get("skills") or [], "The skills")[:100]:
        name = text(skill.get("id"), 200)
        if name:
            tags = [text(tag, 100) for tag in _list(skill.get("tags"))]
            described = text(skill.get("description"), 4000)
            found[name] = {"name": name, "description": described, "tags": [tag for tag in tags if tag][:50]}
    return list(found.values())


def _objects(value: JSONValue) -> list[JSONObject]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _list(value: JSONValue) -> list[JSONValue]:
    return value[:200] if isinstance(value, list) else []
