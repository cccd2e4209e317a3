"""What was tried of a block before, read from its attempts and their receipts in one statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from executions.engine.rows import loads
from executions.engine.run import raw_cursor
from executions.models import AttemptOutcome

from .decision import Strategy

_PAST = """
SELECT b.id = o.id AND n.attempt > o.tries_from, coalesce(r.agent_id, a.agent_id, ''), a.outcome, a.failure
FROM executions_blockexecution o
JOIN executions_blockexecution b
  ON b.execution_id = o.execution_id AND b.idx = o.idx AND b.iteration = o.iteration AND b.epoch <= o.epoch
CROSS JOIN LATERAL (
  SELECT attempt FROM executions_routingreceipt WHERE block_id = b.id
  UNION SELECT attempt FROM executions_blockattempt WHERE block_id = b.id) n
LEFT JOIN executions_routingreceipt r ON r.block_id = b.id AND r.attempt = n.attempt
LEFT JOIN executions_blockattempt a ON a.block_id = b.id AND a.attempt = n.attempt
WHERE o.id = %(block)s AND NOT (b.id = o.id AND n.attempt = %(attempt)s)
ORDER BY b.epoch, n.attempt
"""


@dataclass(frozen=True, slots=True)
class Past:
    """Before an attempt; `failed`, `left` and `used` since the block's tries are counted.

    `bound` is the only agent that may repeat it: what it did is not known, and another would not
    recognise the key of an effect that may have happened.
    """

    failed: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()  # agents that the block was taken from
    bound: str | None = None
    used: Mapping[Strategy, int] = field(default_factory=dict)


def past_of(block_pk: int, attempt: int, effect: str) -> Past:
    failed, left = set[str](), set[str]()
    bound: str | None = None
    used: Counter[Strategy] = Counter()
    rows = raw_cursor().execute(_PAST, {"block": block_pk, "attempt": attempt})
    for counts, agent_id, outcome, stored in rows:
        failure = loads(stored) or {}
        strategy = (failure.get("recovery") or {}).get("strategy")
        if strategy and (counts or strategy == Strategy.RESTART):  # a restart begins new rows
            used[Strategy(strategy)] += 1
        if not agent_id:
            continue  # nobody was called
        if outcome == AttemptOutcome.OK:
            failed.clear()
            left.clear()
            bound = None
        elif outcome == AttemptOutcome.WAITED:
            bound = agent_id  # it stopped on its way, and goes on by its own steps
        else:
            unknown = outcome != AttemptOutcome.ERROR or bool(failure.get("outcomeUnknown"))
            if unknown and effect != "pure":
                bound = agent_id
            if counts and outcome == AttemptOutcome.ERROR:
                failed.add(agent_id)
            if counts and strategy == Strategy.REASSIGN:
                left.add(agent_id)
    kept = {bound} if bound else set()
    return Past(frozenset(failed - kept), frozenset(left - kept), bound, used)


# The newest point, and the blocks with an effect that must happen once and did, or may have.
_POINT = """
SELECT p.id, p.settled, ARRAY(
  SELECT DISTINCT b.idx FROM executions_blockexecution b
  WHERE b.execution_id = %(execution)s AND b.effect = 'once' AND b.attempt > 0 AND b.idx < %(blocks)s
    AND b.id <> %(but)s AND (b.status = 'completed' OR b.error ->> 'outcomeUnknown' IS DISTINCT FROM 'false'))
FROM executions_recoverypoint p WHERE p.execution_id = %(execution)s AND p.kind <> 'restart'
ORDER BY p.id DESC LIMIT 1
"""


def safe_point(execution_id: UUID, *, blocks: int, but: int) -> tuple[int | None, str]:
    """The newest recovery point, if going back to it repeats no such effect, or why there is none.

    `but` is the block that failed, which did nothing.
    """
    row = raw_cursor().execute(_POINT, {"execution": execution_id, "blocks": blocks, "but": but}).fetchone()
    if row is None:
        return None, "there is no recovery point to go back to"
    point_id, settled, once = row
    bits = int.from_bytes(settled, "little")
    if all(bits >> idx & 1 for idx in once):
        return int(point_id), ""
    return None, "an effect that must happen once came after the last recovery point"
