"""What executions have used up: tokens and money, added up from attempts and agents' steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import connection

from agentflow.types import JSONObject

# The sums of blocks: one row for each number of tokens and each currency.
_SUMS = """
SELECT block, part, sum(amount) FROM (
  SELECT used.block, k.key AS part, k.value::numeric AS amount
  FROM used, jsonb_each_text(used.usage - 'cost' - 'model') k
  UNION ALL
  SELECT used.block, 'cost ' || k.key, k.value::numeric
  FROM used, jsonb_each_text(coalesce(used.usage->'cost', '{}')) k) parts
GROUP BY 1, 2
"""

# The steps of an attempt are what it used, also where its worker vanished and nobody added them up.
_USED = """
SELECT w.block, a.usage FROM worked w
JOIN executions_blockattempt a ON a.block_id = w.origin AND a.usage IS NOT NULL
WHERE NOT EXISTS (SELECT 1 FROM executions_agentstep s
                  WHERE s.block_id = a.block_id AND s.attempt = a.attempt AND s.usage IS NOT NULL)
UNION ALL
SELECT w.block, s.usage FROM worked w
JOIN executions_agentstep s ON s.block_id = w.origin AND s.usage IS NOT NULL
"""

_OF_BLOCKS = f"""
WITH worked AS (
  SELECT b.id AS block, coalesce(b.carried_from, b.id) AS origin FROM executions_blockexecution b
  WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s
    AND (%(blocks)s::bigint[] IS NULL OR b.id = ANY(%(blocks)s::bigint[]))),
used AS ({_USED})
{_SUMS}
"""

# Of a run with all its epochs, and of the runs below it.  What it carried from another was paid there.
_OF_RUN = f"""
WITH RECURSIVE runs AS (
  SELECT %(execution)s::uuid AS id
  UNION ALL
  SELECT c.id FROM runs JOIN executions_blockexecution b ON b.execution_id = runs.id
  JOIN executions_execution c ON c.parent_block_id = b.id),
worked AS (
  SELECT 0 AS block, b.id AS origin FROM runs JOIN executions_blockexecution b ON b.execution_id = runs.id),
used AS ({_USED})
{_SUMS}
"""

# Of a run's own blocks by blockId; what children used counts for the block that started them.  The time of
# an attempt that is under way is that of its steps, or since when it waits for its child.
_BY_STEP = f"""
WITH RECURSIVE runs AS (
  SELECT %(execution)s::uuid AS id, NULL::text AS step
  UNION ALL
  SELECT c.id, coalesce(r.step, b.block_id) FROM runs r
  JOIN executions_blockexecution b ON b.execution_id = r.id
  JOIN executions_execution c ON c.parent_block_id = b.id),
worked AS (
  SELECT coalesce(r.step, b.block_id) AS block, b.id AS origin FROM runs r
  JOIN executions_blockexecution b ON b.execution_id = r.id),
used AS ({_USED}),
took AS (
  SELECT b.block_id::text AS block, extract(epoch FROM a.ended_at - a.started_at) AS seconds
  FROM executions_blockexecution b JOIN executions_blockattempt a ON a.block_id = b.id
  WHERE b.execution_id = %(execution)s
  UNION ALL
  SELECT b.block_id, s.seconds FROM executions_blockexecution b
  JOIN executions_agentstep s ON s.block_id = b.id AND s.attempt = b.attempt
  WHERE b.execution_id = %(execution)s AND b.status = 'running'
  UNION ALL
  SELECT b.block_id, extract(epoch FROM statement_timestamp() - b.started_at)
  FROM executions_blockexecution b
  WHERE b.execution_id = %(execution)s AND b.status = 'waiting_external' AND b.reason = 'child')
({_SUMS})
UNION ALL
SELECT block, 'timeMs', sum(seconds) * 1000 FROM took GROUP BY 1
"""


def by_step(execution_id: UUID) -> dict[str, JSONObject]:
    """What a run used from its beginning, by blockId, with the time of its attempts as `timeMs`."""
    return _read(_BY_STEP, {"execution": execution_id})


def of_blocks(
    execution_id: UUID, epoch: int, block_pks: Iterable[int] | None = None
) -> dict[int, JSONObject]:
    """By row, what blocks of an epoch used; those that used nothing are not there."""
    pks = None if block_pks is None else list(block_pks)
    return _read(_OF_BLOCKS, {"execution": execution_id, "epoch": epoch, "blocks": pks})


def of_run(execution_id: UUID) -> JSONObject:
    """What a run used from its beginning, its children's use included."""
    return _read(_OF_RUN, {"execution": execution_id}).get(0, nothing())


def nothing() -> JSONObject:
    return {"inputTokens": 0, "outputTokens": 0, "cost": {}}


def _read(statement: str, given: dict[str, Any]) -> dict[Any, JSONObject]:
    """By what the statement gives first."""
    found: dict[Any, JSONObject] = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, given)
        for block, part, amount in cursor.fetchall():
            used = found.setdefault(block, nothing())
            if part.startswith("cost "):
                used["cost"][part.removeprefix("cost ")] = float(amount)
            else:
                used[part] = int(amount)
    return found


def words(used: JSONObject | None) -> str:
    """For people: `908 tokens (812 in, 96 out), 0.0021 USD, small-1`; empty: nothing was used."""
    if not used:
        return ""
    given, got = used.get("inputTokens") or 0, used.get("outputTokens") or 0
    parts = [f"{given + got:,} tokens ({given:,} in, {got:,} out)"] if given or got else []
    parts += [f"{_money(amount)} {currency}" for currency, amount in sorted((used.get("cost") or {}).items())]
    return ", ".join([*parts, used["model"]] if parts and used.get("model") else parts)


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.6f}".rstrip("0").rstrip(".")
