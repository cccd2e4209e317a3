"""How agents do, from the calls that ended lately: counts and latencies in buckets of a fixed size.

Kept for each agent, and for each capability it was chosen for: five minutes each for two days, hours
for thirty.  What others measured (`outside`) is in buckets of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from ..types import JSONObject
from . import registry
from .models import Agent, AgentBucket, AgentMeasurement
from .profile import Measures

FINE_S, COARSE_S = 300, 3600
KEPT = {FINE_S: timedelta(days=2), COARSE_S: timedelta(days=30)}
LATELY = timedelta(hours=24)
SLOTS = 84  # of a histogram: four for each doubling of the ms, the last also for all that is longer
CODES = 20  # of failures, in a bucket
MANY = 50  # for more agents at once `stats` leaves the percentiles out
OUTSIDE_WEIGHT = 0.2


@dataclass(slots=True)
class Bucket:
    successes: int = 0
    failures: int = 0
    ms: float = 0.0
    cost: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * SLOTS)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        return self.successes + self.failures

    def percentile(self, share: float) -> float | None:
        """In ms; None without calls."""
        left = share * sum(self.histogram)
        for number, count in enumerate(self.histogram):
            left -= count
            if count and left <= 0:
                return float(2 ** ((number + 0.5) / 4))
        return None

    def add(self, other: Bucket) -> None:
        self.successes += other.successes
        self.failures += other.failures
        self.ms += other.ms
        self.cost += other.cost
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.histogram = [x + y for x, y in zip(self.histogram, other.histogram, strict=True)]
        self.kinds.update(other.kinds)


Key = tuple[UUID, str, datetime]  # agent, capability, beginning of its five minutes


@dataclass(frozen=True, slots=True)
class AgentStats:
    calls: int = 0
    successes: int = 0
    failures: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    mean_ms: float | None = None
    cost: float = 0.0
    tokens: int = 0
    outside_successes: int = 0
    outside_failures: int = 0
    outside_weight: float = OUTSIDE_WEIGHT

    @property
    def weighed(self) -> tuple[float, float]:
        """Successes and failures, those from outside for what they count."""
        weight = self.outside_weight
        return (
            self.successes + weight * self.outside_successes,
            self.failures + weight * self.outside_failures,
        )


NOTHING = AgentStats()
_cached: dict[Any, tuple[float, dict[str, AgentStats]]] = {}


def slot(ms: float) -> int:
    return min(max(int(4 * math.log2(max(ms, 1.0))), 0), SLOTS - 1)


def beginning(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)


# -- writing -----------------------------------------------------------------------

_MERGE = """
INSERT INTO agents_agentbucket AS b (agent_id, capability, outside, seconds, at, successes, failures, ms,
  cost, input_tokens, output_tokens, histogram, kinds)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)
ON CONFLICT (agent_id, seconds, at, outside, capability) DO UPDATE SET
  successes = b.successes + excluded.successes, failures = b.failures + excluded.failures,
  ms = b.ms + excluded.ms, cost = b.cost + excluded.cost,
  input_tokens = b.input_tokens + excluded.input_tokens,
  output_tokens = b.output_tokens + excluded.output_tokens,
  histogram = ARRAY(SELECT x + y FROM unnest(b.histogram, excluded.histogram) WITH ORDINALITY AS u(x, y, i)
                    ORDER BY i),
  kinds = (SELECT coalesce(jsonb_object_agg(code, n), '{}') FROM (
    SELECT key AS code, sum(value::bigint) AS n FROM (
      SELECT * FROM jsonb_each_text(b.kinds) UNION ALL SELECT * FROM jsonb_each_text(excluded.kinds)) AS both_
    GROUP BY key ORDER BY n DESC, key LIMIT 20) AS most)
"""


def merge(found: Mapping[Key, Bucket], *, outside: bool = False) -> None:
    """Add buckets of five minutes to what is kept, and to their hours.  In the caller's transaction."""
    rows = []
    for (agent, capability, at), bucket in found.items():
        for seconds in (FINE_S, COARSE_S):
            kinds = json.dumps(dict(bucket.kinds.most_common(CODES)))
            rows.append(
                (
                    *(agent, capability[:200], outside, seconds, beginning(at, seconds)),
                    *(bucket.successes, bucket.failures, bucket.ms, bucket.cost),
                    *(bucket.input_tokens, bucket.output_tokens, bucket.histogram, kinds),
                )
            )
    rows.sort(key=lambda row: (str(row[0]), row[1], row[3], row[4]))  # one order for all who write
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_MERGE, rows)


def purge() -> int:
    """Remove what is too old."""
    now = timezone.now()
    gone = AgentMeasurement.objects.filter(received_at__lt=now - KEPT[COARSE_S]).delete()[0]
    for seconds, kept in KEPT.items():
        gone += AgentBucket.objects.filter(at__lt=now - kept, seconds=seconds).delete()[0]
    return gone


# -- reading -----------------------------------------------------------------------


def stats(
    workspace_id: UUID, agent_ids: Iterable[str], capability: str | None = None
) -> dict[str, AgentStats]:
    """The last day of each agent, from what was read within the last two seconds, else in one query."""
    wanted = tuple(agent_ids)
    key = (workspace_id, wanted, capability)
    held = _cached.get(key)
    if held is not None and held[0] > time.monotonic():
        return held[1]
    found = _stats(workspace_id, wanted, capability or "")
    if len(_cached) > 1000:
        _cached.clear()
    _cached[key] = (time.monotonic() + registry.SECONDS_CACHED, found)
    return found


