"""Counts of what got lost or came twice, and was put right, by day: for the doctor.

Counted in memory and written with the row of the process every few seconds, so that counting costs
the work nothing.  A process that is killed takes its last seconds' counts with it.
"""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum

from django.db import connection

DAYS = 30  # kept


class Tally(StrEnum):
    WALKS = "walks"  # deliveries of hints
    IDLE_WALKS = (
        "idle_walks"  # of these, those that found nothing to do: doubled, late, or somebody was faster
    )
    FORKS = "forks"  # hints for several walkers, whose chord has a body
    JOINS = "joins"  # bodies of such chords that came
    CHECKS = "checks"  # looks of the clock at a run
    REHINTS = "rehints"  # of these, those that found work nobody had taken, and hinted again
    LATE_EVENTS = "late_events"  # events from outside that the clock delivered, because their hint got lost


class Tallies:
    """`kept`: this process writes what it counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Tally] = Counter()
        self.kept = False

    def add(self, tally: Tally, count: int = 1) -> None:
        with self._lock:
            self._counts[tally] += count

    def write(self) -> None:
        """Add what was counted since the last time to the day's rows; it stays if that fails."""
        self.kept = True
        with self._lock:
            taken, self._counts = self._counts, Counter()
        if not taken:
            return
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO executions_daytally (name, day, count)"
                    " SELECT x.name, current_date, x.count"
                    " FROM unnest(%s::text[], %s::bigint[]) AS x(name, count) ORDER BY x.name"
                    " ON CONFLICT (name, day)"
                    " DO UPDATE SET count = executions_daytally.count + excluded.count",
                    [[str(tally) for tally in taken], list(taken.values())],
                )
        except BaseException:
            with self._lock:
                self._counts += taken
            raise


tallies = Tallies()


def recent(days: int = 1) -> dict[Tally, int]:
    """What was counted today and on so many days before."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, sum(count)::bigint FROM executions_daytally"
            " WHERE day >= current_date - %s GROUP BY name",
            [days],
        )
        found = dict(cursor.fetchall())
    return {tally: found.get(str(tally), 0) for tally in Tally}


def purge() -> int:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM executions_daytally WHERE day < current_date - %s", [DAYS])
        return int(cursor.rowcount)
