"""Times in which people do not answer, and who answers in their place."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from agentflow.errors import Conflict, InvalidInput, NotFound, NotPermitted
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from ..models import Absence
from ..rights import MOST_DEPUTIES

LONGEST = timedelta(days=366)
MOST_OPEN = 50  # of one person in one workspace
MOST_LOOKED_AT = 1000  # for loops


class DeputyLoop(Conflict):
    """The deputy would be deputised by whom they stand in for."""

    code = "deputy_loop"
    remedy = "Name somebody who is there in that time."


class TooManyDeputies(Conflict):
    """The deputy is away then too, and so is theirs, and so on."""

    code = "too_many_deputies"
    remedy = "Name somebody who is there in that time."


@transaction.atomic
def add(
    *,
    workspace_id: UUID,
    by: User,
    user: str,
    starts_at: datetime,
    ends_at: datetime,
    deputy: str = "",
    reason: str = "",
) -> Absence:
    """Somebody is away from then to then; one's own, or as an administrator anybody's.

    Raises:
        NotFound, NotPermitted
        InvalidInput: the time, the person or the deputy does not fit.
        DeputyLoop, TooManyDeputies
    """
    access.require(by, Permission.VIEW, workspace_id)
    if user != by.get_username():
        access.require(by, Permission.ADMINISTER, workspace_id)
    person = _decider(workspace_id, user, "/user")
    other = _decider(workspace_id, deputy, "/deputy") if deputy else None
    if other == person:
        raise InvalidInput("Nobody is their own deputy.", pointer="/deputy")
    if ends_at <= starts_at:
        raise InvalidInput("It ends before it begins.", pointer="/endsAt")
    if ends_at - starts_at > LONGEST:
        raise InvalidInput("An absence lasts a year at most.", pointer="/endsAt", remedy="End it earlier.")
    if Absence.objects.filter(workspace=workspace_id, user=person, ends_at__gt=Now()).count() >= MOST_OPEN:
        raise InvalidInput(f"{MOST_OPEN} absences are enough.", pointer="/startsAt")
    made = Absence(
        workspace_id=workspace_id,
        user=person,
        deputy=other,
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason,
    )
    if other is not None:
        _check_chain(made)
    made.save()
    _record("absence.add", made, by)
    return made


@transaction.atomic
def remove(*, absence_id: int, by: User) -> None:
    """Somebody is back, or will not go.

    Raises:
        NotFound: there is none, or `by` may not see it.
        NotPermitted: it is somebody else's.
    """
    absence = Absence.objects.visible_to(by).select_related("user", "deputy").filter(pk=absence_id).first()
    if absence is None:
        raise NotFound("There is no such absence.")
    if absence.user != by and not access.can(by, Permission.ADMINISTER, absence.workspace_id):
        raise NotPermitted("It is somebody else's.", remedy="Leave it to them or to an administrator.")
    _record("absence.remove", absence, by)
    absence.delete()


def _decider(workspace_id: UUID, name: str, pointer: str) -> User:
    found = access.holders(Permission.DECIDE, [workspace_id]).filter(username=name).first()
    if found is None:
        raise InvalidInput(f"{name!r} decides nothing in this workspace.", pointer=pointer)
    return found


def _check_chain(absence: Absence) -> None:
    """Follow the deputies of the time: there is somebody at the end, and soon."""
    at = absence.deputy_id
    for _ in range(MOST_DEPUTIES):
        if at == absence.user_id:
            raise DeputyLoop
        following = _deputies_of(absence).filter(user=at).values_list("deputy_id", flat=True).first()
        if following is None:
            return
        at = following
    raise TooManyDeputies


def loops(workspace_id: UUID) -> list[tuple[int, ...]]:
    """People who stand in for each other at the same time, now or later; one query.

    `add` refuses what closes a loop, as far as it sees: two that are added at once may, and a second
    absence of the same time.
    """
    rows = Absence.objects.filter(workspace=workspace_id, ends_at__gt=Now(), deputy__isnull=False)
    by_user: dict[int, list[Absence]] = {}
    for row in rows.order_by("pk")[:MOST_LOOKED_AT]:
        by_user.setdefault(row.user_id, []).append(row)
    found: dict[frozenset[int], tuple[int, ...]] = {}
    ways = [[each] for absent in by_user.values() for each in absent]
    while ways:
        way = ways.pop()
        for each in by_user.get(way[-1].deputy_id or 0, ()):
            together = [*way, each]
            if max(one.starts_at for one in together) >= min(one.ends_at for one in together):
                continue
            if each.user_id == way[0].user_id:
                people = tuple(one.user_id for one in way)
                found.setdefault(frozenset(people), people)
            elif len(way) <= MOST_DEPUTIES and each.user_id not in {one.user_id for one in way}:
                ways.append(together)
    return list(found.values())


def _deputies_of(absence: Absence) -> QuerySet[Absence]:
    """Absences with a deputy that fall into the time of this one."""
    return Absence.objects.filter(
        workspace=absence.workspace_id,
        starts_at__lt=absence.ends_at,
        ends_at__gt=absence.starts_at,
        deputy__isnull=False,
    )


def _record(action: str, absence: Absence, by: User) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=absence.workspace_id,
        target_type="absence",
        target_id=str(absence.pk),
        detail={
            "user": absence.user.get_username(),
            "deputy": absence.deputy.get_username() if absence.deputy else None,
            "startsAt": absence.starts_at.isoformat(),
            "endsAt": absence.ends_at.isoformat(),
        },
    )
