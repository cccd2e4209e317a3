"""Counts ended attempts into the buckets of their agents and of recovery's strategies, once each, however
many clocks do it.

Ids of attempts are handed out before their transactions commit.  So the highest id of one look is counted
up to only at a later look, when every transaction has ended that was open at the first.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from agentflow.agents import performance
from agentflow.agents.models import MeasuredUpTo
from agentflow.agents.performance import Bucket, Key
from agentflow.agents.profile import Cost
from agentflow.agents.usage import amount_in, price, tokens
from executions.engine.rows import loads
from executions.engine.run import raw_cursor
from executions.learning import counting

AT_ONCE = 20_000
CUT_AT_ONCE, CUTS = 2_000, 50  # of old receipts, in one statement and in one look

# Simulated and builtin calls are no measure of an agent; nor is what was never sent, or was stopped, or
# went wrong on purpose, unless it is to count.  A
# failure of another kind than the agent's is named among the kinds, and no call.
_ENDED = """
SELECT g.id, g.cost, r.receipt->'asked'->'capabilities',
  date_bin('5 minutes', a.ended_at, TIMESTAMPTZ 'epoch'), a.outcome, a.failure->>'code',
  a.failure->>'kind',
  greatest(extract(epoch FROM a.ended_at - a.started_at) * 1000, 0)::float8,
  a.usage
FROM executions_blockattempt a
JOIN executions_blockexecution b ON b.id = a.block_id
JOIN executions_execution e ON e.id = b.execution_id
JOIN agents_agent g ON g.workspace_id = e.workspace_id AND g.agent_id = a.agent_id
LEFT JOIN executions_routingreceipt r ON r.block_id = a.block_id AND r.attempt = a.attempt
WHERE a.id > %(after)s AND a.id <= %(upto)s AND e.simulation IS NULL
  AND (a.injected IS NULL OR (a.injected->>'counted')::bool)
  AND a.outcome IN ('ok', 'error', 'waited')
  AND coalesce(a.failure->>'code', '') <> ALL (ARRAY['circuit_open', 'circuit_open_long', 'cancelled'])
"""

# The same of what agents called on their way.
_CALLED = """
WITH due AS (
  SELECT id FROM executions_agentstep WHERE uncounted AND ended_at IS NOT NULL
  ORDER BY id LIMIT %(most)s FOR UPDATE SKIP LOCKED),
counted AS (
  UPDATE executions_agentstep s SET uncounted = false FROM due WHERE s.id = due.id
  RETURNING s.block_id, s.request, s.failure, s.seconds, s.usage, s.ended_at)
SELECT g.id, g.cost, NULL, date_bin('5 minutes', c.ended_at, TIMESTAMPTZ 'epoch'),
  CASE WHEN c.failure IS NULL THEN 'ok' ELSE 'error' END, c.failure->>'code', c.failure->>'kind',
  c.seconds * 1000, coalesce(c.usage, c.request->'used')
FROM counted c
JOIN executions_blockexecution b ON b.id = c.block_id
JOIN executions_execution e ON e.id = b.execution_id
JOIN agents_agent g ON g.workspace_id = e.workspace_id AND g.agent_id = c.request->>'agentId'
WHERE coalesce(c.failure->>'code', '') <> ALL (ARRAY['circuit_open', 'circuit_open_long', 'cancelled'])
"""


@transaction.atomic
def measure() -> bool:
    """Count what has ended since the last time.  True: there is more."""
    MeasuredUpTo.objects.bulk_create([MeasuredUpTo(pk=1)], ignore_conflicts=True)
    done = MeasuredUpTo.objects.select_for_update(skip_locked=True).filter(pk=1).first()
    if done is None:
        return False  # another clock is at it
    cursor = raw_cursor()
    settled = cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone()
    assert settled is not None
    ended = cursor.execute(_CALLED, {"most": AT_ONCE}).fetchall()
    if done.upto < done.seen and settled[0] >= done.xid:
        after, done.upto = done.upto, min(done.seen, done.upto + AT_ONCE)
        ended += cursor.execute(_ENDED, {"after": after, "upto": done.upto}).fetchall()
        counting.count(after=after, upto=done.upto)
    performance.merge(_buckets(ended))
    if done.upto >= done.seen:
        last = cursor.execute("SELECT coalesce(max(id), 0) FROM executions_blockattempt").fetchone()
        now = cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert last is not None
        assert now is not None
        done.seen, done.xid = max(done.seen, last[0]), now[0]
    done.save()
    return done.upto < done.seen and settled[0] >= done.xid


def _buckets(rows: Any) -> dict[Key, Bucket]:
    found: dict[Key, Bucket] = defaultdict(Bucket)
    prices: dict[UUID, Cost] = {}
    for agent, cost, capabilities, at, outcome, code, kind, ms, usage in rows:
        if agent not in prices:
            prices[agent] = Cost.model_validate(loads(cost) or {})
        for capability in ("", *(loads(capabilities) or ())):
            bucket = found[agent, capability, at]
            if outcome == "waited":  # a part of a call, which is one when it ends
                _add_use(bucket, usage=loads(usage) or {}, cost=prices[agent], calls=0)
                continue
            ok = outcome == "ok"
            if not ok:
                bucket.kinds[str(code or "unknown")[:100]] += 1
                if kind not in ("agent", "transient"):
                    continue
            _count(bucket, ok=ok, ms=ms, usage=loads(usage) or {}, cost=prices[agent])
    return found


def _count(bucket: Bucket, *, ok: bool, ms: float, usage: dict[str, Any], cost: Cost) -> None:
    bucket.successes += ok
    bucket.failures += not ok
    bucket.ms += ms
    bucket.histogram[performance.slot(ms)] += 1
    _add_use(bucket, usage=usage, cost=cost, calls=1)


def _add_use(bucket: Bucket, *, usage: dict[str, Any], cost: Cost, calls: int) -> None:
    given, got = tokens(usage.get("inputTokens")), tokens(usage.get("outputTokens"))
    bucket.input_tokens += given
    bucket.output_tokens += got
    if "cost" in usage:
        bucket.cost += amount_in(usage, cost.currency)
    else:
        bucket.cost += price(cost, calls=calls, input_tokens=given, output_tokens=got)


# The row stays: a block that runs again must still know who may have done what.
_CUT = """
UPDATE executions_routingreceipt SET receipt = jsonb_build_object(
  'asked', receipt->'asked', 'chosen', receipt->'chosen', 'cut', true)
WHERE id IN (
  SELECT r.id FROM executions_routingreceipt r
  JOIN executions_blockexecution b ON b.id = r.block_id
  JOIN executions_execution e ON e.id = b.execution_id
  WHERE r.receipt ? 'candidates' AND e.completed_at IS NOT NULL
    AND r.at < statement_timestamp() - %(days)s * interval '1 day'
  ORDER BY r.at LIMIT %(limit)s FOR UPDATE OF r SKIP LOCKED)
"""


def cut_receipts() -> int:
    """Leave of receipts that are older than `AGENTFLOW_RECEIPT_DAYS`, of ended runs, only what was chosen."""
    done = 0
    for _ in range(CUTS):
        given = {"days": settings.AGENTFLOW_RECEIPT_DAYS, "limit": CUT_AT_ONCE}
        count = raw_cursor().execute(_CUT, given).rowcount
        done += count
        if count < CUT_AT_ONCE:
            break
    return done