def _stats(workspace_id: UUID, agent_ids: Sequence[str], capability: str) -> dict[str, AgentStats]:
    rows = AgentBucket.objects.filter(
        agent__workspace_id=workspace_id,
        agent__agent_id__in=agent_ids,
        seconds=COARSE_S,
        capability=capability,
        at__gt=timezone.now() - LATELY,
    )
    columns = ("successes", "failures", "ms", "cost", "input_tokens", "output_tokens")
    own: dict[str, Bucket] = {}
    outside: dict[str, Bucket] = {}
    weights: dict[str, float] = {}
    few = len(agent_ids) <= MANY
    named = ("agent__agent_id", "outside", "agent__measures")
    if few:
        read: Iterable[Any] = rows.values_list(*named, *columns, "histogram")
    else:
        sums = rows.values(*named).annotate(**{f"sum_{name}": Sum(name) for name in columns})
        read = sums.values_list(*named, *(f"sum_{name}" for name in columns))
    for agent_id, is_outside, measures, *values in read:
        bucket = (outside if is_outside else own).setdefault(agent_id, Bucket())
        _add(bucket, values)
        weights[agent_id] = _weight(measures)
    return {
        agent_id: _read(own.get(agent_id, Bucket()), outside.get(agent_id, Bucket()), weights.get(agent_id))
        for agent_id in agent_ids
    }


def _add(bucket: Bucket, values: Sequence[Any]) -> None:
    bucket.successes += values[0]
    bucket.failures += values[1]
    bucket.ms += values[2]
    bucket.cost += values[3]
    bucket.input_tokens += values[4]
    bucket.output_tokens += values[5]
    if len(values) > 6:
        bucket.histogram = [x + y for x, y in zip(bucket.histogram, values[6], strict=True)]


def _weight(measures: JSONObject) -> float:
    said = Measures.model_validate(measures).outside_weight
    return OUTSIDE_WEIGHT if said is None else said


def _read(own: Bucket, outside: Bucket, weight: float | None) -> AgentStats:
    return AgentStats(
        calls=own.calls,
        successes=own.successes,
        failures=own.failures,
        p50_ms=own.percentile(0.5),
        p95_ms=own.percentile(0.95),
        mean_ms=own.ms / own.calls if own.calls else None,
        cost=own.cost,
        tokens=own.input_tokens + own.output_tokens,
        outside_successes=outside.successes,
        outside_failures=outside.failures,
        outside_weight=OUTSIDE_WEIGHT if weight is None else weight,
    )


WINDOWS = {
    "1h": (timedelta(hours=1), FINE_S),
    "6h": (timedelta(hours=6), FINE_S),
    "24h": (timedelta(hours=24), FINE_S),
    "7d": (timedelta(days=7), COARSE_S),
    "30d": (timedelta(days=30), COARSE_S),
}


@dataclass(frozen=True, slots=True)
class Window:
    """How an agent's calls went, in buckets of `seconds` from `since` on; without calls there is none."""

    name: str
    capability: str
    since: datetime
    last: datetime  # the beginning of the newest
    seconds: int
    own: dict[datetime, Bucket]
    outside: Bucket

    @property
    def total(self) -> Bucket:
        found = Bucket()
        for bucket in self.own.values():
            found.add(bucket)
        return found


def window(agent: Agent, name: str = "24h", capability: str = "", *, at_most: int | None = None) -> Window:
    """Read a window of `WINDOWS`, in at most so many buckets of equal length, if a number is given."""
    length, seconds = WINDOWS[name]
    step = seconds if at_most is None else seconds * math.ceil(length.total_seconds() / seconds / at_most)
    last = beginning(timezone.now(), step)
    since = last - (math.ceil(length.total_seconds() / step) - 1) * timedelta(seconds=step)
    own: dict[datetime, Bucket] = {}
    outside = Bucket()
    rows = agent.buckets.filter(seconds=seconds, capability=capability, at__gte=since).order_by("at")
    for row in rows:
        bucket = Bucket(
            *(row.successes, row.failures, row.ms, row.cost, row.input_tokens, row.output_tokens),
            list(row.histogram),
            Counter(row.kinds),
        )
        (outside if row.outside else own.setdefault(beginning(row.at, step), Bucket())).add(bucket)
    return Window(name, capability, since, last, step, own, outside)


def capabilities(agent: Agent) -> list[str]:
    """Those that it was chosen for and that are measured."""
    rows = agent.buckets.filter(seconds=COARSE_S).exclude(capability="").values_list("capability")
    return sorted({name for (name,) in rows.distinct()})


def report(agent: Agent, name: str = "24h", capability: str = "") -> JSONObject:
    """What `GET /agents/{id}/performance` shows: totals, those from outside, and a series."""
    found = window(agent, name, capability)
    return {
        "window": name,
        "bucketSeconds": found.seconds,
        "since": found.since,
        "capability": capability,
        "capabilities": capabilities(agent),
        "total": _summed(found.total),
        "outside": _summed(found.outside),
        "outsideWeight": _weight(agent.measures),
        "series": [{"at": at, **_told(bucket)} for at, bucket in found.own.items()],
    }


def _summed(bucket: Bucket) -> JSONObject:
    return {**_told(bucket), "failureCodes": dict(bucket.kinds.most_common(CODES))}


def _told(bucket: Bucket) -> JSONObject:
    calls = bucket.calls
    return {
        "calls": calls,
        "successes": bucket.successes,
        "failures": bucket.failures,
        "successRate": round(bucket.successes / calls, 4) if calls else None,
        "meanMs": round(bucket.ms / calls, 1) if calls else None,
        "p50Ms": _rounded(bucket.percentile(0.5)),
        "p95Ms": _rounded(bucket.percentile(0.95)),
        "cost": round(bucket.cost, 9),
        "inputTokens": bucket.input_tokens,
        "outputTokens": bucket.output_tokens,
    }


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)
