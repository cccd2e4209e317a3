"""When a workspace works, and when so much working time will have passed.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays

MOST_DAYS = 3660  # looked at for one deadline: a calendar without a working day comes to an end


@dataclass(frozen=True, slots=True)
class Calendar:
    """`days` are ISO weekdays, 1 is Monday; `country` as `DE` or `US-CA`."""

    zone: str = "UTC"
    days: frozenset[int] = frozenset({1, 2, 3, 4, 5})
    begins: time = time(9)
    ends: time = time(17)
    country: str = ""
    free: frozenset[date] = field(default_factory=frozenset)

    def works_on(self, day: date) -> bool:
        return day.isoweekday() in self.days and day not in self.free and not _holiday(self.country, day)

    def after(self, start: datetime, working: timedelta) -> datetime:
        """The moment at which `working` will have passed in working hours, counted from `start`.

        An aware time in, one in UTC out.  Where a day is an hour shorter or longer than others, by the
        zone's clock, its hours are what they really are.
        """
        zone, left = ZoneInfo(self.zone), working
        day = start.astimezone(zone).date()
        for _ in range(MOST_DAYS):
            if self.works_on(day):
                begins = max(start, datetime.combine(day, self.begins, zone).astimezone(_UTC))
                ends = datetime.combine(day, self.ends, zone).astimezone(_UTC)
                if begins < ends:
                    if left <= ends - begins:
                        return (begins + left).astimezone(_UTC)
                    left -= ends - begins
            day += timedelta(days=1)
        return start + working


_UTC = ZoneInfo("UTC")


def known_country(code: str) -> bool:
    name, _, part = code.partition("-")
    known = holidays.list_supported_countries()
    return name in known and (not part or part in known[name])


@lru_cache(maxsize=512)
def _holidays(country: str, year: int) -> frozenset[date]:
    name, _, part = country.partition("-")
    return frozenset(holidays.country_holidays(name, subdiv=part or None, years=year))


def _holiday(country: str, day: date) -> bool:
    return bool(country) and day in _holidays(country, day.year)
