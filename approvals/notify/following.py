"""Turns events of approvals into deliveries: each event once for each recipient and channel.

The place in the event store is a row.  It is locked while a page is read, and moves in the
transaction that writes the page's deliveries: of many clocks one reads, and one that dies leaves
everything as it was.  Should the place ever go back, the deliveries' unique key holds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, connection, transaction

from agentflow.events import store
from agentflow.events.models import Event
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from .. import selectors
from ..models import Approval
from ..states import ApprovalStatus
from . import wishes
from .models import Delivery, Follower, Target
from .moments import Moment, send_at
from .states import ASKS, TOPICS, Channel, Topic

log = logging.getLogger(__name__)

NAME = "notifications"
NEWS = timedelta(days=1)  # what came of a question is no news after that, should no clock have run
MAIL_LANE = "email"


def follow(limit: int = store.PAGE_EVENTS) -> int:
    """Read one page; how many events it had.  0 too while another clock reads."""
    Follower.objects.get_or_create(name=NAME)
    with transaction.atomic():
        place = Follower.objects.select_for_update(skip_locked=True).filter(name=NAME).first()
        if place is None:
            return 0
        events = store.approvals(after=_cursor(place), limit=limit).events
        if not events:
            return 0
        _plan_all(events)
        Follower.objects.filter(name=NAME).update(xid=events[-1].xid, event_id=events[-1].id)
    return len(events)


def _plan_all(events: Sequence[Event]) -> None:
    """Plan them together; where one of them cannot be, all but that one."""
    try:
        with transaction.atomic():
            plan(events)
    except OperationalError:
        raise
    except Exception:
        log.exception("notifications planned one by one", extra={"events": len(events)})
        for event in events:
            try:
                with transaction.atomic():
                    plan([event])
            except OperationalError:
                raise
            except Exception:
                log.exception("nobody is told of event %s", event.id)


def _cursor(place: Follower) -> store.Cursor:
    cursor = store.Cursor(place.xid, place.event_id)
    # A place in the future is one of another database, from before a restore: begin anew.
    return cursor if cursor <= store.current() else store.START


@dataclass(frozen=True, slots=True)
class Told:
    """An event that somebody may want to know of."""

    event: Event
    topic: Topic
    approval: Approval

    @property
    def asks(self) -> bool:
        return self.topic in ASKS


def plan(events: Sequence[Event]) -> None:
    """Write the deliveries of these events."""
    now = _now()
    told = tellable(events, now)
    if not told:
        return
    rows = [*_for_targets(told, now), *_for_people(told, now)]
    Delivery.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)


def tellable(events: Iterable[Event], now: datetime) -> list[Told]:
    """Those of the events that are still worth telling."""
    known = [(event, TOPICS[event.type]) for event in events if event.type in TOPICS]
    ids = {_approval_id(event) for event, _ in known}
    approvals = Approval.objects.defer("request", "input_schema", "response").in_bulk(
        [id for id in ids if id]
    )
    found = []
    for event, topic in known:
        approval = approvals.get(_approval_id(event))
        if approval is None:
            continue
        stale = approval.status != ApprovalStatus.PENDING if topic in ASKS else event.at < now - NEWS
        if not stale:
            found.append(Told(event, topic, approval))
    return found


def _approval_id(event: Event) -> UUID | None:
    try:
        return UUID(str((event.payload or {}).get("approvalId")))
    except ValueError:
        return None


# -- who -------------------------------------------------------------------------


def _for_targets(told: Sequence[Told], now: datetime) -> list[Delivery]:
    workspace_ids = {each.event.workspace_id for each in told}
    targets = list(Target.objects.filter(workspace__in=workspace_ids, enabled=True))
    return [
        _delivery(
            each,
            Moment(now, digest=False),
            channel=target.channel,
            recipient=f"target:{target.pk}",
            lane=f"target:{target.pk}",
            target=target,
        )
        for each in told
        for target in targets
        if target.workspace_id == each.event.workspace_id
        and each.topic in target.topics
        and (not target.levels or each.approval.level in target.levels)
    ]


def _for_people(told: Sequence[Told], now: datetime) -> list[Delivery]:
    if not settings.AGENTFLOW_EMAIL:
        return []
    people = _concerned(told)
    users = User.objects.in_bulk({pk for ids in people.values() for pk in ids})
    wanted = wishes.choices(list(users), {each.event.workspace_id for each in told})
    rows = []
    for each in told:
        for user_id in sorted(people[each.approval.pk, each.asks]):
            user, choice = users[user_id], wanted[user_id, each.event.workspace_id]
            if not choice.wants(each.topic, Channel.EMAIL) or own_doing(each, user):
                continue
            moment = send_at(
                now,
                digest=choice.digest,
                quiet=choice.quiet,
                zone=choice.zone_info,
                respond_by=each.approval.respond_by if each.asks else None,
            )
            rows.append(
                _delivery(
                    each,
                    moment,
                    channel=Channel.EMAIL,
                    recipient=f"user:{user_id}",
                    lane=MAIL_LANE,
                    user=user,
                )
            )
    return rows


def _concerned(told: Sequence[Told]) -> dict[tuple[UUID, bool], set[int]]:
    """Whom each question concerns; `True`: those who are asked now, else those who were told of it, too."""
    asked, before = _asked(told), _asked_before(told)
    return {
        (pk, asks): asked[pk] if asks else asked[pk] | before[pk] for pk in asked for asks in (True, False)
    }


def _asked(told: Sequence[Told]) -> dict[UUID, set[int]]:
    """Who may answer each question now: some queries for each person, none for each question."""
    found: dict[UUID, set[int]] = {each.approval.pk: set() for each in told}
    for user in _addressable({each.event.workspace_id for each in told}):
        for pk in selectors.decidable_by(user).filter(pk__in=list(found)).values_list("pk", flat=True):
            found[pk].add(user.pk)
    return found


def _addressable(workspace_ids: Collection[UUID]) -> Iterable[User]:
    return access.holders(Permission.DECIDE, workspace_ids).exclude(email="") if workspace_ids else ()


def _asked_before(told: Sequence[Told]) -> dict[UUID, set[int]]:
    """Who was told that the question is there: they are told what came of it."""
    found: dict[UUID, set[int]] = {each.approval.pk: set() for each in told}
    rows = Delivery.objects.filter(approval__in=found, user__isnull=False, topic__in=ASKS)
    for approval_id, user_id in rows.values_list("approval_id", "user_id").distinct():
        if user_id is not None:
            found[approval_id].add(user_id)
    return found


def own_doing(told: Told, user: User) -> bool:
    facts = told.event.payload or {}
    return user.get_username() in {facts.get("approver"), facts.get("by")}


def _delivery(
    told: Told,
    moment: Moment,
    *,
    channel: str,
    recipient: str,
    lane: str,
    user: User | None = None,
    target: Target | None = None,
) -> Delivery:
    return Delivery(
        workspace_id=told.event.workspace_id,
        approval=told.approval,
        event_id=told.event.id,
        event_type=told.event.type,
        event_at=told.event.at,
        facts=told.event.payload or {},
        topic=told.topic,
        channel=channel,
        recipient=recipient,
        lane=lane,
        user=user,
        target=target,
        next_at=moment.at,
        digest=moment.digest,
    )


def _now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        row = cursor.fetchone()
    at: datetime = row[0]
    return at
