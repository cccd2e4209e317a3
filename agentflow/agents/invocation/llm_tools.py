"""The tools that a model may call: agents of the workspace, under the policy of whoever configured it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Literal

from ...conf import LIMITS
from ...integrations.llm import Wanted
from ...types import JSONObject, JSONValue
from ...workflow import json_schema
from ...workflow.failures import Failure, FailureKind
from .. import registry
from ..calls import (
    AskTool,
    AwaitAgent,
    AwaitBudget,
    AwaitChild,
    Call,
    Completed,
    Failed,
    Postponed,
    StartChild,
)
from ..journal import Journal
from ..llm_configuration import LLMConfiguration, ToolUse, unusable
from ..models import Effect, ToolType
from ..registry import AgentSpec
from .llm_models import bad

RESULT_CHARS = 16_000  # of one result, in what the model is told
_ANY_OBJECT: JSONObject = {"type": "object"}

Policy = Literal["allow", "ask", "deny"]
Waits = AskTool | Postponed | AwaitAgent | AwaitChild | AwaitBudget  # until then the block holds no worker


@dataclass(frozen=True, slots=True)
class Tool:
    name: str  # as the model calls it
    agent_id: str
    description: str
    schema: JSONObject  # of its arguments
    effect: str
    policy: Policy
    in_steps: bool  # it has tools of its own, and its steps are in the journal, too

    @property
    def offered(self) -> JSONObject:
        """As the OpenAI API describes a tool."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}


class Unfit(Exception):
    """What the model asks for cannot be called."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def tools(call: Call, parts: LLMConfiguration) -> dict[str, Tool]:
    """By the names that the model knows.

    Raises:
        BuiltinFailure: one of them is not there, or cannot be a tool.
    """
    return {use.called: _tool(call, use) for use in parts.tools}


def _tool(call: Call, use: ToolUse) -> Tool:
    spec = registry.resolve(call.workspace_id, use.agent_id)
    if spec is None or not spec.enabled:
        raise bad(
            f"configuration.tools: {use.agent_id!r} is no agent of the workspace, or it is switched off."
        )
    if problem := unusable(spec.tool_type, spec.configuration):
        raise bad(f"configuration.tools: {use.agent_id!r} {problem}")
    effect = registry.effect(spec, tool_type=None, configuration={})
    starts = spec.tool_type == ToolType.USE_CASE
    in_steps = spec.tool_type == ToolType.LLM and bool(spec.configuration.get("tools"))
    if in_steps and (problem := _too_far((*call.within, call.agent_id or ""), use.agent_id)):
        raise bad(f"configuration.tools: {problem}")
    # Nobody knows what a sub-workflow does unless its agent says so; it is started once for each step.
    usual: Policy = "allow" if effect == Effect.PURE and (spec.effect or not starts) else "ask"
    return Tool(
        name=use.called,
        agent_id=use.agent_id,
        description=use.description or spec.description or spec.name or use.agent_id,
        schema=_schema(spec),
        effect=Effect.PURE if starts or in_steps else effect,
        policy=use.policy or usual,
        in_steps=in_steps,
    )


def _too_far(above: tuple[str, ...], agent_id: str) -> str:
    """Why an agent with tools is not called from here.  Whoever registers and publishes is told before."""
    if agent_id in above:
        return f"{' calls '.join((*above[above.index(agent_id) :], agent_id))}, which is at work already."
    if len(above) >= LIMITS.agent_depth:
        return f"{agent_id!r} would be an agent with tools more than {LIMITS.agent_depth} deep."
    return ""


def _schema(spec: AgentSpec) -> JSONObject:
    """Of its input, or of the one capability that says it; a model's arguments are always an object."""
    said = [capability.input_schema for capability in spec.capabilities if capability.input_schema]
    schema = spec.input_schema or (said[0] if len(said) == 1 else None) or _ANY_OBJECT
    return schema if schema.get("type", "object") == "object" else _ANY_OBJECT


def arguments_of(wanted: Wanted, tool: Tool) -> JSONObject:
    """What the model wants to call the tool with.

    Raises:
        Unfit: no object, or it does not fit the tool's schema.
    """
    try:
        given = json.loads(wanted.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise Unfit("bad_arguments", f"The arguments are not JSON: {error}"[:300]) from error
    return fitting(given, tool)


def fitting(given: JSONValue, tool: Tool) -> JSONObject:
    """
    Raises:
        Unfit: it does not fit the tool's schema.
    """
    if not isinstance(given, dict):
        raise Unfit("bad_arguments", "The arguments must be an object.")
    try:
        found = json_schema.issues(given, tool.schema)
    except json_schema.UnusableSchema as error:
        raise Unfit("bad_schema", "The tool's schema cannot be used.") from error
    if found:
        said = "; ".join(f"{each['pointer'] or 'the arguments'}: {each['message']}" for each in found[:5])
        raise Unfit("bad_arguments", said[:1000])
    return given


def invoke(
    call: Call, tool: Tool, arguments: JSONObject, key: str, journal: Journal, *, deadline: float
) -> Completed | Failed | StartChild | Waits:
    """Call the tool's agent once, like any other; `journal` is for its steps, if it works in several."""
    from . import invoke as invoke_agent

    outcome = invoke_agent(
        Call(
            workspace_id=call.workspace_id,
            execution_id=call.execution_id,
            block_id=call.block_id,
            attempt=call.attempt,
            agent_id=tool.agent_id,
            tool_type=None,
            configuration={},
            input=arguments,
            timeout_s=max(deadline - time.monotonic(), 0.001),
            idempotency_key=key,
            effect=tool.effect,
            cancel=call.cancel,
            log=call.log,
            within=(*call.within, call.agent_id or ""),
            journal=lambda: journal,
        )
    )
    if isinstance(outcome, Completed | Failed | StartChild | Waits):
        return outcome
    message = f"{tool.agent_id} answers later, and a tool's answer is needed at once."
    return Failed(Failure(FailureKind.CONFIGURATION, "tool_answers_later", message, outcome_unknown=True))


def question(
    tool: Tool, arguments: JSONObject, *, step: int, request_hash: str, unknown: Failure | None = None
) -> AskTool:
    return AskTool(
        step=step,
        agent_id=tool.agent_id,
        description=tool.description,
        arguments=arguments,
        schema=tool.schema,
        request_hash=request_hash,
        unknown=unknown,
    )


def told(value: JSONValue) -> str:
    """A result as the model gets it: data in one JSON object, cut where it is long."""
    text = json.dumps({"result": value}, ensure_ascii=False)
    if len(text) <= RESULT_CHARS:
        return text
    cut = text[:RESULT_CHARS]
    return json.dumps({"partOfResult": cut, "charactersLeftOut": len(text) - len(cut)}, ensure_ascii=False)


def told_error(code: str, message: str) -> str:
    return json.dumps({"error": {"code": code, "message": message[:2000]}}, ensure_ascii=False)
