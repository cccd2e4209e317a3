"""What is read of incidents: lists, and how far one of them reaches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from agentflow.errors import NotFound
from agentflow.governance.access import Principal
from agentflow.types import JSONObject
from executions.engine.run import raw_cursor
from executions.models import BlockExecution
from executions.ports import people_asked

from .models import Incident, IncidentBlock, IncidentNote
from .states import IncidentState

NOTES_MAX = 200  # the latest of a timeline


@dataclass(frozen=True, slots=True)
class Filter:
    """Which incidents a list shows; None and empty mean any.  `assignee` empty: those of nobody."""

    states: Collection[str] = ()
    workspace_id: UUID | None = None
    template_id: UUID | None = None
    execution_id: UUID | None = None
    block_id: str | None = None
    code: str | None = None
    assignee: str | None = None
    simulated: bool | None = None
    search: str = ""


def incidents(user: Principal) -> QuerySet[Incident]:
    """The incidents that `user` may see, those first that failed last."""
    return (
        Incident.objects.visible_to(user)
        .select_related("template", "assignee")
        .defer("template__search_text")
        .order_by("-last_seen", "pk")
    )


def find(user: Principal, incident_id: UUID) -> Incident:
    """One incident.

    Raises:
        NotFound: there is none, or `user` may not see it.
    """
    incident = incidents(user).filter(pk=incident_id).first()
    if incident is None:
        raise NotFound("There is no such incident.", incident_id=str(incident_id))
    return incident


def matching(user: Principal, chosen: Filter) -> QuerySet[Incident]:
    rows = incidents(user)
    for name, value in (
        ("workspace_id", chosen.workspace_id),
        ("template_id", chosen.template_id),
        ("block_id", chosen.block_id),
        ("code", chosen.code),
        ("simulated", chosen.simulated),
    ):
        if value is not None:
            rows = rows.filter(**{name: value})
    if chosen.states:
        rows = rows.filter(state__in=chosen.states)
    if chosen.assignee is not None:
        rows = (
            rows.filter(assignee__username=chosen.assignee) if chosen.assignee else rows.filter(assignee=None)
        )
    if chosen.execution_id is not None:
        rows = rows.filter(
            pk__in=IncidentBlock.objects.filter(execution=chosen.execution_id).values("incident")
        )
    return rows.filter(found_by(chosen.search)) if chosen.search else rows


def found_by(words: str) -> Q:
    """Incidents whose template, block, code or message has these words."""
    return (
        Q(template__name__icontains=words)
        | Q(block_id__icontains=words)
        | Q(code__icontains=words)
        | Q(sample__message__icontains=words)
    )


def of_blocks(block_pks: Collection[int]) -> dict[int, UUID]:
    """The incident that counts the latest failure of each of these rows of blocks, where one does."""
    rows = IncidentBlock.objects.filter(block__in=block_pks).order_by("last_at", "pk")
    return dict(rows.values_list("block_id", "incident_id"))


def blocks(incident: Incident) -> QuerySet[IncidentBlock]:
    """The blocks of runs that it counts, the latest failure first."""
    rows = IncidentBlock.objects.filter(incident=incident).select_related("block", "execution")
    return rows.order_by("-last_at", "-pk").only(
        "failures",
        "first_at",
        "last_at",
        "incident_id",
        "block__status",
        "block__reason",
        "block__epoch",
        "block__iteration",
        "block__attempt",
        "block__completed_at",
        "execution__status",
        "execution__epoch",
    )


def notes(incident: Incident) -> list[IncidentNote]:
    """The latest of its timeline, the oldest first."""
    rows = IncidentNote.objects.filter(incident=incident).select_related("by").order_by("-pk")[:NOTES_MAX]
    return list(reversed(rows))


def sample_of(incident: Incident) -> BlockExecution | None:
    """The row of the block that failed first."""
    return BlockExecution.objects.filter(pk=incident.sample_block).only("execution_id", "block_id").first()


# Blocks of an epoch that a restart has ended are held no more.  A workflow is reached when it has the block
# or calls, at whatever depth, one that does.
_RADIUS = """
SELECT count(DISTINCT i.execution_id)::int,
  count(DISTINCT i.execution_id) FILTER (WHERE e.completed_at IS NULL)::int,
  count(DISTINCT i.execution_id) FILTER (WHERE e.status = 'failed')::int,
  count(DISTINCT coalesce(r.template_version_id, e.template_version_id))::int,
  count(*) FILTER (WHERE held AND b.status = 'waiting_human')::int,
  count(*) FILTER (WHERE held AND b.status IN ('ready', 'running', 'waiting_external'))::int,
  count(*) FILTER (WHERE held AND b.status = 'failed')::int,
  count(*) FILTER (WHERE b.status = 'completed')::int,
  count(*)::int
FROM executions_incidentblock i
JOIN executions_blockexecution b ON b.id = i.block_id
JOIN executions_execution e ON e.id = i.execution_id
LEFT JOIN executions_execution r ON r.id = e.root
CROSS JOIN LATERAL (SELECT e.completed_at IS NULL AND b.epoch = e.epoch AS held) h
WHERE i.incident_id = %(incident)s
"""


@dataclass(frozen=True, slots=True)
class Radius:
    """How far an incident reaches.  Blocks that ask a person, that go on by themselves, that have failed
    while their run goes on, that completed after all."""

    executions: int
    open_executions: int
    failed_executions: int
    workflows: int
    asking: int
    going_on: int
    failed: int
    healed: int
    blocks: int

    def as_json(self, people: int) -> JSONObject:
        return {
            "workflows": self.workflows,
            "executions": self.executions,
            "openExecutions": self.open_executions,
            "failedExecutions": self.failed_executions,
            "blocks": self.blocks,
            "blocksWaiting": self.asking,
            "blocksGoingOn": self.going_on,
            "blocksFailed": self.failed,
            "blocksHealed": self.healed,
            "peopleAsked": people,
        }


def radius(incident: Incident) -> Radius:
    row: Any = raw_cursor().execute(_RADIUS, {"incident": incident.pk}).fetchone()
    return Radius(*row)


def as_json(incident: Incident) -> JSONObject:
    """An incident as lists show it."""
    return {
        "incidentId": str(incident.pk),
        "workspaceId": str(incident.workspace_id),
        "templateId": str(incident.template_id),
        "templateName": incident.template.name,
        "blockId": incident.block_id,
        "code": incident.code,
        "kind": incident.kind,
        "message": incident.message,
        "fingerprint": incident.fingerprint,
        "simulated": incident.simulated,
        "state": incident.state,
        "snoozedUntil": incident.snoozed_until if incident.state == IncidentState.SNOOZED else None,
        "assignee": incident.assignee.get_username() if incident.assignee else None,
        "link": incident.link,
        "count": incident.count,
        "firstSeen": incident.first_seen,
        "lastSeen": incident.last_seen,
        "resolvedAt": incident.resolved_at,
    }


def detail(incident: Incident) -> JSONObject:
    """An incident with its first failure, how far it reaches, and what people did about it."""
    first = sample_of(incident)
    held = IncidentBlock.objects.filter(incident=incident).values("block")
    people = people_asked()(workspace_id=incident.workspace_id, blocks=held)
    return {
        **as_json(incident),
        "sample": {"executionId": first.execution_id if first else None, "failure": incident.sample},
        "blastRadius": radius(incident).as_json(people),
        "timeline": [
            {
                "kind": note.kind,
                "text": note.text,
                "by": note.by.get_username() if note.by else None,
                "at": note.at,
            }
            for note in notes(incident)
        ],
    }
