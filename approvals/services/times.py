"""When a level's time is over, and what happens before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models.functions import Now

from executions.models import Timer, TimerKind

from ..models import Approval, ApprovalPolicy
from . import policies
from .levels import Level, present

SOON = 0.8  # of a level's time have passed: the answer is due soon
FAR = timedelta(days=36_500)
RESTS = 2  # in `Timer.progress`: time is over, this was told, and the question waits on


@dataclass(frozen=True, slots=True)
class Times:
    """Moments by the database's clock, or expressions that give them."""

    respond_by: Any
    due_soon_at: Any
    timer_at: Any  # the first reminder, or the end


def times(level: Level, policy: ApprovalPolicy) -> Times:
    """Of a level that begins now."""
    if not (level.business_hours or level.reminders_ms):
        end = timedelta(milliseconds=level.timeout_ms)
        return Times(Now() + end, Now() + end * SOON, Now() + end)
    start = clock()
    respond_by = _after(start, level.timeout_ms, level, policy)
    return Times(
        respond_by=respond_by,
        due_soon_at=_after(start, level.timeout_ms * SOON, level, policy),
        timer_at=_next_reminder(level, respond_by, start) or respond_by,
    )


def _after(start: datetime, ms: float, level: Level, policy: ApprovalPolicy) -> datetime:
    span = timedelta(milliseconds=ms)
    return policies.calendar_of(policy).after(start, span) if level.business_hours else start + span


def _next_reminder(level: Level, respond_by: datetime, now: datetime) -> datetime | None:
    moments = (respond_by - timedelta(milliseconds=ms) for ms in level.reminders_ms)
    return min((moment for moment in moments if moment > now), default=None)


def clock() -> datetime:
    """Now, by the clock that timers are fired by."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        found: datetime = cursor.fetchone()[0]
    return found


def set_timer(approval: Approval, at: Any, progress: int = 0) -> None:
    """The one timer of an open question."""
    Timer.objects.update_or_create(
        key=timer_key(approval),
        defaults={
            "kind": TimerKind.APPROVAL_TIMEOUT,
            "execution_id": approval.execution_id,
            "subject": approval.pk,
            "due_at": at,
            "progress": progress,
        },
    )


def set_next_timer(approval: Approval, now: datetime) -> None:
    """For the next reminder, or the end of the level's time."""
    due = _next_reminder(present(approval), approval.respond_by, now) or approval.respond_by
    set_timer(approval, due)


def rest(approval: Approval) -> None:
    """Nothing more is due; the timer stays, for those who have the clock look at the question."""
    set_timer(approval, Now() + FAR, RESTS)


def rests(approval: Approval) -> bool:
    seen = Timer.objects.filter(key=timer_key(approval)).values_list("progress", flat=True).first()
    return bool((seen or 0) & RESTS)


def timer_key(approval: Approval) -> str:
    return f"{TimerKind.APPROVAL_TIMEOUT}:{approval.pk}"
