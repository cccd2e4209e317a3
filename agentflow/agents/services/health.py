"""Looking after agents' health: by the clock, and by hand.

An agent is asked outside of any transaction; what came of it is written under its row lock.  It is unhealthy
after so many failures in a row as its `healthCheck` says, and healthy again at the first good answer.
"""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from ...governance import access
from ...governance.access import Principal
from ...governance.roles import Permission
from ...integrations.egress import EgressError
from .. import probing, registry, secrets
from ..builtin import BuiltinFailure
from ..models import Agent, AgentCheck, Health
from ..profile import HealthCheck
from ..selectors import NoSuchAgent

LEASE_S = 120  # a clock that died while it looked: another looks after so long
KEPT = 20  # checks of one agent
NEVER_S = 86400


def check(*, pk: UUID, by: Principal | None, workspace_id: UUID | None = None) -> AgentCheck:
    """Look at an agent now and write down what came of it.  `by=None`: the clock.

    Raises:
        NoSuchAgent: it was deleted meanwhile.
        NotPermitted: `by` may not manage the workspace's agents.
    """
    rows = Agent.objects.filter(pk=pk)
    agent = (rows.filter(workspace_id=workspace_id) if workspace_id else rows).first()
    if agent is None:
        raise NoSuchAgent
    if by is not None:
        access.require(by, Permission.MANAGE_AGENTS, agent.workspace_id)
    began = time.monotonic()
    reason = ""
    try:
        probing.probe(agent)
    except (EgressError, BuiltinFailure) as error:
        said = f"{error.failure.code}: {error.failure.message}".replace("\x00", "\ufffd")
        reason = secrets.redactor(agent.workspace_id, agent.configuration).clean_excerpt(said)[:500]
    return _noted(pk, ok=not reason, reason=reason, ms=(time.monotonic() - began) * 1000)


@transaction.atomic
def take_due(at_most: int) -> list[UUID]:
    """Agents whose time has come, put off so that no other clock takes them meanwhile."""
    now = timezone.now()
    due = Agent.objects.filter(enabled=True, health_due_at__lte=now).order_by("health_due_at")
    rows = list(due.select_for_update(skip_locked=True).only("pk", "health_check")[:at_most])
    looked_at = [agent.pk for agent in rows if _interval_s(agent)]
    for ids, seconds in (
        (looked_at, LEASE_S),
        ([agent.pk for agent in rows if agent.pk not in looked_at], NEVER_S),
    ):
        if ids:
            Agent.objects.filter(pk__in=ids).update(health_due_at=now + timedelta(seconds=seconds))
    return looked_at


@transaction.atomic
def _noted(pk: UUID, *, ok: bool, reason: str, ms: float) -> AgentCheck:
    agent = Agent.objects.select_for_update().filter(pk=pk).first()
    if agent is None:
        raise NoSuchAgent
    made = AgentCheck.objects.create(agent=agent, ok=ok, ms=round(ms, 1), reason=reason)
    old = AgentCheck.objects.filter(agent=agent).order_by("-pk").values_list("pk", flat=True)[KEPT:]
    AgentCheck.objects.filter(pk__in=list(old)).delete()
    before = agent.health
    agent.health_checked_at, agent.health_reason = made.at, reason
    agent.health_failures = 0 if ok else agent.health_failures + 1
    limit = HealthCheck.model_validate(agent.health_check).failures
    if ok:
        agent.health = Health.HEALTHY
    elif agent.health_failures >= limit:
        agent.health = Health.UNHEALTHY
    agent.health_due_at = timezone.now() + timedelta(seconds=_interval_s(agent) or NEVER_S)
    fields = ("health", "health_checked_at", "health_reason", "health_failures", "health_due_at")
    agent.save(update_fields=fields)
    if agent.health != before:
        transaction.on_commit(registry.forget)
    return made


def _interval_s(agent: Agent) -> int:
    """Seconds between two looks; 0: only by hand."""
    return int(agent.health_check.get("intervalSeconds") or settings.AGENTFLOW_HEALTH_CHECK_SECONDS)
