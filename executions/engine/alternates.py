"""The agents that a block names: its own, and those that may take over from it."""

from __future__ import annotations

from agentflow.agents import circuit, registry
from agentflow.agents.registry import AgentSpec
from agentflow.workflow.plan import PlanBlock
from executions.recovery import settings

from .facts import Facts
from .judging import Claim

_RISK = {"pure": 0, "keyed": 1, "once": 2}


def callable_now(facts: Facts, planned: PlanBlock, effect: str) -> list[str]:
    """Those that are switched on and let calls through, in the author's order.

    None whose effect is riskier than what was fixed for the block at the start.  In a simulation all are
    there, registered or not.
    """
    named = [name for name in (planned.block.agent_id, *planned.recovery.alternatives) if name]
    if facts.simulation is not None:
        return named
    specs = registry.resolve_many(facts.workspace_id, set(named))
    states = circuit.states(facts.workspace_id, named)
    return [
        name
        for name in named
        if (spec := specs.get(name)) is not None
        and spec.enabled
        and states[name].lets_through
        and (name == planned.block.agent_id or _risk(spec, planned) <= _RISK[effect])
    ]


def may_queue(facts: Facts, planned: PlanBlock, claim: Claim) -> bool:
    """Whether the block waits where the agent that it names is not available.

    What the workspace says is looked at only after a failure.
    """
    if planned.block.agent_id is None:
        return False
    if claim.attempt > 1:
        return queues(facts, planned)
    return planned.queues


def queues(facts: Facts, planned: PlanBlock) -> bool:
    return planned.block.agent_id is not None and settings.recovery_of(facts.workspace_id, planned).queues


def _risk(spec: AgentSpec, planned: PlanBlock) -> int:
    block = planned.block
    effect = registry.effect(
        spec, tool_type=spec.tool_type, configuration=block.configuration, declared=block.effect
    )
    return _RISK[effect]
