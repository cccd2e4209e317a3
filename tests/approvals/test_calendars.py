"""Business hours, by calendars whose answers are known."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from approvals.services.calendars import Calendar

BERLIN = Calendar(zone="Europe/Berlin", country="DE")


def after(start: str, hours: float, calendar: Calendar = BERLIN) -> str:
    moment = calendar.after(datetime.fromisoformat(start), timedelta(hours=hours))
    return moment.isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("start", "hours", "end"),
    [
        ("2026-11-18T10:00+01:00", 2, "2026-11-18T11:00+00:00"),  # within a Wednesday
        ("2026-11-18T16:00+01:00", 2, "2026-11-19T09:00+00:00"),  # into Thursday
        ("2026-11-20T16:30+01:00", 1, "2026-11-23T08:30+00:00"),  # over the weekend
        ("2026-11-21T03:00+01:00", 8, "2026-11-23T16:00+00:00"),  # asked on a Saturday
        ("2026-12-24T16:00+01:00", 2, "2026-12-28T09:00+00:00"),  # over Christmas and a weekend
        ("2026-03-27T16:00+01:00", 2, "2026-03-30T08:00+00:00"),  # over the change of the clock
    ],
)
def test_time_counts_only_while_people_work(start: str, hours: float, end: str) -> None:
    assert after(start, hours) == end


def test_free_days_of_ones_own_count_too_and_a_calendar_without_work_ends() -> None:
    free = Calendar(free=frozenset({date(2026, 11, 19)}))
    assert after("2026-11-18T16:00+00:00", 2, free) == "2026-11-20T10:00+00:00"
    never = Calendar(days=frozenset())
    assert after("2026-11-18T16:00+00:00", 2, never) == "2026-11-18T18:00+00:00"
