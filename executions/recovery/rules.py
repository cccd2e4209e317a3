"""A workspace's rules for failures, pure: what a rule may say, and which of them a failure meets.

    Rule("quota", "failure.code == 'http_403' && failure.message.contains('quota')", "transient")

A condition is CEL over `failure` (`kind`, `code`, `message`, `outcomeUnknown`, `evidence`), `block` (its id),
`template` (its id) and `agent`.  A rule changes kind and code, never whether the outcome is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentflow.types import JSONObject
from agentflow.workflow.expressions import Expression, ExpressionError, compile_expression
from agentflow.workflow.failures import Failure, FailureKind

from .decision import POISON, WORKER_LOST

NAMES = frozenset({"failure", "block", "template", "agent"})
OURS = frozenset({WORKER_LOST, POISON})  # no rule makes anything else of a worker's end
MAX_RULES = 100
NOWHERE = "missing_value"  # a field that this failure does not have: the rule is not about it


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    condition: str
    kind: str
    code: str = ""
    pk: str = ""

    def holds(self, names: JSONObject) -> bool:
        """Raises:
        ExpressionError: it cannot be computed for this failure, or is no yes or no.
        """
        try:
            found = self.compiled.evaluate(names)
        except ExpressionError as error:
            if error.code == NOWHERE:
                return False
            raise
        if not isinstance(found, bool):
            raise ExpressionError("wrong_type", f"It gives {found!r:.60} and not true or false.")
        return found

    @property
    def compiled(self) -> Expression:
        return compile_expression(self.condition, NAMES)


@dataclass(frozen=True, slots=True)
class Classified:
    """`broken` are the rules that threw, each with what it said; they were passed over."""

    failure: Failure
    rule: str = ""
    broken: tuple[tuple[Rule, str], ...] = ()


def classify(failure: Failure, rules: Sequence[Rule], *, block: str, template: str, agent: str) -> Classified:
    """The failure as the first rule that holds says."""
    if not rules or failure.code in OURS:
        return Classified(failure)
    names = {"failure": as_seen(failure), "block": block, "template": template, "agent": agent}
    broken: list[tuple[Rule, str]] = []
    for rule in rules:
        try:
            holds = rule.holds(names)
        except ExpressionError as error:
            broken.append((rule, f"{error.code}: {error.message}"[:300]))
            continue
        if holds:
            said = replace(failure, kind=FailureKind(rule.kind), code=rule.code or failure.code)
            return Classified(said, rule.name, tuple(broken))
    return Classified(failure, broken=tuple(broken))


def as_seen(failure: Failure) -> JSONObject:
    """A failure as a condition sees it."""
    return {
        "kind": str(failure.kind),
        "code": failure.code,
        "message": failure.message,
        "outcomeUnknown": failure.outcome_unknown,
        "evidence": failure.evidence,
    }


# -- what may be saved ------------------------------------------------------------------------------


def problems(rule: Rule, others: Sequence[Rule]) -> list[tuple[str, str, str]]:
    """Why a rule cannot be saved beside others: field, code, message.

    Whether two conditions can hold together nobody can compute; they are tried with failures of every kind.
    """
    try:
        rule.compiled  # noqa: B018 - it raises
    except ExpressionError as error:
        return [("condition", error.code, error.message)]
    if rule.kind not in set(FailureKind):
        return [("kind", "unknown_kind", f"{rule.kind!r} is no kind of failure.")]
    met, threw = _met(rule)
    if threw == len(SAMPLES):
        return [("condition", "always_throws", "It cannot be computed for any failure.")]
    if len(met) == len(SAMPLES):
        message = "It holds for every failure, so no other rule and no other kind would count any more."
        return [("condition", "matches_everything", message)]
    for other in others:
        same = "".join(other.condition.split()) == "".join(rule.condition.split())
        if same and (other.kind, other.code) != (rule.kind, rule.code):
            message = f"The rule {other.name!r} says something else of the same failures."
            return [("condition", "contradicting_rules", message)]
        if same:
            return [("condition", "duplicate_rule", f"The rule {other.name!r} says the same.")]
    return []


def shadows(rules: Sequence[Rule]) -> dict[str, str]:
    """Rules, by name, of which an earlier one that says otherwise takes some failures: its name."""
    found: dict[str, str] = {}
    met = [_met(rule)[0] for rule in rules]
    for place, rule in enumerate(rules):
        for before in range(place):
            other = rules[before]
            if met[place] & met[before] and (other.kind, other.code) != (rule.kind, rule.code):
                found.setdefault(rule.name, other.name)
    return found


def _met(rule: Rule) -> tuple[set[int], int]:
    """Which of the samples it holds for, and for how many it threw."""
    met, threw = set[int](), 0
    for place, sample in enumerate(SAMPLES):
        names = {"failure": as_seen(sample), "block": "block", "template": "template", "agent": "agent"}
        try:
            if rule.holds(names):
                met.add(place)
        except ExpressionError:
            threw += 1
    return met, threw


def _sample(kind: FailureKind, code: str, message: str, /, **evidence: object) -> Failure:
    return Failure(kind, code, message, outcome_unknown="lost" in code, evidence=evidence)


_T, _A, _C = FailureKind.TRANSIENT, FailureKind.AGENT, FailureKind.CONFIGURATION
SAMPLES = (
    *(
        _sample(_C, f"http_{n}", f"The server answered {n}.", status=n, body="{}")
        for n in (400, 401, 403, 404)
    ),
    *(_sample(_T, f"http_{n}", f"The server answered {n}.", status=n, body="") for n in (429, 500, 502, 503)),
    _sample(_T, "timeout", "No answer within 30 s."),
    _sample(_T, "connect_failed", "Nobody answers there."),
    _sample(_T, "connection_lost", "The connection broke."),
    _sample(_T, "llm_rate_limited", "Slow down.", status=429, code="rate_limit_exceeded"),
    _sample(_A, "output_schema_mismatch", "/total: is no number", issues=[{"pointer": "/total"}]),
    _sample(_A, "script_failed", "The script ended with exit code 1: no", exitCode=1, stderr="no"),
    _sample(_A, "llm_refused", "The model refused: no"),
    _sample(_A, "agent_crashed", "The agent crashed: KeyError."),
    _sample(_C, "llm_context_too_long", "The context length is 8192.", status=400),
    _sample(_C, "input_schema_mismatch", "/n: is missing", issues=[{"pointer": "/n"}]),
    _sample(_C, "unknown_agent", "The agent is switched off."),
    _sample(FailureKind.CRITICAL, "child_failed", "The sub-workflow ended as failed."),
)
