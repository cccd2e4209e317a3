"""Gives calls the secrets that their agent's configuration refers to, and what takes them out again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from ..governance import vault
from ..governance.models import Secret
from ..types import JSONObject, JSONValue
from ..workflow import secret_references
from ..workflow.failures import Failure, FailureKind
from .builtin import BuiltinFailure
from .redaction import Redactor

log = logging.getLogger(__name__)

SECONDS_CACHED = 2.0
# Where an agent's configuration may refer to secrets, by tool type.  Elsewhere a reference stays text.
PLACES: Mapping[str, tuple[str, ...]] = {
    "API": ("url", "headers", "query", "body", "auth"),
    "Script": ("environment",),
    "MCP": ("headers", "arguments"),
    "LLM": ("apiKey", "fallbacks"),
    "A2A": ("headers",),
    "AgentService": ("headers",),
}
_ANYWHERE = frozenset(place for places in PLACES.values() for place in places)


class NoSuchSecret(BuiltinFailure):
    """The workspace has no secret of that name, or none that can be opened."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(Failure(FailureKind.CONFIGURATION, "unknown_secret", f"The secret {name!r} {why}."))


class UnusableSecret(BuiltinFailure):
    """The secret cannot stand where the configuration puts it."""

    def __init__(self, name: str) -> None:
        message = f"The secret {name!r} has braces in it, which stand for the input in configuration.query."
        super().__init__(Failure(FailureKind.CONFIGURATION, "unusable_secret", message))


@dataclass(frozen=True, slots=True)
class _Held:
    value: str | None  # None: it is there, and no key opens it
    before: str | None


_lock = threading.Lock()
_held: dict[tuple[UUID, frozenset[str]], tuple[float, dict[str, _Held]]] = {}


def forget() -> None:
    with _lock:
        _held.clear()


def resolve_secrets(workspace_id: UUID, configuration: JSONObject) -> tuple[JSONObject, Redactor]:
    """An agent's configuration as a call needs it, and what takes its secrets out of what the call brings.

    Raises:
        NoSuchSecret: names it.
    """
    places = {key: value for key, value in configuration.items() if key in _ANYWHERE}
    names = secret_references.names(places)
    if not names:
        return configuration, Redactor()
    known = _load(workspace_id, names)

    def secret(name: str) -> str:
        if name not in known:
            raise NoSuchSecret(name, "is not set in this workspace")
        value = known[name].value
        if value is None:
            raise NoSuchSecret(name, "cannot be opened: no key of AGENTFLOW_SECRET_KEYS fits")
        return value

    def without_braces(name: str) -> str:
        value = secret(name)
        if "{" in value or "}" in value:
            raise UnusableSecret(name)
        return value

    def given(key: str, value: JSONValue) -> JSONValue:
        if key == "url":  # part of a path or a query, and never a placeholder
            return secret_references.replaced(value, lambda name: quote(secret(name), safe=""))
        if key == "query":
            return secret_references.replaced(value, without_braces)
        return secret_references.replaced(value, secret)

    resolved = {key: given(key, value) for key, value in places.items()}
    return {**configuration, **resolved}, _redactor(known)


def redactor(workspace_id: UUID, configuration: JSONObject) -> Redactor:
    """For what arrives when the call itself is over."""
    places = {key: value for key, value in configuration.items() if key in _ANYWHERE}
    names = secret_references.names(places)
    return _redactor(_load(workspace_id, names)) if names else Redactor()


def _redactor(known: Mapping[str, _Held]) -> Redactor:
    return Redactor(text for held in known.values() for text in (held.value, held.before) if text)


def _load(workspace_id: UUID, names: frozenset[str]) -> dict[str, _Held]:
    now = time.monotonic()
    found = _held.get((workspace_id, names))
    if found and found[0] > now:
        return found[1]
    rows = Secret.objects.filter(workspace_id=workspace_id, name__in=names)
    known = {
        name: _Held(_opened(workspace_id, name, sealed), _opened(workspace_id, name, before))
        for name, sealed, before in rows.values_list("name", "sealed", "sealed_before")
    }
    with _lock:
        for key in [key for key, (until, _) in _held.items() if until <= now]:
            del _held[key]
        _held[workspace_id, names] = (now + SECONDS_CACHED, known)
    return known


def _opened(workspace_id: UUID, name: str, sealed: str) -> str | None:
    if not sealed:
        return None
    try:
        return vault.opened(sealed, workspace_id=workspace_id, name=name)
    except vault.CannotOpen:
        log.error("secret cannot be opened: workspace=%s name=%s", workspace_id, name)
        return None
