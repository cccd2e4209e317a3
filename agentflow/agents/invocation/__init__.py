"""Calls one agent, whatever it is, and says in one of four ways what came of it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, cast
from uuid import UUID

from ...integrations import waiting
from ...patience import patiently
from ...types import JSONValue
from ...workflow.classification import of_exception
from ...workflow.failures import Failure, FailureKind
from .. import circuit, registry, secrets, simulator, usage
from ..builtin import BuiltinFailure
from ..calls import CIRCUIT_OPEN, Call, Completed, Failed, Outcome
from ..circuit import CircuitState
from ..injection import inject
from ..models import ToolType
from ..output import BadOutput, check_schema, measured, storable
from ..redaction import Redactor
from ..registry import AgentSpec

log = logging.getLogger(__name__)

Tool = Callable[[Call, AgentSpec | None], Outcome]

# By name, and imported when first called: the MCP and OpenAI libraries cost a worker a second at start.
_TOOLS = {
    ToolType.API.value: "api",
    ToolType.SCRIPT.value: "script",
    ToolType.USE_CASE.value: "usecase",
    ToolType.MCP.value: "mcp",
    ToolType.LLM.value: "llm",
    ToolType.A2A.value: "a2a",
    ToolType.AGENT_SERVICE.value: "agent_service",
}


# A child's failures are its own blocks' agents', and what is built in cannot be away.
_UNMEASURED = frozenset({registry.BUILTIN, ToolType.USE_CASE.value})
_CALLED = (FailureKind.AGENT, FailureKind.TRANSIENT)  # failures of calls that were made
_CRASHED = Failed(Failure(FailureKind.AGENT, "agent_crashed", ""))
_UNTOLD = Failed(Failure(FailureKind.TRANSIENT, "cancelled", ""))  # what says nothing about an agent


def invoke(call: Call) -> Outcome:
    """Call the agent once.  Never raises; blocks until there is an answer, the deadline or a cancel.

    `call.configuration` may be the block's own: the agent's is laid under it here, and only the agent's gets
    its secrets.  They are taken out of all that comes of the call before anybody else sees it.
    """
    redactor = Redactor()
    try:
        if call.simulated is not None:
            script = call.simulated
            return _cleaned(_met(call, lambda call: simulator.simulate(call, script)), None, redactor)
        spec = patiently(lambda _: _spec(call))
        refused = _refusal(call, spec)
        if refused:
            return Failed(refused)
        if spec and spec.input_schema:
            check_schema(
                call.input, spec.input_schema, code="input_schema_mismatch", kind=FailureKind.CONFIGURATION
            )
        if spec and spec.configuration:
            given = spec.configuration
            configuration, redactor = patiently(lambda _: secrets.resolve_secrets(call.workspace_id, given))
            if redactor:
                spec = replace(spec, configuration=configuration)
                call = replace(
                    call,
                    log=_redacting(call.log, redactor),
                    hide=redactor.add,
                    clean=redactor.clean,
                    show=_showing(call.show, redactor),
                )
        if spec is None or spec.tool_type in _UNMEASURED:
            return _cleaned(_met(call, lambda call: _run(call, spec)), spec, redactor)
        return _guarded(call, spec, redactor)
    except (BadOutput, BuiltinFailure) as error:
        return Failed(redactor.clean_failure(storable(error.failure)))
    except Exception as error:  # noqa: BLE001 - a tool's bug is this attempt's failure, never the worker's
        log.error(
            "agent crashed: execution=%s block=%s agent=%s\n%s",
            call.execution_id,
            call.block_id,
            call.agent_id,
            redactor.clean_excerpt(traceback.format_exc()),
        )
        return Failed(
            Failure(
                of_exception(error),
                "agent_crashed",
                f"The agent crashed: {type(error).__name__}.",
                outcome_unknown=True,
            )
        )


def _spec(call: Call) -> AgentSpec | None:
    return registry.resolve(call.workspace_id, call.agent_id) if call.agent_id else None


def _guarded(call: Call, spec: AgentSpec, redactor: Redactor) -> Outcome:
    """Call unless the agent's circuit is open, and tell the circuit how it went."""
    rules = spec.measures.circuit
    shut = circuit.enter(call.workspace_id, spec.agent_id, rules)
    if shut is not None:
        return Failed(_shut(spec.agent_id, shut, rules.patience_seconds))
    began = time.monotonic()
    outcome: Outcome = _CRASHED
    try:
        outcome = _cleaned(_met(call, lambda call: _run(call, spec)), spec, redactor)
        if call.injection is None or call.injection.calls:
            outcome = _paid(outcome, spec)
        return outcome
    except (BadOutput, BuiltinFailure) as error:
        outcome = Failed(error.failure)
        raise
    finally:
        ms = (time.monotonic() - began) * 1000
        stopped = call.cancel.reason not in ("", "timeout")
        told = _UNTOLD if _is_no_fault_of_the_agent(call) else outcome
        circuit.note(call.workspace_id, spec.agent_id, rules, told, ms=ms, cancelled=stopped)


