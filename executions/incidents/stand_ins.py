"""Who is called for a block that cannot go on, and who could be called in its place, with their facts."""

from __future__ import annotations

from dataclasses import dataclass

from agentflow.agents import circuit, performance, registry, selection
from agentflow.agents.matching import Requirements
from agentflow.agents.selection import Purpose
from agentflow.types import JSONObject
from agentflow.workflow.plan import PlanBlock
from executions.engine.facts import Facts, as_text, facts_of
from executions.models import BlockAttempt, BlockExecution

MOST = 8


@dataclass(frozen=True, slots=True)
class StandIn:
    """An agent, with how its calls of the last day ended."""

    agent_id: str
    name: str
    called: bool  # it is the one that the block was called with
    successes: int
    failures: int
    mean_ms: float | None
    circuit: str
    input_schema: JSONObject | None


def stand_ins(block: BlockExecution) -> list[StandIn]:
    """The one that was called first, then those that could take over, the best first.

    None whose effect is riskier than the block's; nobody else where it is not known what the first one did.
    """
    facts = facts_of(block.execution_id)
    assert facts is not None  # the block is one of its
    planned = facts.patched(as_text(block.execution.patches)).plan[block.idx]
    if planned.compensates is not None or not (planned.block.agent_id or planned.block.capabilities):
        return []
    called = _called(block, planned)
    unknown = bool((block.error or {}).get("outcomeUnknown")) and block.effect != "pure"
    others = [] if unknown else _others(facts, planned, block, called)
    return _told(facts, [name for name in dict.fromkeys([called, *others]) if name][:MOST], called)


def _called(block: BlockExecution, planned: PlanBlock) -> str:
    last = BlockAttempt.objects.filter(block=block).exclude(agent_id="").order_by("-attempt").first()
    return (last.agent_id if last is not None else "") or planned.block.agent_id or ""


def _others(facts: Facts, planned: PlanBlock, block: BlockExecution, called: str) -> list[str]:
    """Those that the template names, then those with the abilities asked for, or those of `called`."""
    wanted = planned.block.capabilities
    if not wanted and (spec := registry.resolve(facts.workspace_id, called)) is not None:
        wanted = tuple(each.name for each in spec.capabilities)
    asked = Requirements(capabilities=wanted, effect=None if planned.block.effect else block.effect)
    purpose = Purpose(facts.version.template_id, planned.block_id)
    found = selection.choose(facts.workspace_id, asked, purpose=purpose).ranking
    return [*planned.recovery.alternatives, *(each.agent_id for each in found.fit)]


def _told(facts: Facts, names: list[str], called: str) -> list[StandIn]:
    specs = registry.resolve_many(facts.workspace_id, names)
    stats = performance.stats(facts.workspace_id, names)
    states = circuit.states(facts.workspace_id, names)
    return [
        StandIn(
            agent_id=name,
            name=spec.name or name,
            called=name == called,
            successes=stats[name].successes,
            failures=stats[name].failures,
            mean_ms=stats[name].mean_ms,
            circuit=states[name].state,
            input_schema=spec.input_schema,
        )
        for name in names
        if (spec := specs.get(name)) is not None and (spec.enabled or name == called)
    ]
