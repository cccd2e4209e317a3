"""How well an agent is: a pure function of facts, which are two queries and a look at Valkey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from agentflow.workflow import health as condition
from agentflow.workflow.health import Figure, Reason, Status

from . import circuit, performance
from .circuit import CLOSED, CircuitState
from .models import Agent, Health
from .performance import COARSE_S, FINE_S, Bucket
from .services import warnings
from .warning_models import AgentWarning, Signal

FEW = 10  # calls of an hour, before their failures say anything
MANY_FAILED, MOST_FAILED = 0.2, 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """A window, and the one of the same length before it."""

    name: str
    now: Bucket = field(default_factory=Bucket)
    before: Bucket = field(default_factory=Bucket)


@dataclass(frozen=True, slots=True)
class AgentFacts:
    href: str = ""
    enabled: bool = True
    gone_at: datetime | None = None
    health: str = Health.UNKNOWN
    health_reason: str = ""
    failed_checks: int = 0  # in a row
    circuit: CircuitState = CLOSED
    warnings: Sequence[AgentWarning] = ()
    hour: Pair = field(default_factory=lambda: Pair("1h"))
    day: Pair = field(default_factory=lambda: Pair("24h"))


def of_facts(facts: AgentFacts) -> condition.Health:
    reasons = [*_out_of_use(facts), *_looked_at(facts), *_circuit(facts), *_drifts(facts), *_failing(facts)]
    figures = [figure for pair in (facts.hour, facts.day) for figure in _figures(pair)]
    seen = facts.health != Health.UNKNOWN or bool(facts.hour.now.calls or facts.day.now.calls)
    return condition.health(reasons, figures, seen=seen)


def of(agent: Agent) -> condition.Health:
    return of_facts(read(agent))


def read(agent: Agent) -> AgentFacts:
    return AgentFacts(
        href=reverse("admin:agents_agent_change", args=[agent.pk]),
        enabled=agent.enabled,
        gone_at=agent.gone_at,
        health=agent.health,
        health_reason=agent.health_reason,
        failed_checks=agent.health_failures,
        circuit=circuit.state_of(agent),
        warnings=warnings.open_warnings(agent),
        **_windows(agent),
    )


def _windows(agent: Agent) -> dict[str, Pair]:
    """The last hour in twelve buckets, the last day in hours, and as much before each."""
    now = timezone.now()
    pairs = {"hour": Pair("1h"), "day": Pair("24h")}
    begins = {
        "hour": performance.beginning(now, FINE_S) - timedelta(seconds=COARSE_S - FINE_S),
        "day": performance.beginning(now, COARSE_S) - timedelta(hours=23),
    }
    lengths = {"hour": timedelta(hours=1), "day": timedelta(hours=24)}
    rows = agent.buckets.filter(capability="", outside=False).filter(
        Q(seconds=FINE_S, at__gte=begins["hour"] - lengths["hour"])
        | Q(seconds=COARSE_S, at__gte=begins["day"] - lengths["day"])
    )
    columns = ("seconds", "at", "successes", "failures", "ms", "histogram")
    for seconds, at, successes, failures, ms, histogram in rows.values_list(*columns):
        name = "hour" if seconds == FINE_S else "day"
        into = pairs[name].now if at >= begins[name] else pairs[name].before
        into.add(Bucket(successes, failures, ms, histogram=list(histogram)))
    return pairs


def _figures(pair: Pair) -> Iterable[Figure]:
    now, before = pair.now, pair.before
    yield condition.share(
        "successRate", pair.name, (now.successes, now.calls), (before.successes, before.calls)
    )
    yield condition.duration(
        "p95Ms", pair.name, (now.percentile(0.95), now.calls), (before.percentile(0.95), before.calls)
    )


def _out_of_use(facts: AgentFacts) -> Iterable[Reason]:
    if facts.gone_at is not None:
        yield Reason(
            "gone",
            "Its source no longer lists it.",
            "See why the source left it out, or let templates name another agent.",
            facts.href,
            Status.UNHEALTHY,
        )
    elif not facts.enabled:
        yield Reason(
            "switched_off",
            "It is switched off: no block calls it.",
            "Switch it on.",
            facts.href,
            Status.UNHEALTHY,
        )


def _looked_at(facts: AgentFacts) -> Iterable[Reason]:
    said = f": {facts.health_reason}" if facts.health_reason else "."
    remedy = "See whether it runs, and look again."
    if facts.health == Health.UNHEALTHY:
        message = f"The last looks at it went wrong{said}"
        yield Reason("check_failed", message, remedy, facts.href, Status.UNHEALTHY)
    elif facts.failed_checks:
        message = f"The last look at it went wrong{said}"
        yield Reason("check_failed", message, remedy, facts.href)


def _circuit(facts: AgentFacts) -> Iterable[Reason]:
    found = facts.circuit
    if found.closed:
        return
    remedy = (
        "See what its last calls met with. It closes once a call goes well; a person may close it before."
    )
    if found.state == "open":
        message = "Its circuit is open: its calls failed, or were slow, and it is not called."
        yield Reason("circuit_open", message, remedy, facts.href, Status.UNHEALTHY)
    else:
        message = "Its circuit is half-open: one call tries whether it is well again."
        yield Reason("circuit_half_open", message, remedy, facts.href)


def _drifts(facts: AgentFacts) -> Iterable[Reason]:
    for warning in facts.warnings:
        figures = warning.figures
        if warning.signal == Signal.ERRORS:
            message = (
                f"It fails more than usual: {figures['seen']:.0%} of {figures['calls']} calls, "
                f"where {figures['usual']:.0%} is usual."
            )
        else:
            message = (
                f"It is slower than usual: {figures['seen']:.0%} of {figures['calls']} calls took longer "
                f"than {figures['slowerThanMs']:,.0f} ms, where {figures['usual']:.0%} is usual."
            )
        remedy = "Look at its charts and last calls before its circuit opens."
        yield Reason(f"drift_{warning.signal}", message, remedy, facts.href)


def _failing(facts: AgentFacts) -> Iterable[Reason]:
    calls, failures = facts.hour.now.calls, facts.hour.now.failures
    if calls < FEW or failures < MANY_FAILED * calls:
        return
    status = Status.UNHEALTHY if failures >= MOST_FAILED * calls else Status.DEGRADED
    message = f"{failures} of its {calls} calls within the last hour failed."
    yield Reason("failing", message, "See with which codes its calls failed.", facts.href, status)
