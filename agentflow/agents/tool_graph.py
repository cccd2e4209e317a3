"""Which agents lead to which as tools, at whatever depth: LLM agents may call LLM agents that have tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from ..conf import LIMITS
from . import registry
from .llm_configuration import tool_agents
from .models import ToolType
from .registry import AgentSpec


def tools_of(spec: AgentSpec | None) -> list[str]:
    """The agents that an LLM agent may call."""
    return tool_agents(spec.configuration) if spec is not None and spec.tool_type == ToolType.LLM else []


def reached(workspace_id: UUID, agent_ids: Iterable[str]) -> dict[str, AgentSpec]:
    """These agents and all that they lead to; a query for each level of tools."""
    found: dict[str, AgentSpec] = {}
    looked: set[str] = set()
    next_ = {agent_id for agent_id in agent_ids if agent_id}
    for _ in range(LIMITS.agent_depth + 1):  # what stands deeper is not called
        if not next_:
            break
        looked |= next_
        level = registry.resolve_many(workspace_id, next_)
        found |= level
        next_ = {tool for spec in level.values() for tool in tools_of(spec)} - looked
    return found


def below(agent_id: str, known: Mapping[str, AgentSpec]) -> Iterator[str]:
    """All agents that one leads to, each once, itself first."""
    seen, left = {agent_id}, [agent_id]
    while left:
        found = left.pop()
        yield found
        more = [tool for tool in tools_of(known.get(found)) if tool not in seen]
        seen.update(more)
        left += more


def problem(tools: Iterable[str], known: Mapping[str, AgentSpec], *, of: str = "") -> tuple[str, str] | None:
    """Code and words for tools that lead back to themselves, or to `of` whose they are, or too deep."""
    height: dict[str, int] = {}
    for tool in tools:
        loop = _climb(tool, known, [of] if of else [], height)
        if loop:
            words = f"{' calls '.join(loop)}, which is at work already."
            return "tool_cycle", words
        if height[tool] >= LIMITS.agent_depth:  # the one whose tool it is counts, too
            return "tools_too_deep", f"Agents with tools call each other more than {LIMITS.agent_depth} deep."
    return None


def _climb(
    agent_id: str, known: Mapping[str, AgentSpec], above: list[str], height: dict[str, int]
) -> list[str]:
    """Note how many agents with tools stand on one another below; the loop, if there is one."""
    if agent_id in above:
        return [*above[above.index(agent_id) :], agent_id]
    if agent_id in height:
        return []
    tools = tools_of(known.get(agent_id))
    if not tools:
        height[agent_id] = 0
        return []
    if len(above) > 2 * LIMITS.agent_depth:  # deeper than anybody looks
        height[agent_id] = LIMITS.agent_depth
        return []
    for tool in tools:
        loop = _climb(tool, known, [*above, agent_id], height)
        if loop:
            return loop
    height[agent_id] = 1 + max(height[tool] for tool in tools)
    return []
