"""Early warning: that an agent begins to fail, or to be slow, is written down once, and when it is over.

Read from the buckets that `performance` keeps, so there is nothing else to keep but the warnings.  Nothing
follows from one but that people see it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject

from .. import drift, performance
from ..drift import Shares
from ..models import Agent, AgentBucket
from ..performance import COARSE_S, FINE_S, SLOTS
from ..warning_models import AgentWarning, Signal, WarningEnd

AT_ONCE = 200  # agents in one look
CALLED_LATELY = timedelta(minutes=10)  # others are not looked at
RECENT = timedelta(hours=1)
USUAL = timedelta(hours=24)  # before that; a warning that lasts longer is what is usual now
KEPT = timedelta(days=30)


@dataclass(slots=True)
class _Calls:
    """Of one agent: what was usual, and its latest buckets from the oldest on."""

    calls: int = 0
    failures: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * SLOTS)
    recent: list[tuple[int, int, Sequence[int]]] = field(default_factory=list)  # calls, failures, histogram


def look(after: UUID | None = None) -> UUID | None:
    """Look at the agents behind `after` that were called lately.  The last of them, if there may be more."""
    now = timezone.now()
    lately = AgentBucket.objects.filter(
        seconds=FINE_S, capability="", outside=False, at__gte=now - CALLED_LATELY
    )
    if after is not None:
        lately = lately.filter(agent__gt=after)
    ids = list(lately.order_by("agent").values_list("agent_id", flat=True).distinct()[:AT_ONCE])
    open_ones: dict[UUID, list[AgentWarning]] = defaultdict(list)
    # The oldest as well: theirs may be agents that nobody calls any more.
    for rows in (
        AgentWarning.objects.filter(ended_at=None, agent__in=ids),
        AgentWarning.objects.filter(ended_at=None).exclude(agent__in=ids).order_by("pk")[:AT_ONCE],
    ):
        for warning in rows:
            open_ones[warning.agent_id].append(warning)
    found = _calls({*ids, *open_ones}, now) if ids or open_ones else {}
    for agent_id, calls in found.items():
        _judge(agent_id, calls, open_ones[agent_id], now)
    return ids[-1] if len(ids) == AT_ONCE else None


def open_warnings(agent: Agent) -> list[AgentWarning]:
    return list(agent.warnings.filter(ended_at=None).order_by("pk"))


def purge() -> int:
    """Remove warnings that ended long ago."""
    return AgentWarning.objects.filter(ended_at__lt=timezone.now() - KEPT).delete()[0]


def _calls(agents: Collection[UUID], now: datetime) -> dict[UUID, _Calls]:
    since = performance.beginning(now, FINE_S) - RECENT + timedelta(seconds=FINE_S)
    whole_hours = since - timedelta(seconds=COARSE_S)
    rows = AgentBucket.objects.filter(agent__in=agents, capability="", outside=False).filter(
        Q(seconds=FINE_S, at__gte=since)
        | Q(seconds=COARSE_S, at__lte=whole_hours, at__gt=whole_hours - USUAL)
    )
    found = {agent: _Calls() for agent in agents}
    columns = ("agent", "seconds", "successes", "failures", "histogram")
    for agent, seconds, successes, failures, histogram in rows.order_by("at").values_list(*columns):
        calls, of = successes + failures, found[agent]
        if seconds == FINE_S:
            of.recent.append((calls, failures, histogram))
        else:
            of.calls += calls
            of.failures += failures
            of.histogram = [x + y for x, y in zip(of.histogram, histogram, strict=True)]
    return found


def _judge(agent_id: UUID, calls: _Calls, known: Sequence[AgentWarning], now: datetime) -> None:
    standing = {warning.signal: warning for warning in known}
    for warning in known:
        _end(warning, calls, now)
    if Signal.ERRORS not in standing:
        failed = [(failures, count) for count, failures, _ in calls.recent]
        _begin(agent_id, Signal.ERRORS, drift.shares(calls.failures, calls.calls), failed, {})
    slot = drift.slow_from(calls.histogram)
    if Signal.LATENCY not in standing and slot is not None:
        usual = drift.shares(sum(calls.histogram[slot:]), sum(calls.histogram))
        more: JSONObject = {"slot": slot, "slowerThanMs": round(2 ** (slot / 4), 1)}
        _begin(agent_id, Signal.LATENCY, usual, _slow(calls, slot), more)


def _slow(calls: _Calls, slot: int) -> list[tuple[int, int]]:
    return [(sum(histogram[slot:]), sum(histogram)) for _, _, histogram in calls.recent]


def _begin(
    agent_id: UUID,
    signal: Signal,
    usual: Shares | None,
    buckets: Sequence[tuple[int, int]],
    more: JSONObject,
) -> None:
    if usual is None or not drift.begins(usual, buckets):
        return
    hits, calls = (sum(each) for each in zip(*buckets, strict=True))
    figures: JSONObject = {
        "usual": round(usual.usual, 4),
        "feared": round(usual.feared, 4),
        "seen": round(hits / calls, 4),
        "calls": calls,
        **more,
    }
    try:
        with transaction.atomic():
            warning = AgentWarning.objects.create(agent_id=agent_id, signal=signal, figures=figures)
            _tell(warning, "agent_drifts", Level.WARNING, figures)
    except IntegrityError:  # another clock was quicker, or the agent has been deleted
        return


def _end(warning: AgentWarning, calls: _Calls, now: datetime) -> None:
    ended_as = _ended_as(warning, calls, now)
    if ended_as is None:
        return
    with transaction.atomic():
        rows = AgentWarning.objects.filter(pk=warning.pk, ended_at=None)
        if rows.update(ended_at=now, ended_as=ended_as):
            _tell(warning, "agent_drift_over", Level.INFO, {"why": str(ended_as)})


def _ended_as(warning: AgentWarning, calls: _Calls, now: datetime) -> WarningEnd | None:
    if now - warning.since > USUAL:
        return WarningEnd.NEW_USUAL if calls.recent else WarningEnd.QUIET
    known = Shares(warning.figures["usual"], warning.figures["feared"])
    if warning.signal == Signal.ERRORS:
        buckets = [(failures, count) for count, failures, _ in calls.recent]
    else:
        buckets = _slow(calls, warning.figures["slot"])
    return WarningEnd.AS_USUAL if drift.is_over(known, buckets) else None


def _tell(warning: AgentWarning, type: str, level: Level, payload: JSONObject) -> None:
    workspace_id, name = Agent.objects.values_list("workspace", "agent_id").get(pk=warning.agent_id)
    store.append(
        type=type,
        workspace_id=workspace_id,
        level=level,
        payload={"agentId": name, "signal": str(warning.signal), **payload},
    )
