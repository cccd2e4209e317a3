"""Which agent is best for what is asked: a pure decision, with every reason shown.

    ranking = rank(Requirements(capabilities=("invoice.extract",)), candidates, measured={...})
    ranking.best            # who is to do it, or None
    ranking.as_json()       # candidates with their score parts, who was left out and why

The success part is the mean of a Beta posterior; with `uniform` given it is a draw from it (Thompson
sampling), so that agents of which little is known are tried.  Latency and cost are measured against the
best of those that are fit; load is the share of a call's time that it does not spend waiting its turn.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter

from ..types import JSONObject

SHOWN = 20  # of those that are fit, and of those left out, so many are written down; the rest are counted
NEAR = 0.3  # texts that have nothing to do with each other are about as near, too
_CAREFUL = {"pure": 0, "keyed": 1, "once": 2}
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is asked of an agent.  `effect` is the most that repeating a call may do."""

    capabilities: tuple[str, ...] = ()
    exact: bool = True  # every capability by its name; else words in common are enough
    text: str = ""
    tool_type: str | None = None
    input_schema: JSONObject | None = None  # what it will be given
    output_schema: JSONObject | None = None  # what it must give
    max_cost: float | None = None
    max_latency_ms: float | None = None
    environment: str = ""
    effect: str | None = None

    def as_json(self) -> JSONObject:
        """`{"capabilities": ["invoice.extract"], "maxCost": 0.5}`: only what is asked."""
        found = {
            "capabilities": list(self.capabilities),
            "text": self.text,
            "toolType": self.tool_type,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "maxCost": self.max_cost,
            "maxLatencyMs": self.max_latency_ms,
            "environment": self.environment,
            "effect": self.effect,
        }
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Skill:
    """A capability of an agent."""

    name: str
    words: frozenset[str] = frozenset()
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent as far as choosing goes; nothing of it changes from call to call."""

    agent_id: str
    skills: Mapping[str, Skill] = field(default_factory=dict)
    words: frozenset[str] = frozenset()  # of its name, description and capabilities
    tool_type: str = ""
    effect: str = "once"
    enabled: bool = True
    health: str = "unknown"
    environment: str = ""
    cost: float | None = None  # of a call; None: not known
    concurrency: int | None = None
    rate_per_minute: int | None = None
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None

    @property
    def limited(self) -> bool:
        return self.concurrency is not None or self.rate_per_minute is not None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of an agent lately, and how busy it is."""

    successes: float = 0.0
    failures: float = 0.0
    mean_ms: float | None = None
    cost: float | None = None  # of a call
    circuit: str = "closed"  # closed | half_open | open
    held: int = 0  # calls at work
    waiting: int = 0  # blocks that wait for it
    rate_wait_s: float = 0.0  # until its rate allows the next call


