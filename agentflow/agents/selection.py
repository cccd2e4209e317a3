"""Choosing an agent for a call: gathers what is known of all agents of a workspace, and lets `matching` rank.

choice = choose(workspace_id, Requirements(capabilities=("invoice.extract",)), block=("b1", template_id))
choice.ranking.best
choice.receipt("agent-7")     # to be stored with the attempt
"""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from django.contrib.postgres.search import SearchQuery, SearchRank, SearchVector
from django.db.models import TextField
from django.db.models.functions import Cast

from ..types import JSONObject
from . import circuit, performance, policies, registry
from .circuit import CircuitState
from .matching import Candidate, Measured, Ranking, Requirements, Rule, Skill, rank, words
from .models import Agent
from .performance import AgentStats
from .registry import AgentSpec

USUAL = Rule()
ENOUGH = 10  # calls at a capability say more than all calls


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an agent is, of all workers together."""

    held: int = 0
    waiting: int = 0
    rate_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Purpose:
    """What an agent is wanted for, as policies name it."""

    template_id: UUID | None = None
    block_id: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    ranking: Ranking
    asked: Requirements
    seed: str = ""  # of the exploration, where the workspace wants it

    def receipt(self, chosen: str) -> JSONObject:
        """What is stored with the attempt: whom it went to, whom it would have been else, and why."""
        others = [each.agent_id for each in self.ranking.fit if each.agent_id != chosen]
        return {
            "asked": self.asked.as_json(),
            "chosen": chosen,
            "runnerUp": others[0] if others else None,
            **({"seed": self.seed} if self.seed else {}),
            **self.ranking.as_json(),
        }


def choose(
    workspace_id: UUID,
    asked: Requirements,
    *,
    purpose: Purpose = Purpose(),
    load: Mapping[str, Load] | None = None,
    exclude: Collection[str] = (),
    only: str | None = None,
    seed: str = "",
    rule: Rule = USUAL,
    lexical: Mapping[str, float] | None = None,
    meaning: Mapping[str, float] | None = None,
) -> Choice:
    """Rank the workspace's agents.  `only` binds the choice to one agent; `exclude` passes some over.

    Where passing over leaves nobody, those are taken again.  A bounded number of queries, most of them
    answered by what this process has read in the last two seconds.
    """
    candidates = _candidates(workspace_id)
    rules = policies.of(workspace_id)
    ruled = rules.for_purpose(purpose.template_id, purpose.block_id)
    if only is not None:
        ruled = replace(ruled, pinned=frozenset({only}))
    if rules.environment and not asked.environment:
        asked = replace(asked, environment=rules.environment)
    seen = _measured(workspace_id, candidates, asked, load or {})
    draws = random.Random(seed) if rules.explore and seed else None
    ranked = partial(rank, asked, candidates, measured=seen, policies=ruled, rule=rule, uniform=draws)
    ranked = partial(ranked, lexical=lexical, meaning=meaning)
    found = ranked(exclude=exclude)
    if not found.fit and exclude:
        found = ranked()
    return Choice(found, asked, seed if draws else "")


def lexical_fit(workspace_id: UUID, text: str) -> dict[str, float]:
    """How well agents' names, descriptions and capabilities match a text, the best as 1; in PostgreSQL."""
    said = SearchVector(
        "agent_id", "name", "description", Cast("capabilities", TextField()), config="english"
    )
    terms = SearchQuery(" or ".join(sorted(words(text))[:50]), search_type="websearch", config="english")
    rows = (
        Agent.objects.filter(workspace_id=workspace_id)
        .annotate(said=said)
        .filter(said=terms)
        .annotate(fit=SearchRank("said", terms))
        .values_list("agent_id", "fit")
    )
    found = dict(rows)
    best = max(found.values(), default=0.0)
    return {agent_id: fit / best if best else 1.0 for agent_id, fit in found.items()}


def available(workspace_id: UUID, asked: Requirements, *, purpose: Purpose = Purpose()) -> bool:
    """Whether some agent is fit just now, however busy it is."""
    return choose(workspace_id, asked, purpose=purpose).ranking.best is not None


