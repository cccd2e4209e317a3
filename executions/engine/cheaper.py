"""Agents that could do a block's work for less than the one that it calls."""

from __future__ import annotations

from agentflow.agents import registry, selection, usage
from agentflow.agents.matching import Requirements
from agentflow.agents.profile import Cost
from agentflow.agents.registry import AgentSpec
from agentflow.agents.selection import Purpose
from agentflow.types import JSONObject
from agentflow.workflow.plan import PlanBlock

from . import daily
from .facts import Facts
from .judging import Claim

MOST = 5  # that a question offers
TOKENS = 1000  # of input and of output, in the call whose price is compared


def candidates(facts: Facts, planned: PlanBlock, claim: Claim, agent_id: str | None) -> list[JSONObject]:
    """The cheapest first, each with its price beside the present one.

    They have the tool type and the capabilities of the present agent, and may be chosen here and now.  None
    may take over what may have had an effect: it would not recognise that.
    """
    now = registry.resolve(facts.workspace_id, agent_id) if agent_id else None
    if now is None or not now.cost.priced or not _untouched(claim):
        return []
    dear = price(now.cost)
    found = []
    for spec in _fit(facts, planned, claim, now):
        cheap = price(spec.cost)
        if spec.cost.priced and spec.cost.currency == now.cost.currency and cheap < dear:
            found.append((cheap, spec))
    return [
        {
            "agentId": spec.agent_id,
            "name": spec.name or spec.agent_id,
            "price": cheap,
            "insteadOf": dear,
            "currency": spec.cost.currency,
        }
        for cheap, spec in sorted(found, key=lambda each: (each[0], each[1].agent_id))[:MOST]
    ]


def price(cost: Cost) -> float:
    """Of one call with so many tokens."""
    return usage.price(cost, calls=1, input_tokens=TOKENS, output_tokens=TOKENS)


def _untouched(claim: Claim) -> bool:
    return claim.effect == "pure" or (claim.attempt <= 1 and claim.effect_seq == 0)


def _fit(facts: Facts, planned: PlanBlock, claim: Claim, now: AgentSpec) -> list[AgentSpec]:
    wanted = planned.block.capabilities or tuple(each.name for each in now.capabilities)
    if not wanted and now.tool_type != "LLM":
        return []  # nothing says that another can do it; a model is told in words
    asked = Requirements(
        capabilities=wanted, tool_type=now.tool_type, effect=None if planned.block.effect else claim.effect
    )
    purpose = Purpose(facts.version.template_id, planned.block_id)
    ranking = selection.choose(facts.workspace_id, asked, purpose=purpose).ranking
    spent = daily.used_up(facts.workspace_id)
    specs = {spec.agent_id: spec for spec in registry.candidates(facts.workspace_id)}
    return [
        specs[each.agent_id]
        for each in ranking.fit
        if each.agent_id != now.agent_id
        and each.agent_id not in spent
        and _takes_over(planned, now, specs[each.agent_id])
    ]


def _takes_over(planned: PlanBlock, now: AgentSpec, other: AgentSpec) -> bool:
    """Whether it goes on with the same tools and takes and gives the same."""
    if (other.input_schema, other.output_schema) != (now.input_schema, now.output_schema):
        return False
    own = planned.block.configuration
    of_now, of_other = (registry.merged_configuration(spec, own).get("tools") for spec in (now, other))
    return bool(of_now == of_other)
