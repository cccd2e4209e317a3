"""Calls that an agent takes in a minute, counted by the second for all workers together.

Whoever reads or writes a window holds the agent's lock: `places.lock_agents`.  Counted by the second a call
leaves the window up to a second late, so in no 60 seconds there are more than the rate.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg

from .rows import loads

WINDOW_S = 61

_READ = """
SELECT extract(epoch FROM statement_timestamp())::float8,
  (SELECT calls FROM executions_agentwindow WHERE workspace_id = %(workspace)s AND agent_id = %(agent)s)
"""

_WRITE = """
INSERT INTO executions_agentwindow (workspace_id, agent_id, calls)
VALUES (%(workspace)s, %(agent)s, %(calls)s::jsonb)
ON CONFLICT (workspace_id, agent_id) DO UPDATE SET calls = excluded.calls
"""


def take_of_rate(
    cursor: psycopg.Cursor[Any], workspace_id: UUID, agent_id: str, rate: int, *, before: int = 0
) -> float:
    """Count a call now (0.0), or say in how many seconds its turn comes, behind `before` others."""
    row = cursor.execute(_READ, {"workspace": workspace_id, "agent": agent_id}).fetchone()
    assert row is not None
    now, calls = row[0], [each for each in loads(row[1]) or () if each[0] > row[0] - WINDOW_S]
    wait_s = wait_for(calls, now, rate, before=before)
    if wait_s <= 0:
        second = int(now)
        if calls and calls[-1][0] == second:
            calls[-1][1] += 1
        else:
            calls.append([second, 1])
        cursor.execute(_WRITE, {"workspace": workspace_id, "agent": agent_id, "calls": json.dumps(calls)})
    return wait_s


def wait_for(calls: list[list[int]], now: float, rate: int, *, before: int = 0) -> float:
    """In how many seconds so many calls have left the window that one more fits, behind `before` others."""
    over = sum(count for _, count in calls) + before + 1 - rate
    for second, count in calls:
        if over <= 0:
            break
        over -= count
        if over <= 0:
            return max(second + WINDOW_S - now, 0.001)
    return 0.0 if over <= 0 else float(WINDOW_S)
