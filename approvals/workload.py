"""How much waits for whom: for operators, by group and by person."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, Min, Q
from django.db.models.functions import Now

from agentflow.governance import access

from . import selectors
from .models import ANY_APPROVER, CLAIM, ApprovalAssignee, ApprovalVote
from .states import ApprovalStatus

ROWS_MAX = 50
ANSWERED = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class OfGroup:
    workspace: str
    level: str
    open: int
    late: int
    escalated: int
    oldest: datetime


@dataclass(slots=True)
class OfPerson:
    name: str
    taken: int = 0
    asked: int = 0  # by name: assigned, or given by somebody
    late: int = 0  # of those
    answered: int = 0  # in the last seven days


def by_group(user: access.Principal) -> list[OfGroup]:
    """What waits at each level, the most overdue first; one query."""
    rows = (
        selectors.visible(user)
        .filter(status=ApprovalStatus.PENDING)
        .values_list("workspace__name", "level")
        .annotate(
            open=Count("pk"),
            late=Count("pk", filter=Q(respond_by__lte=Now())),
            escalated=Count("pk", filter=Q(level_index__gt=0)),
            oldest=Min("requested_at"),
        )
        .order_by("-late", "-open")[:ROWS_MAX]
    )
    return [
        OfGroup(workspace, "any approver" if level == ANY_APPROVER else level, *figures)
        for workspace, level, *figures in rows
    ]


def by_person(user: access.Principal) -> list[OfPerson]:
    """Who is at how much, who is asked by name, and how much each has answered; three queries."""
    people: dict[str, OfPerson] = defaultdict(lambda: OfPerson(""))
    open_now = selectors.visible(user).filter(status=ApprovalStatus.PENDING)
    late = Q(respond_by__lte=Now())
    taken = open_now.filter(claimed_at__gt=Now() - CLAIM).values_list("claimed_by__username")
    for name, count, overdue in taken.annotate(Count("pk"), late=Count("pk", filter=late)):
        people[name].taken, people[name].late = count, overdue
    asked = ApprovalAssignee.objects.filter(
        approval__in=open_now, level_index=F("approval__level_index"), user__isnull=False
    )
    overdue_of = Count("pk", filter=Q(approval__respond_by__lte=Now()))
    for name, count, overdue in (
        asked.values_list("user__username").annotate(count=Count("pk"), late=overdue_of).order_by()
    ):
        people[name].asked = count
        people[name].late = max(people[name].late, overdue)
    votes = ApprovalVote.objects.filter(approval__in=selectors.visible(user), at__gt=Now() - ANSWERED)
    for name, count in votes.values_list("user__username").annotate(Count("pk")).order_by():
        people[name].answered = count
    for name, person in people.items():
        person.name = name
    return sorted(people.values(), key=lambda one: (-one.late, -one.taken - one.asked, one.name))[:ROWS_MAX]