@dataclass(frozen=True, slots=True)
class Rule:
    """How the parts are weighed.  Stored with each receipt, which can be replayed under another."""

    version: str = "2"
    capability: float = 0.25
    success: float = 1.0  # as much as the rest: a quick answer that is none helps nobody
    latency: float = 0.15
    cost: float = 0.10
    load: float = 0.15
    prior_successes: float = 4.0
    prior_failures: float = 1.0
    success_margin: float = 0.15  # who is surely worse than the best by so much is left out
    unknown_ms: float = 1000.0  # of an agent that was never called
    half_open: float = 1.0  # its score, times this; less, and one that has a rival never gets its trial
    prefer: float = 1.0  # what being preferred adds

    def as_json(self) -> JSONObject:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Policies:
    """What operators said: only one of the pinned, none of the banned, rather the preferred."""

    pinned: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()
    preferred: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Scored:
    agent_id: str
    score: float
    wait_s: float  # expected, before the call begins
    parts: JSONObject
    seen: JSONObject  # from which the parts were computed

    def as_json(self) -> JSONObject:
        return {
            "agentId": self.agent_id,
            "score": round(self.score, 4),
            "expectedWaitSeconds": round(self.wait_s, 3),
            "parts": self.parts,
            "seen": self.seen,
        }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Best first, the first `SHOWN` of `total`.  Who lacks a capability is counted, not named."""

    fit: tuple[Scored, ...]
    total: int
    left_out: tuple[tuple[str, str], ...]
    lacking: int
    rule: Rule

    @property
    def best(self) -> Scored | None:
        return self.fit[0] if self.fit else None

    def as_json(self) -> JSONObject:
        reasons = Counter(reason for _, reason in self.left_out)
        return {
            "candidates": [each.as_json() for each in self.fit],
            "candidatesTotal": self.total,
            "filteredOut": [
                {"agentId": agent_id, "reason": reason} for agent_id, reason in self.left_out[:SHOWN]
            ],
            "filteredOutByReason": {**reasons, **({"capability": self.lacking} if self.lacking else {})},
            "rule": self.rule.as_json(),
        }


def words(*texts: str) -> frozenset[str]:
    return frozenset(word for text in texts for word in _WORD.findall(text.casefold()))


def rank(
    asked: Requirements,
    candidates: Sequence[Candidate],
    *,
    measured: Mapping[str, Measured] | None = None,
    policies: Policies = Policies(),
    exclude: Collection[str] = (),
    rule: Rule = Rule(),
    uniform: random.Random | None = None,
    lexical: Mapping[str, float] | None = None,
    meaning: Mapping[str, float] | None = None,
) -> Ranking:
    """Rank the candidates.  Equal input gives an equal ranking, unless `uniform` is given.

    `lexical` is how well each agent's texts match `asked.text`, from 0 to 1, where somebody else knows;
    `meaning` how near they are to it in meaning: the better of both counts.
    """
    near = meaning or {}
    seen = measured or {}
    text_words = words(asked.text) if asked.text and lexical is None else frozenset()
    left_out: list[tuple[str, str]] = []
    fit: list[tuple[Candidate, Measured, float]] = []
    lacking = 0
    for candidate in candidates:
        capability = _capability_fit(asked, candidate)
        if capability <= 0:
            lacking += 1
            continue
        now = seen.get(candidate.agent_id, _NOTHING)
        reason = _why_not(asked, candidate, now, policies, exclude)
        if reason:
            left_out.append((candidate.agent_id, reason))
            continue
        if asked.text:
            found = (
                len(text_words & candidate.words) / max(len(text_words), 1)
                if lexical is None
                else lexical.get(candidate.agent_id, 0.0)
            )
            likeness = near.get(candidate.agent_id, 0.0)
            if likeness >= NEAR:
                found = max(found, likeness)
            if found <= 0 and not asked.capabilities:
                left_out.append((candidate.agent_id, "text"))
                continue
            capability *= 0.5 + 0.5 * found
        fit.append((candidate, now, capability))
    fit = _without_the_worse(fit, rule, left_out)
    scored = _scored(fit, policies, rule, uniform)
    for each in scored if near else ():
        each.parts["meaning"] = round(near.get(each.agent_id, 0.0), 4)  # a part of `capability`
    return Ranking(scored, len(fit), tuple(left_out), lacking, rule)


_NOTHING = Measured()


def _capability_fit(asked: Requirements, candidate: Candidate) -> float:
    """1: has all by name; 0: lacks one."""
    if not asked.capabilities:
        return 1.0
    skills = candidate.skills
    total = 0.0
    for name in asked.capabilities:
        if name in skills:
            total += 1.0
            continue
        if asked.exact:
            return 0.0
        wanted = words(name)
        best = max((len(wanted & skill.words) / len(wanted) for skill in skills.values()), default=0.0)
        if best < 0.5:
            return 0.0
        total += 0.8 * best
    return total / len(asked.capabilities)


def _why_not(
    asked: Requirements, candidate: Candidate, now: Measured, policies: Policies, exclude: Collection[str]
) -> str:
    """A stable word; empty: it is fit."""
    agent_id = candidate.agent_id
    if agent_id in policies.banned:
        return "banned"
    if policies.pinned and agent_id not in policies.pinned:
        return "not_pinned"
    if not candidate.enabled:
        return "disabled"
    if agent_id in exclude:
        return "failed_before"
    if candidate.health == "unhealthy":
        return "unhealthy"
    if now.circuit == "open":
        return "circuit_open"
    if asked.tool_type and candidate.tool_type != asked.tool_type:
        return "tool_type"
    if asked.environment and candidate.environment and candidate.environment != asked.environment:
        return "environment"
    if asked.effect and _CAREFUL[candidate.effect] > _CAREFUL[asked.effect]:
        return "effect"
    if asked.max_cost is not None and (_cost(candidate, now) or 0.0) > asked.max_cost:
        return "cost"
    if asked.max_latency_ms is not None and (now.mean_ms or 0.0) > asked.max_latency_ms:
        return "latency"
    if (asked.input_schema or asked.output_schema) and not _schemas_fit(asked, candidate):
        return "schema"
    return ""


def _cost(candidate: Candidate, now: Measured) -> float | None:
    return candidate.cost if now.cost is None else now.cost


def _schemas_fit(asked: Requirements, candidate: Candidate) -> bool:
    """Whether the agent takes what it will be given and gives what is wanted, by names and types."""
    takes, gives = candidate.input_schema, candidate.output_schema
    for name in asked.capabilities:
        skill = candidate.skills.get(name)
        if skill is not None:
            takes, gives = skill.input_schema or takes, skill.output_schema or gives
    return compatible(asked.input_schema, takes) and compatible(gives, asked.output_schema)


def compatible(given: JSONObject | None, wanted: JSONObject | None) -> bool:
    """Whether what `given` describes has every field that `wanted` requires, of a type that it allows.

    Only the first level is compared.  A schema that says nothing is no objection.
    """
    if not given or not wanted:
        return True
    if not _types(given) & _types(wanted):
        return False
    has = given.get("properties")
    properties: JSONObject = has if isinstance(has, dict) else {}
    closed = given.get("additionalProperties") is False or bool(properties)
    required = wanted.get("required")
    if closed and isinstance(required, list) and any(str(name) not in properties for name in required):
        return False
    wants = wanted.get("properties")
    for name, schema in (wants if isinstance(wants, dict) else {}).items():
        other = properties.get(name)
        if isinstance(other, dict) and isinstance(schema, dict) and not _types(other) & _types(schema):
            return False
    return True


_ALL_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


def _types(schema: JSONObject) -> frozenset[str]:
    said = schema.get("type")
    listed = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    found = frozenset(each for each in listed if isinstance(each, str)) or _ALL_TYPES
    return found | {"integer"} if "number" in found else found


def _without_the_worse(
    fit: list[tuple[Candidate, Measured, float]], rule: Rule, left_out: list[tuple[str, str]]
) -> list[tuple[Candidate, Measured, float]]:
    """Leave out whose success is surely worse than the best's: two standard deviations beyond the margin."""
    if len(fit) < 2:
        return fit
    alpha, beta = rule.prior_successes, rule.prior_failures
    means = [(now.successes + alpha) / (now.successes + now.failures + alpha + beta) for _, now, _ in fit]
    least = max(means) - rule.success_margin
    if min(means) >= least:
        return fit
    kept = []
    for each, mean in zip(fit, means, strict=True):
        calls = each[1].successes + each[1].failures + alpha + beta
        if mean + 2 * (mean * (1 - mean) / (calls + 1)) ** 0.5 < least:
            left_out.append((each[0].agent_id, "success"))
        else:
            kept.append(each)
    return kept


