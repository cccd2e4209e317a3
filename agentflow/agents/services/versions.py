"""The numbered versions of what calling an agent means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...governance.models import User
from ...types import JSONObject, JSONValue
from .. import configuration as configurations
from ..models import Agent, AgentVersion


def content(agent: Agent) -> JSONObject:
    """What makes another version when it changes."""
    return {
        "toolType": str(agent.tool_type),
        "configuration": agent.configuration,
        "effect": agent.effect,
        "inputSchema": agent.input_schema,
        "outputSchema": agent.output_schema,
    }


def sha256(value: JSONObject) -> str:
    """Over canonical JSON: equal values have equal hashes, however they were written."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def keep(agent: Agent, *, by: User | None) -> None:
    """Write down the agent's present version, if that was not done yet; its row is locked or new."""
    shown = configurations.hidden(agent.configuration)
    AgentVersion.objects.get_or_create(
        agent=agent,
        number=agent.version,
        defaults={
            # A hash over secrets would let short ones be guessed.
            "sha256": sha256({**content(agent), "configuration": shown}),
            "tool_type": agent.tool_type,
            "configuration": shown,
            "effect": agent.effect,
            "input_schema": agent.input_schema,
            "output_schema": agent.output_schema,
            "created_by": by,
        },
    )


ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that two versions say differently; `ABSENT` where one does not say it."""

    path: str  # configuration.headers.Accept
    before: JSONValue
    after: JSONValue


def differences(before: AgentVersion, after: AgentVersion) -> list[Difference]:
    """What changed from one version to another, in the order of the paths; hidden values are equal."""
    old, new = (dict(_leaves("", content_of(version))) for version in (before, after))
    return [
        Difference(path, old.get(path, ABSENT), new.get(path, ABSENT))
        for path in sorted(old.keys() | new.keys())
        if old.get(path, ABSENT) != new.get(path, ABSENT)
    ]


def content_of(version: AgentVersion) -> JSONObject:
    return {
        "toolType": str(version.tool_type),
        "configuration": version.configuration,
        "effect": version.effect,
        "inputSchema": version.input_schema,
        "outputSchema": version.output_schema,
    }


def _leaves(path: str, value: JSONValue) -> Iterator[tuple[str, JSONValue]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, item)
    else:
        yield path, value