def _met(call: Call, run: Callable[[Call], Outcome]) -> Outcome:
    """The call, with the fault that it meets if it meets one."""
    return run(call) if call.injection is None else inject(call, call.injection, run)


def _is_no_fault_of_the_agent(call: Call) -> bool:
    return call.injection is not None and call.injection.happened and not call.injection.counts


def _shut(agent_id: str, shut: CircuitState, patience_s: float) -> Failure:
    """Nobody was called: the block waits for the circuit as long as its patience lasts."""
    message = f"The circuit of {agent_id!r} is {shut.state.replace('_', '-')}: lately its calls failed."
    return Failure(
        FailureKind.TRANSIENT,
        CIRCUIT_OPEN if shut.down_s < patience_s else "circuit_open_long",
        message,
        retry_after_s=shut.retry_s,
        evidence={"why": shut.why, "openSeconds": round(shut.down_s, 1)},
    )


def called_back(workspace_id: UUID, agent_id: str | None, outcome: Completed | Failed) -> Outcome:
    """What an agent brought later, held to the same rules as what it answers at once."""
    spec = registry.resolve(workspace_id, agent_id) if agent_id else None
    redactor = secrets.redactor(workspace_id, spec.configuration) if spec else Redactor()
    cleaned = _cleaned(outcome, spec, redactor)
    return cleaned if spec is None or spec.tool_type in _UNMEASURED else _paid(cleaned, spec)


def _paid(outcome: Outcome, spec: AgentSpec) -> Outcome:
    """The outcome with what the call costs, where the agent says it and the tool does not."""
    if not isinstance(outcome, Completed | Failed) or outcome.usage is not None:
        return outcome
    if isinstance(outcome, Failed) and outcome.failure.kind not in _CALLED:
        return outcome
    return replace(outcome, usage=usage.of_call(spec.cost))


def _refusal(call: Call, spec: AgentSpec | None) -> Failure | None:
    # One that its source lists no more is still called for what runs: it may be there all the same.
    if call.agent_id and (spec is None or not (spec.enabled or spec.gone_at)):
        state = "switched off" if spec else "not registered in this workspace"
        return Failure(FailureKind.CONFIGURATION, "unknown_agent", f"The agent {call.agent_id!r} is {state}.")
    if spec is None and call.tool_type not in _TOOLS:
        return Failure(
            FailureKind.CONFIGURATION, "unknown_tool", f"There is no tool of type {call.tool_type!r}."
        )
    return None


def _run(call: Call, spec: AgentSpec | None) -> Outcome:
    if spec is not None and spec.tool_type == registry.BUILTIN:
        return Completed(_built_in(registry.builtin_function(spec), call))
    tool_type = spec.tool_type if spec else str(call.tool_type)
    module = import_module(f"{__name__}.{_TOOLS[tool_type]}")
    return cast(Tool, module.run)(call, spec)


def _built_in(function: Callable[..., JSONValue], call: Call) -> JSONValue:
    if not waiting.held():
        return function(call.input, call.configuration)
    with waiting.outside(elsewhere=False):  # nobody knows how long it takes
        return function(call.input, call.configuration)


def _redacting(keep: Callable[[str, str], Any], redactor: Redactor) -> Callable[[str, str], Any]:
    return lambda level, message: keep(level, redactor.clean_excerpt(message))


def _showing(show: Callable[[str], Any], redactor: Redactor) -> Callable[[str], Any]:
    return lambda text: show(redactor.clean_excerpt(text))


def _cleaned(outcome: Outcome, spec: AgentSpec | None, redactor: Redactor) -> Outcome:
    if not isinstance(outcome, Completed | Failed):
        return outcome
    if isinstance(outcome, Failed):
        return Failed(redactor.clean_failure(storable(outcome.failure)), outcome.usage)
    try:
        output, size = measured(outcome.output)
        output = redactor.clean(output)
        if spec and spec.output_schema:
            check_schema(output, spec.output_schema, code="output_schema_mismatch", kind=FailureKind.AGENT)
    except BadOutput as error:
        failure = replace(error.failure, outcome_unknown=True)  # it was done; only the output is of no use
        return Failed(redactor.clean_failure(storable(failure)), outcome.usage)
    return Completed(output, size, outcome.usage)