def _scored(
    fit: list[tuple[Candidate, Measured, float]],
    policies: Policies,
    rule: Rule,
    uniform: random.Random | None,
) -> tuple[Scored, ...]:
    if not fit:
        return ()
    fastest = min(now.mean_ms if now.mean_ms is not None else rule.unknown_ms for _, now, _ in fit)
    costs = [cost for c, now, _ in fit if (cost := _cost(c, now)) is not None]
    cheapest = min(costs, default=0.0)
    alpha, beta = rule.prior_successes, rule.prior_failures
    rows = []
    for candidate, now, capability in fit:
        good, bad = now.successes + alpha, now.failures + beta
        success = good / (good + bad) if uniform is None else uniform.betavariate(good, bad)
        ms = rule.unknown_ms if now.mean_ms is None else now.mean_ms
        latency = (fastest + 1.0) / (ms + 1.0)
        price = _cost(candidate, now)
        cost = 1.0 if not price else (cheapest or 0.0) / price if cheapest else 0.0
        wait_s = expected_wait_s(candidate, now, ms / 1000)
        busy = now.held + now.waiting
        load = ms / (ms + wait_s * 1000 + 0.1 * ms * busy / (candidate.concurrency or 10) + 1e-9)
        score = (
            rule.capability * capability
            + rule.success * success
            + rule.latency * latency
            + rule.cost * cost
            + rule.load * load
        )
        preferred = candidate.agent_id in policies.preferred
        if now.circuit == "half_open":
            score *= rule.half_open
        if preferred:
            score += rule.prefer
        # Who can begin at once comes first; of those that cannot, who can soonest.
        rows.append((wait_s, -score, candidate.agent_id, (capability, success, latency, cost, load), now, ms))
    rows.sort(key=itemgetter(0, 1, 2))
    return tuple(_shown(row, policies) for row in rows[:SHOWN])