def allowed(workspace_id: UUID, asked: Requirements, *, purpose: Purpose) -> list[AgentSpec]:
    """The agents that a call may go to by name, whatever is only so for now: load, health, circuits."""
    rules = policies.of(workspace_id)
    if rules.environment and not asked.environment:
        asked = replace(asked, environment=rules.environment)
    ruled = rules.for_purpose(purpose.template_id, purpose.block_id)
    well = [replace(each, health="unknown") for each in _candidates(workspace_id)]
    fit = {each.agent_id for each in rank(asked, well, policies=ruled).fit}
    return sorted(
        (spec for spec in registry.candidates(workspace_id) if spec.agent_id in fit),
        key=lambda spec: spec.agent_id,
    )


def preferred(workspace_id: UUID, purpose: Purpose) -> frozenset[str]:
    """The agents that are rather chosen than others."""
    return policies.of(workspace_id).for_purpose(purpose.template_id, purpose.block_id).preferred


def candidate(workspace_id: UUID, agent_id: str) -> Candidate | None:
    return next((each for each in _candidates(workspace_id) if each.agent_id == agent_id), None)


def _measured(
    workspace_id: UUID, candidates: Sequence[Candidate], asked: Requirements, load: Mapping[str, Load]
) -> dict[str, Measured]:
    """What is known of those that have what is asked for: of the others nobody wants to know."""
    able = [
        each.agent_id
        for each in candidates
        if each.enabled and (not asked.exact or each.skills.keys() >= set(asked.capabilities))
    ]
    states = circuit.states(workspace_id, able)
    seen = _stats(workspace_id, able, asked)
    found = {}
    for agent_id in able:
        busy, stats = load.get(agent_id, _IDLE), seen[agent_id]
        good, bad = stats.weighed
        found[agent_id] = Measured(
            successes=good,
            failures=bad,
            mean_ms=stats.mean_ms,
            cost=stats.cost / stats.calls if stats.calls and stats.cost else None,
            circuit=_circuit(states[agent_id]),
            held=busy.held,
            waiting=busy.waiting,
            rate_wait_s=busy.rate_wait_s,
        )
    return found


def _stats(workspace_id: UUID, able: Sequence[str], asked: Requirements) -> Mapping[str, AgentStats]:
    """How each did at the first capability that is asked; where that is little, how it did at all."""
    overall = performance.stats(workspace_id, able)
    if not asked.capabilities or not asked.exact:
        return overall
    found = dict(overall)
    for agent_id, own in performance.stats(workspace_id, able, asked.capabilities[0]).items():
        if own.calls >= ENOUGH:
            others = overall[agent_id]
            found[agent_id] = replace(
                own,
                outside_successes=others.outside_successes,
                outside_failures=others.outside_failures,
                outside_weight=others.outside_weight,
            )
    return found


def _circuit(seen: CircuitState) -> str:
    """Half-open only for whoever may be the one call that is let through."""
    return seen.state if seen.lets_through else "open"


_IDLE = Load()
_lock = threading.Lock()
_known: dict[UUID, tuple[tuple[AgentSpec, ...], tuple[Candidate, ...]]] = {}


def _candidates(workspace_id: UUID) -> tuple[Candidate, ...]:
    """The registry's agents as `matching` sees them, made once for each list that the registry gives."""
    specs = registry.candidates(workspace_id)
    known = _known.get(workspace_id)
    if known is not None and known[0] is specs:
        return known[1]
    made = tuple(_candidate(spec) for spec in specs)
    with _lock:
        if len(_known) > 1000:
            _known.clear()
        _known[workspace_id] = (specs, made)
    return made


def _candidate(spec: AgentSpec) -> Candidate:
    skills = {
        each.name: Skill(
            each.name,
            words(each.name, each.description, *each.tags),
            each.input_schema,
            each.output_schema,
        )
        for each in spec.capabilities
    }
    return Candidate(
        agent_id=spec.agent_id,
        skills=skills,
        words=words(spec.agent_id, spec.name, spec.description).union(*(s.words for s in skills.values())),
        tool_type=spec.tool_type,
        effect=registry.effect(spec, tool_type=spec.tool_type, configuration={}),
        enabled=spec.enabled,
        health=spec.health,
        environment=spec.environment,
        cost=spec.cost.per_call,
        concurrency=spec.limits.concurrency,
        rate_per_minute=spec.limits.rate_per_minute,
        input_schema=spec.input_schema,
        output_schema=spec.output_schema,
    )
