"""Whom a block would call, as the rules have it: for those who are asked whether it may."""

from __future__ import annotations

from agentflow.agents import registry, selection
from agentflow.agents.matching import Requirements
from agentflow.agents.registry import AgentSpec
from agentflow.agents.selection import Purpose
from agentflow.workflow.plan import PlanBlock

from .facts import Facts

NAMES = 20  # of agents that could be chosen, before the rest is a number
ONE_OF = "one of: "


def called(facts: Facts, planned: PlanBlock) -> str:
    """In words that change with the agent: another is pinned or banned, or it has a new version.

    What is only so for now (load, health, circuits) changes nothing.  Empty: nobody who could be swapped.
    """
    block = planned.block
    if facts.simulation is not None or planned.noop:
        return ""
    if not planned.chosen:
        spec = registry.resolve(facts.workspace_id, block.agent_id) if block.agent_id else None
        return "" if spec is None or spec.tool_type == registry.BUILTIN else _named(spec)
    asked = Requirements(capabilities=block.capabilities, tool_type=block.tool_type, effect=block.effect)
    purpose = Purpose(facts.version.template_id, planned.block_id)
    able = selection.allowed(facts.workspace_id, asked, purpose=purpose)
    names = [_named(spec) for spec in able[:NAMES]]
    if len(able) > NAMES:
        names.append(f"{len(able) - NAMES} more")
    return ONE_OF + ", ".join(names)


def _named(spec: AgentSpec) -> str:
    builtin = spec.tool_type == registry.BUILTIN
    return spec.agent_id if builtin else f"{spec.agent_id} (version {spec.version})"
