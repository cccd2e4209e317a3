"""What people do about an incident: take it, talk about it, put it off, end it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from agentflow.errors import Conflict, InvalidInput, NotFound, Unprocessable
from agentflow.events.models import Level
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from . import telling
from .models import Incident, IncidentNote, NoteKind
from .states import INCIDENT, IncidentState

S = IncidentState

COMMENT_CHARS = 10_000
LINK_CHARS = 2_000


class IncidentResolved(Conflict):
    """The incident is resolved."""

    code = "incident_resolved"
    remedy = "The next failure of its kind opens a new one."


class NotSnoozed(Conflict):
    """The incident is not snoozed."""

    code = "not_snoozed"


class NoAssignee(Unprocessable):
    """Nobody with this name may look after the incident."""

    code = "no_assignee"
    remedy = "Name a user who may run and steer executions in its workspace."


def assign(*, incident_id: UUID, by: User, to: str | None) -> None:
    """Give it to somebody, or to nobody.

    Raises:
        NotFound, NotPermitted, IncidentResolved
        NoAssignee: there is no such user, or they may not operate there.
    """
    with locked(incident_id, by) as incident:
        person = None if to is None else _operator(incident, to)
        incident.assignee = person
        incident.save(update_fields=["assignee"])
        _tell(incident, NoteKind.ASSIGNED, by, person.get_username() if person else "")
        _audit(incident, "assign", by, {"to": person.get_username() if person else None})


def comment(*, incident_id: UUID, by: User, text: str) -> None:
    """Say something; of a resolved one, too."""
    with locked(incident_id, by, closed=True) as incident:
        _tell(incident, NoteKind.COMMENT, by, text)
        _audit(incident, "comment", by, {})


def snooze(*, incident_id: UUID, by: User, until: datetime) -> None:
    """Leave it alone until then; failures are counted all the same.

    Raises:
        NotFound, NotPermitted, IncidentResolved
        InvalidInput: the moment is over.
    """
    if until <= timezone.now():
        raise InvalidInput("The moment is over.", pointer="/until", remedy="Name one that is to come.")
    with locked(incident_id, by) as incident:
        _move(incident, S.SNOOZED, snoozed_until=until)
        _tell(incident, NoteKind.SNOOZED, by, until.isoformat())
        _audit(incident, "snooze", by, {"until": until.isoformat()})


def wake(*, incident_id: UUID, by: User) -> None:
    """End its snooze.

    Raises:
        NotFound, NotPermitted, IncidentResolved, NotSnoozed
    """
    with locked(incident_id, by) as incident:
        if incident.state != S.SNOOZED:
            raise NotSnoozed
        _move(incident, S.OPEN, snoozed_until=None)
        _tell(incident, NoteKind.WOKEN, by)
        telling.tell(incident, "incident_reopened", {"by": by.get_username()}, level=Level.WARNING)
        _audit(incident, "wake", by, {})


def resolve(*, incident_id: UUID, by: User, comment: str = "") -> None:
    """It is over.  A failure of its kind that comes later opens a new incident.

    Raises:
        NotFound, NotPermitted, IncidentResolved
    """
    with locked(incident_id, by) as incident:
        _move(incident, S.RESOLVED, snoozed_until=None, resolved_at=Now())
        _tell(incident, NoteKind.RESOLVED, by, comment)
        telling.tell(incident, "incident_resolved", {"by": by.get_username()})
        _audit(incident, "resolve", by, {"comment": comment} if comment else {})


def link(*, incident_id: UUID, by: User, url: str) -> None:
    """Where else it is worked on; empty: nowhere."""
    with locked(incident_id, by, closed=True) as incident:
        incident.link = url
        incident.save(update_fields=["link"])
        _tell(incident, NoteKind.LINKED, by, url)
        _audit(incident, "link", by, {"url": url})


@contextmanager
def locked(incident_id: UUID, by: User, *, closed: bool = False) -> Iterator[Incident]:
    """Hold one incident of which the user may do something; `closed`: though it is resolved.

    Raises:
        NotFound: there is none, or `by` may not see it.
        NotPermitted, IncidentResolved
    """
    with transaction.atomic():
        rows = Incident.objects.visible_to(by).select_for_update(no_key=True, of=("self",))
        incident = rows.filter(pk=incident_id).first()
        if incident is None:
            raise NotFound("There is no such incident.", incident_id=str(incident_id))
        access.require(by, Permission.OPERATE, incident.workspace_id)
        if incident.state == S.RESOLVED and not closed:
            raise IncidentResolved
        yield incident


def _move(incident: Incident, to: IncidentState, **fields: object) -> None:
    INCIDENT.check(IncidentState(incident.state), to)
    Incident.objects.filter(pk=incident.pk).update(state=to, **fields)


def _operator(incident: Incident, username: str) -> User:
    person = User.objects.filter(username=username, is_active=True).first()
    if person is None or not access.can(person, Permission.OPERATE, incident.workspace_id):
        raise NoAssignee(pointer="/to")
    return person


def _tell(incident: Incident, kind: NoteKind, by: User, text: str = "") -> None:
    IncidentNote.objects.create(incident=incident, kind=kind, by=by, text=text)


def _audit(incident: Incident, verb: str, by: User, detail: JSONObject) -> None:
    audit.record(
        action=f"incident.{verb}",
        by=by,
        workspace_id=incident.workspace_id,
        target_type="incident",
        target_id=str(incident.pk),
        detail=detail,
    )
