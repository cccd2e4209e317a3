"""What a source lists, in the words of the registry."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ...conf import KB
from ...integrations.egress import EgressError, EgressPolicy
from ...integrations.http_failures import TimedOut
from ...types import JSONObject, JSONValue
from ...workflow.failures import FailureKind
from ..checks import schema_issues

AGENTS_MAX = 500  # of one source
SCHEMA_BYTES = 64 * KB
SECONDS = 20.0  # for one request
LOOK_S = 60.0  # for all requests of one look together


class BadDocument(EgressError):
    """What the source answers is not what it should be."""

    def __init__(self, message: str, code: str = "bad_document") -> None:
        super().__init__(FailureKind.AGENT, code, message[:500])


class SchemaTooLarge(BadDocument):
    """A schema is larger than what the registry keeps."""

    def __init__(self) -> None:
        super().__init__(f"A schema is larger than {SCHEMA_BYTES} bytes.", "schema_too_large")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look, and as whom."""

    url: str = ""
    server: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # as written, for the agents' configurations
    sent: dict[str, str] = field(default_factory=dict)  # the same with their secrets, for the source itself
    configuration: JSONObject = field(default_factory=dict)
    policy: EgressPolicy = field(default_factory=EgressPolicy)
    ends_at: float = field(default_factory=lambda: time.monotonic() + LOOK_S)

    def seconds(self, at_most: float = SECONDS) -> float:
        """For the next request.

        Raises:
            TimedOut: there are none left.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimedOut(LOOK_S, sent=False)
        return min(left, at_most)

    def headers_for(self, url: str) -> dict[str, str]:
        """The headers, where `url` is on the very server that they were given for; else none."""
        return self.headers if origin(url) == origin(self.url) else {}

    def sent_to(self, url: str) -> dict[str, str]:
        return self.sent if origin(url) == origin(self.url) else {}


@dataclass(frozen=True, slots=True)
class Found:
    """One agent as its source describes it; `key` is the source's own name for it."""

    key: str
    name: str
    tool_type: str
    configuration: JSONObject
    description: str = ""
    capabilities: tuple[JSONObject, ...] = ()
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something listed that cannot be an agent."""

    key: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Listing:
    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...] = ()


def origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ("", None, None)
    return (parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme))


def bounded(items: JSONValue, what: str) -> list[JSONObject]:
    """A list of objects, of a size that can be registered.

    Raises:
        BadDocument: it is none, or too long.
    """
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadDocument(f"{what} must be a list of objects.")
    if len(items) > AGENTS_MAX:
        raise BadDocument(f"{what} are {len(items)}; at most {AGENTS_MAX} are taken.", "too_many_agents")
    return items


def text(value: JSONValue, limit: int) -> str:
    """A text from outside for a column of ours: no NUL, not too long, empty where it is none."""
    return value.replace("\x00", "\ufffd")[:limit] if isinstance(value, str) else ""


def schema(value: JSONValue) -> JSONObject | None:
    """A schema that can be kept.

    Raises:
        BadDocument: it is no JSON Schema, or too large.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadDocument("A schema is no object.", "bad_schema")
    if len(json.dumps(value)) > SCHEMA_BYTES:
        raise SchemaTooLarge
    issues = schema_issues("", value)
    if issues:
        raise BadDocument(issues[0]["message"], "bad_schema")
    return value
