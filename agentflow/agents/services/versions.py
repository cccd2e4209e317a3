"""The numbered versions of what calling an agent means."""

from __future__ import annotations

import hashlib
import json

from ...governance.models import User
from ...types import JSONObject
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
