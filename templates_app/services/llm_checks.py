"""What blocks say of models, tools and limits, held against what the workspace has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from pydantic import ValidationError

from agentflow.agents import llm_configuration, registry, tool_graph
from agentflow.agents.models import ToolType
from agentflow.agents.registry import AgentSpec
from agentflow.workflow.definition import Block, Definition
from agentflow.workflow.issues import pointer
from agentflow.workflow.validation import Issue


def issues(definition: Definition, specs: Mapping[str, AgentSpec], workspace_id: UUID) -> list[Issue]:
    """No query for a definition whose LLM blocks name no tools."""
    found: list[Issue] = []
    named: dict[str, list[str]] = {}  # agents that are tools, and where they are named
    for index, block in enumerate(definition.blocks):
        spec = specs.get(block.agent_id) if block.agent_id else None
        if (spec.tool_type if spec else block.tool_type) != ToolType.LLM:
            continue
        wrong = list(llm_configuration.issues(block.configuration))
        at = pointer("blocks", index, "configuration")
        found += [Issue("error", code, at + where, said, remedy) for where, code, said, remedy in wrong]
        for agent_id, where in () if wrong else _tools(index, block, spec):
            named.setdefault(agent_id, []).append(where)
    known = tool_graph.reached(workspace_id, named) if named else {}
    return [*found, *(issue for agent_id in named for issue in _of_tool(agent_id, named[agent_id], known))]


def _tools(index: int, block: Block, spec: AgentSpec | None) -> Iterator[tuple[str, str]]:
    merged = registry.merged_configuration(spec, block.configuration)
    if not merged.get("tools"):
        return
    try:
        tools = llm_configuration.read(merged).tools
    except ValidationError:
        return  # the agent's own, which whoever registers it is told
    of_agent = spec is not None and "tools" in spec.configuration
    for number, tool in enumerate(tools):
        path = ("agentId",) if of_agent else ("configuration", "tools", number)
        yield tool.agent_id, pointer("blocks", index, *path)


def _of_tool(agent_id: str, places: list[str], known: Mapping[str, AgentSpec]) -> Iterator[Issue]:
    spec = known.get(agent_id)
    if spec is None or not spec.enabled:
        state = "is switched off" if spec else "is not registered in this workspace"
        said = f"The tool {agent_id!r} {state}."
        remedy = "Register it or switch it on, or take it from the tools."
        code = "unknown_tool_agent"
    elif problem := llm_configuration.unusable(spec.tool_type, spec.configuration):
        said, remedy, code = f"The tool {agent_id!r} {problem}", llm_configuration.WRAP, "unusable_tool"
    elif wrong := _below(agent_id, known):
        code, said = wrong
        remedy = "Change the tools of one of these agents."
    else:
        return
    for where in places:
        yield Issue("start", code, where, said, remedy)


def _below(agent_id: str, known: Mapping[str, AgentSpec]) -> tuple[str, str] | None:
    """What is wrong with the tools of a tool: code and words."""
    if wrong := tool_graph.problem([agent_id], known):
        return wrong
    for each in tool_graph.below(agent_id, known):
        spec = known.get(each)
        if spec is None or not spec.enabled:
            state = "is switched off" if spec else "is not registered in this workspace"
            return "unknown_tool_agent", f"The tool {agent_id!r} leads to {each!r}, which {state}."
        if problem := llm_configuration.unusable(spec.tool_type, spec.configuration):
            return "unusable_tool", f"The tool {agent_id!r} leads to {each!r}, which {problem}"
    return None
