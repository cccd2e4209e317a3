"""Whom a block would call, as the rules have it: for those who are asked whether it may."""

from __future__ import annotations

from uuid import UUID

from agentflow.agents import registry, selection
from agentflow.agents.matching import Requirements
from agentflow.agents.models import ToolType
from agentflow.agents.registry import AgentSpec
from agentflow.agents.selection import Purpose
from agentflow.types import JSONObject
from agentflow.workflow.plan import PlanBlock

from .facts import Facts

NAMES = 20  # of agents that could be chosen, before the rest is a number
ONE_OF = "one of: "
PREFERRED = ", preferred"


def called(facts: Facts, planned: PlanBlock) -> str:
    """In words that change with the agent: another is pinned, banned or preferred, or it has a new version,
    or the script that it runs has one.

    What is only so for now (load, health, circuits) changes nothing.  Empty: nobody who could be swapped.
    """
    block = planned.block
    if facts.simulation is not None or planned.noop:
        return ""
    if not planned.chosen:
        spec = registry.resolve(facts.workspace_id, block.agent_id) if block.agent_id else None
        if spec is None or spec.tool_type == registry.BUILTIN:
            return ""
        return _named(facts.workspace_id, spec, dict(block.configuration or {}))
    asked = Requirements(capabilities=block.capabilities, tool_type=block.tool_type, effect=block.effect)
    purpose = Purpose(facts.version.template_id, planned.block_id)
    able = selection.allowed(facts.workspace_id, asked, purpose=purpose)
    preferred = selection.preferred(facts.workspace_id, purpose)
    own = dict(block.configuration or {})
    names = [
        _named(facts.workspace_id, spec, own) + (PREFERRED if spec.agent_id in preferred else "")
        for spec in able[:NAMES]
    ]
    if len(able) > NAMES:
        names.append(f"{len(able) - NAMES} more")
    return ONE_OF + ", ".join(names)


def _named(workspace_id: UUID, spec: AgentSpec, own: JSONObject) -> str:
    if spec.tool_type == registry.BUILTIN:
        return spec.agent_id
    said = f"version {spec.version}"
    if spec.tool_type == ToolType.SCRIPT:
        name, number = (
            registry.merged_configuration(spec, own).get("script"),
            spec.configuration.get("version"),
        )
        known = registry.script(workspace_id, name, number) if isinstance(name, str) else None
        if known is not None:
            said += f", script {known.name} version {known.version}"
    return f"{spec.agent_id} ({said})"
