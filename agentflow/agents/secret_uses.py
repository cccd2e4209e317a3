"""Which agents and sources refer to a secret, and when they were called last."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from uuid import UUID

from django.db.models import Max, TextField
from django.db.models.functions import Cast
from django.urls import reverse

from ..governance.ports import SecretUse
from ..types import JSONObject
from .models import Agent, AgentSource

_REFERENCE = re.compile(r"\$\{secrets\.(\w+)\}")


def uses(workspace_ids: Collection[UUID]) -> Mapping[tuple[UUID, str], SecretUse]:
    """`governance.ports.SecretUses`.  A call counts when it has ended, to five minutes."""
    found: dict[tuple[UUID, str], SecretUse] = {}
    for workspace_id, configuration, name, url, at in (*_agents(workspace_ids), *_sources(workspace_ids)):
        for secret in sorted(set(_REFERENCE.findall(json.dumps(configuration)))):
            known = found.get((workspace_id, secret), SecretUse((), None))
            last = max(filter(None, (known.last_used, at)), default=None)
            found[workspace_id, secret] = SecretUse((*known.by, (name, url)), last)
    return found


_Row = tuple[UUID, JSONObject, str, str, datetime | None]


def _agents(workspace_ids: Collection[UUID]) -> Iterator[_Row]:
    rows = (
        Agent.objects.filter(workspace_id__in=workspace_ids)
        .annotate(text=Cast("configuration", TextField()))
        .filter(text__contains="${secrets.")
        .annotate(last=Max("buckets__at"))
        .order_by("agent_id")
    )
    for agent in rows:
        url = reverse("admin:agents_agent_change", args=[agent.pk])
        yield agent.workspace_id, agent.configuration, agent.agent_id, url, agent.last


def _sources(workspace_ids: Collection[UUID]) -> Iterator[_Row]:
    rows = (
        AgentSource.objects.filter(workspace_id__in=workspace_ids)
        .annotate(text=Cast("configuration", TextField()))
        .filter(text__contains="${secrets.")
        .order_by("name")
    )
    for source in rows:
        url = reverse("admin:agents_agentsource_change", args=[source.pk])
        yield source.workspace_id, source.configuration, source.name, url, source.synchronised_at
