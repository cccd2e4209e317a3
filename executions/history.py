"""How long the blocks of a version took and what they cost, from the attempts of its latest executions."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from django.db import connection

from agentflow.workflow.plan import Plan

_LATEST = 20  # executions that are looked at
_ENOUGH = 5  # attempts, before one can say what is slow

_MEANS = """
SELECT b.idx, avg(extract(epoch FROM a.ended_at - a.started_at))::float8 * 1000
FROM (SELECT id FROM executions_execution
      WHERE template_version_id = %s AND started_at IS NOT NULL AND simulation IS NULL = %s
      ORDER BY created_at DESC LIMIT %s) e
JOIN executions_blockexecution b ON b.execution_id = e.id
JOIN executions_blockattempt a ON a.block_id = b.id
WHERE a.outcome = 'ok' AND a.injected IS NULL GROUP BY b.idx
"""

# All attempts and items of a block count, also those that failed; divided by how often the block ran at all.
_COSTS = """
WITH worked AS (
  SELECT b.idx, b.execution_id, b.epoch, a.usage
  FROM (SELECT id FROM executions_execution
        WHERE template_version_id = %s AND started_at IS NOT NULL AND simulation IS NULL = %s
        ORDER BY created_at DESC LIMIT %s) e
  JOIN executions_blockexecution b ON b.execution_id = e.id
  JOIN executions_blockattempt a ON a.block_id = b.id
  WHERE b.idx = ANY(%s::int[])),
ran AS (SELECT idx, count(DISTINCT (execution_id, epoch)) AS times FROM worked GROUP BY idx),
paid AS (
  SELECT idx, c.key AS currency, sum(c.value::numeric) AS amount
  FROM worked, jsonb_each_text(usage->'cost') c GROUP BY 1, 2)
SELECT currency, sum(amount / times)::float8 FROM paid JOIN ran USING (idx) GROUP BY 1 ORDER BY 1
"""

_SLOWEST = """
SELECT b.idx, 1000 * percentile_cont(0.99)
  WITHIN GROUP (ORDER BY extract(epoch FROM a.ended_at - a.started_at))::float8
FROM (SELECT id FROM executions_execution
      WHERE template_version_id = %s AND started_at IS NOT NULL AND simulation IS NULL = %s
      ORDER BY created_at DESC LIMIT %s) e
JOIN executions_blockexecution b ON b.execution_id = e.id
JOIN executions_blockattempt a ON a.block_id = b.id
WHERE a.outcome = 'ok' GROUP BY b.idx HAVING count(*) >= %s
"""

_TRIES = """
SELECT count(*) FILTER (WHERE a.outcome = 'ok')::int, count(*)::int
FROM (SELECT id FROM executions_execution
      WHERE template_version_id = %s AND completed_at IS NOT NULL AND simulation IS NULL = %s
      ORDER BY created_at DESC LIMIT %s) e
JOIN executions_blockexecution b ON b.execution_id = e.id
JOIN executions_blockattempt a ON a.block_id = b.id
WHERE a.outcome IN ('ok', 'error', 'rescued')
"""


def slowest_ms(version_id: int, *, simulated: bool) -> dict[int, float]:
    """The 99th percentile of the same; a block that had few is missing."""
    with connection.cursor() as cursor:
        cursor.execute(_SLOWEST, [version_id, not simulated, _LATEST, _ENOUGH])
        return dict(cursor.fetchall())


def tries(version_id: int, *, simulated: bool) -> tuple[int, int]:
    """Of the attempts of ended executions: how many went well, of how many."""
    with connection.cursor() as cursor:
        cursor.execute(_TRIES, [version_id, not simulated, _LATEST])
        found: tuple[int, int] = cursor.fetchone()
        return found


def expected_ms(version_id: int, *, simulated: bool) -> dict[int, float]:
    """Mean milliseconds of a successful attempt by position; a block that never had one is missing."""
    with connection.cursor() as cursor:
        cursor.execute(_MEANS, [version_id, not simulated, _LATEST])
        return dict(cursor.fetchall())


def expected_cost(version_id: int, idxs: Collection[int], *, simulated: bool) -> dict[str, float]:
    """What these blocks cost together by currency, without their sub-workflows; empty: nothing is known."""
    with connection.cursor() as cursor:
        cursor.execute(_COSTS, [version_id, not simulated, _LATEST, list(idxs)])
        return {currency: round(amount, 10) for currency, amount in cursor.fetchall()}


def estimate_ms(plan: Plan, idxs: Collection[int], expected: Mapping[int, float]) -> int | None:
    """How long these blocks take together: their longest chain, or their sum over the places there are.

    Waiting for people is not counted.  None: nothing is known about any of them.
    """
    known = {idx: expected[idx] for idx in idxs if idx in expected}
    if not known:
        return None
    ends: dict[int, float] = {}
    for idx in sorted(idxs):
        before = max((ends[pred] for pred in plan[idx].preds if pred in ends), default=0.0)
        ends[idx] = before + known.get(idx, 0.0)
    return round(max(*ends.values(), sum(known.values()) / plan.max_parallel))
