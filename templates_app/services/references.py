"""What a definition names outside itself: agents, approval levels, other templates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from agentflow.agents import llm_configuration, tool_graph
from agentflow.agents.models import ToolType
from agentflow.agents.registry import AgentSpec, merged_configuration
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import Block, Compensation, Definition, HumanInLoop
from agentflow.workflow.issues import pointer

from ..models import TemplateVersion

ANYONE = "user"  # the level every approver of the workspace is on


class Call(NamedTuple):
    """A block's own words about whom it calls.  Whether it runs a template depends on the agent, too."""

    agent_id: str | None
    template_id: JSONValue
    version: JSONValue


class Target(NamedTuple):
    """A template to run as a child: its newest published version, or the one named."""

    template_id: UUID
    number: int | None


class Pinned(NamedTuple):
    """A version that calls lead to; `newest`: also those that name no version."""

    version_id: int
    newest: bool


@dataclass(frozen=True, slots=True)
class BadTarget:
    """A UseCase block that does not say which template it runs."""

    message: str


def agents(definition: Definition) -> Iterator[tuple[str, str]]:
    """Each agent named, with the pointer of the place."""
    for index, block in enumerate(definition.blocks):
        if block.agent_id is not None:
            yield block.agent_id, pointer("blocks", index, "agentId")
        for place, agent_id in enumerate(_alternatives(block)):
            yield agent_id, pointer("blocks", index, "recovery", "alternatives", place)
        if block.compensation is not None and block.compensation.agent_id is not None:
            yield block.compensation.agent_id, pointer("blocks", index, "compensation", "agentId")


def _alternatives(block: Block) -> tuple[str, ...]:
    return block.recovery.alternatives if block.recovery is not None else ()


def levels(definition: Definition) -> Iterator[tuple[str, str]]:
    """Each approval level named beside `user`, with the pointer of the place."""
    defaults = definition.global_settings.human_in_loop_defaults
    if defaults is not None:
        yield from _levels(defaults, ("globalSettings", "humanInLoopDefaults"))
    for index, block in enumerate(definition.blocks):
        asked = block.human_in_loop
        if asked is not None and asked.required:
            yield from _levels(asked, ("blocks", index, "humanInLoop"))


def _levels(asked: HumanInLoop, path: tuple[str | int, ...]) -> Iterator[tuple[str, str]]:
    if asked.approval_level != ANYONE:
        yield asked.approval_level, pointer(*path, "approvalLevel")
    for place, level in enumerate(asked.levels):
        if level.level != ANYONE:
            yield level.level, pointer(*path, "levels", place, "level")


def call(block: Block | Compensation) -> Call | None:
    if block.agent_id is None and block.tool_type != ToolType.USE_CASE.value:
        return None
    return Call(block.agent_id, block.configuration.get("templateId"), block.configuration.get("version"))


def callers(definition: Definition) -> Iterator[tuple[Block | Compensation, tuple[str | int, ...]]]:
    """All that may call a template, blocks and compensations, each with its path."""
    for index, block in enumerate(definition.blocks):
        yield block, ("blocks", index)
        if block.compensation is not None:
            yield block.compensation, ("blocks", index, "compensation")


def calls(definition: Definition) -> list[Call]:
    """What the blocks and their compensations call, the tools that they name, and who may take over; once."""
    found = [call(each) for each, _ in callers(definition)]
    found += [Call(agent_id, None, None) for block in definition.blocks for agent_id in _alternatives(block)]
    found += [tool for each, _ in callers(definition) for tool in _tools(each.configuration)]
    unique = {repr(each): each for each in found if each is not None}
    return list(unique.values())


def _tools(configuration: JSONObject) -> list[Call]:
    return [Call(agent_id, None, None) for agent_id in llm_configuration.tool_agents(configuration)]


def target(call: Call, agents: Mapping[str, AgentSpec]) -> Target | BadTarget | None:
    """The template that a call runs; None where it runs none, or an agent that is not there."""
    spec = agents.get(call.agent_id) if call.agent_id is not None else None
    if call.agent_id is not None and (spec is None or spec.tool_type != ToolType.USE_CASE.value):
        return None
    own = {"templateId": call.template_id, "version": call.version}
    merged = merged_configuration(spec, {key: value for key, value in own.items() if value is not None})
    given, number = merged.get("templateId"), merged.get("version")
    try:
        template_id = UUID(given) if isinstance(given, str) else None
    except ValueError:
        template_id = None
    if template_id is None:
        return BadTarget("configuration.templateId must be the id of a template.")
    if number is not None and (type(number) is not int or number < 1):
        return BadTarget("configuration.version must be a version number from 1.")
    return Target(template_id, number)


def calls_of(version: TemplateVersion) -> list[Call]:
    """What a version's row says of its calls."""
    return [Call(*call) for call in version.calls]


def agents_of(version: TemplateVersion) -> dict[str, AgentSpec]:
    """The agents that a version names, those of compensations and tools too; a query for each level."""
    return known_to(calls_of(version), version.template.workspace_id)


def known_to(calls: Iterable[Call], workspace_id: UUID) -> dict[str, AgentSpec]:
    """The agents that are called, with those that LLM agents among them lead to as tools."""
    return tool_graph.reached(workspace_id, (call.agent_id for call in calls if call.agent_id is not None))


def targets(calls: Iterable[Call], agents: Mapping[str, AgentSpec]) -> set[Target]:
    called = [each for call in calls for each in (call, *_tools_below(call.agent_id, agents))]
    found = (target(each, agents) for each in called)
    return {each for each in found if isinstance(each, Target)}


def _tools_below(agent_id: str | None, agents: Mapping[str, AgentSpec]) -> list[Call]:
    if agent_id is None or not tool_graph.tools_of(agents.get(agent_id)):
        return []
    return [Call(tool, None, None) for tool in tool_graph.below(agent_id, agents) if tool != agent_id]
