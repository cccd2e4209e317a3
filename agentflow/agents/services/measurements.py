"""Measurements of an agent that others made: counted once by their id, and apart from our own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from ...governance import access, audit
from ...governance.access import Principal
from ...governance.roles import Permission
from .. import performance
from ..models import Agent, AgentMeasurement
from ..performance import FINE_S, Bucket, Key
from ..selectors import NoSuchAgent


@dataclass(frozen=True, slots=True)
class Measurement:
    id: str
    success: bool
    at: datetime
    latency_ms: float | None = None
    cost: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    capability: str = ""
    failure_code: str = ""


@transaction.atomic
def take(*, by: Principal, pk: UUID, workspace_id: UUID, measurements: Sequence[Measurement]) -> int:
    """Count those whose ids are new; how many they were.  Safe to repeat, also at once.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update(no_key=True).filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:
        raise NoSuchAgent
    given = {each.id: each for each in measurements}
    known = AgentMeasurement.objects.filter(agent=agent, key__in=given).values_list("key", flat=True)
    fresh = [given[key] for key in given.keys() - set(known)]
    AgentMeasurement.objects.bulk_create(AgentMeasurement(agent=agent, key=each.id) for each in fresh)
    found: dict[Key, Bucket] = defaultdict(Bucket)
    for each in fresh:
        for capability in {"", each.capability}:
            _count(found[agent.pk, capability, performance.beginning(each.at, FINE_S)], each)
    performance.merge(found, outside=True)
    audit.record(
        action="agent.measure",
        by=by,
        workspace_id=workspace_id,
        target_type="agent",
        target_id=str(pk),
        detail={"agentId": agent.agent_id, "sent": len(measurements), "counted": len(fresh)},
    )
    return len(fresh)


def _count(bucket: Bucket, each: Measurement) -> None:
    bucket.successes += each.success
    bucket.failures += not each.success
    bucket.cost += each.cost
    bucket.input_tokens += each.input_tokens
    bucket.output_tokens += each.output_tokens
    if each.latency_ms is not None:
        bucket.ms += each.latency_ms
        bucket.histogram[performance.slot(each.latency_ms)] += 1
    if not each.success:
        bucket.kinds[each.failure_code or "unknown"] += 1