def expected_wait_s(candidate: Candidate, now: Measured, call_s: float) -> float:
    """How long a new call would wait: for a slot, behind those that wait already, and for its rate."""
    wait_s = now.rate_wait_s
    if candidate.rate_per_minute and now.waiting:
        wait_s = max(wait_s, now.waiting * 60 / candidate.rate_per_minute)
    if candidate.concurrency is not None:
        ahead = now.held + now.waiting - candidate.concurrency + 1
        if ahead > 0:
            wait_s = max(wait_s, ahead * call_s / max(candidate.concurrency, 1), 0.001)
    return wait_s


def _shown(row: tuple[float, float, str, tuple[float, ...], Measured, float], policies: Policies) -> Scored:
    wait_s, score, agent_id, parts, now, ms = row
    names = ("capability", "success", "latency", "cost", "load")
    shown: JSONObject = {name: round(value, 4) for name, value in zip(names, parts, strict=True)}
    shown["circuit"] = now.circuit
    if agent_id in policies.preferred:
        shown["policy"] = "preferred"
    elif agent_id in policies.pinned:
        shown["policy"] = "pinned"
    seen: JSONObject = {
        "successes": now.successes,
        "failures": now.failures,
        "meanMs": None if now.mean_ms is None else round(ms, 1),
        "held": now.held,
        "waiting": now.waiting,
    }
    return Scored(agent_id, -score, wait_s, shown, seen)


def rescore(receipt: JSONObject, rule: Rule) -> str | None:
    """Whom a stored receipt's candidates would have given under another rule."""
    best: tuple[float, float, str] | None = None
    for each in receipt.get("candidates") or ():
        parts, seen = each["parts"], each["seen"]
        good = seen["successes"] + rule.prior_successes
        bad = seen["failures"] + rule.prior_failures
        score = (
            rule.capability * parts["capability"]
            + rule.success * good / (good + bad)
            + rule.latency * parts["latency"]
            + rule.cost * parts["cost"]
            + rule.load * parts["load"]
        )
        if parts.get("circuit") == "half_open":
            score *= rule.half_open
        if parts.get("policy") == "preferred":
            score += rule.prefer
        key = (each["expectedWaitSeconds"], -score, each["agentId"])
        best = key if best is None else min(best, key)
    return best[2] if best else None
