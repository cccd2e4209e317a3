"""Looks at a source and says which agents are there.  Reads and writes no row.

What a source says is not trusted: it is bounded, held against the rules for agents, and never gives a
credential to another server than the one it was meant for.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from ...workflow import secret_references
from ..models import SourceKind
from .found import BadDocument, Found, Listing, Place, Skipped, origin

__all__ = ["BadDocument", "Found", "Listing", "Place", "Skipped", "look", "origin"]

# Imported when first used: the MCP library costs a second.
_MODULES = {
    SourceKind.MCP.value: "mcp",
    SourceKind.A2A.value: "a2a",
    SourceKind.OPENAPI.value: "openapi",
    SourceKind.AGENT_SERVICE.value: "agent_service",
}


def look(kind: str, place: Place) -> Listing:
    """Everything the source lists just now.

    Raises:
        EgressError: it cannot be reached, or what it says cannot be understood (`BadDocument`).
    """
    module = import_module(f"{__name__}.{_MODULES[kind]}")
    listing = cast(Listing, module.look(place))
    sly = [found for found in listing.found if _refers_to_secrets(found)]
    if not sly:
        return listing
    refused = [
        Skipped(found.key, "secret_not_allowed", "A source may not refer to secrets.") for found in sly
    ]
    honest = tuple(found for found in listing.found if found not in sly)
    return Listing(honest, (*listing.skipped, *refused))


def _refers_to_secrets(found: Found) -> bool:
    """In other places than the operator's own headers: it would be given the workspace's secrets."""
    said = {name: value for name, value in found.configuration.items() if name != "headers"}
    return any(True for _ in secret_references.places(said))
