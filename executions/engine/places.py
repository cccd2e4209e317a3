"""Places of concurrency keys: at most so many executions, or blocks, of a workspace work for one key.

Who needs a place has a row, waiting or held.  A held one is free again as soon as its holder is settled:
that is read from the holder's row, so nothing has to be given back.  Each takes its place by itself, in a
transaction of its own that holds its execution's lock first and then the key's, an advisory one; whose
turn it is by then is told by a timer that is due at once, for nobody touches another execution's row.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connection

from executions import dispatch
from executions.states import TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from .judging import Change

if TYPE_CHECKING:
    from .run import Run

OF_RUN, OF_BLOCK = "execution", "block"
# Transactions take the locks of all their keys at once, those of executions first, in this order; a
# bounded number, however many keys there are.
_SPACES = {OF_RUN: 7101, OF_BLOCK: 7102}
_BUCKETS = 512
_REACH = 1000  # of those that wait for a key so many are looked at, or as many as its limit
_SOON_S = 5.0

# A place counts while its holder, or who waits for it, is not settled.
_LIVE = """e.completed_at IS NULL AND (p.block_id IS NULL OR b.epoch = e.epoch
  AND b.status NOT IN ('completed', 'failed', 'skipped', 'cancelled'))"""

_ASK = """
INSERT INTO executions_place (workspace_id, kind, key, places, priority, execution_id, block_id, held)
SELECT %(workspace)s, %(kind)s, x.key, x.places, x.priority, %(execution)s, x.block, false
FROM unnest(%(blocks)s::bigint[], %(keys)s::text[], %(limits)s::int[], %(priorities)s::int[])
  AS x(block, key, places, priority)
ON CONFLICT DO NOTHING
"""

# What this run has no use for any more, and what it waits for.
_OWN = f"""
WITH gone AS (
  DELETE FROM executions_place WHERE id IN (
    SELECT p.id FROM executions_place p JOIN executions_execution e ON e.id = p.execution_id
    LEFT JOIN executions_blockexecution b ON b.id = p.block_id
    WHERE p.execution_id = %(execution)s AND (p.held OR %(all)s) AND NOT ({_LIVE}))
  RETURNING id, kind, key)
SELECT kind, key, count(*)::int, true FROM gone GROUP BY 1, 2
UNION ALL
SELECT kind, key, count(*)::int, false FROM executions_place p
WHERE execution_id = %(execution)s AND NOT held AND NOT EXISTS (SELECT 1 FROM gone WHERE gone.id = p.id)
GROUP BY 1, 2
"""

_LOCK = """
SELECT pg_advisory_xact_lock(x.space, x.bucket)
FROM unnest(%(spaces)s::int[], %(buckets)s::int[]) AS x(space, bucket)
"""

# Whose turn it is: fewer than its limit hold a place or come before it.  Paused runs let others pass.
_NEXT = f"""
SELECT n.id, n.kind, n.key, n.execution_id, n.block_id, n.idx, n.iteration, n.places - h.held - n.rank
FROM unnest(%(kinds)s::text[], %(keys)s::text[]) AS k(kind, key)
CROSS JOIN LATERAL (
  SELECT count(*)::int AS held FROM executions_place p
  JOIN executions_execution e ON e.id = p.execution_id
  LEFT JOIN executions_blockexecution b ON b.id = p.block_id
  WHERE p.workspace_id = %(workspace)s AND p.kind = k.kind AND p.key = k.key AND p.held AND ({_LIVE})) h
CROSS JOIN LATERAL (
  SELECT w.*, (row_number() OVER (ORDER BY w.priority DESC, w.id))::int AS rank FROM (
    SELECT p.id, p.kind, p.key, p.execution_id, p.block_id, p.places, p.priority, b.idx, b.iteration
    FROM executions_place p
    JOIN executions_execution e ON e.id = p.execution_id
    LEFT JOIN executions_blockexecution b ON b.id = p.block_id
    WHERE p.workspace_id = %(workspace)s AND p.kind = k.kind AND p.key = k.key AND NOT p.held
      AND e.status IN ('pending', 'running') AND ({_LIVE})
    ORDER BY p.priority DESC, p.id LIMIT %(reach)s) w) n
WHERE h.held + n.rank <= n.places
"""

# A sub-workflow works within the place that a run or block above it holds; else it would wait for itself.
_RIDE = """
WITH RECURSIVE above AS (
  SELECT parent_block_id AS block FROM executions_execution WHERE id = %(execution)s
  UNION ALL
  SELECT e.parent_block_id FROM above JOIN executions_blockexecution b ON b.id = above.block
  JOIN executions_execution e ON e.id = b.execution_id)
SELECT p.id, p.kind, p.key, p.execution_id, p.block_id, o.idx, o.iteration, 0
FROM executions_place p LEFT JOIN executions_blockexecution o ON o.id = p.block_id
WHERE p.execution_id = %(execution)s AND NOT p.held AND EXISTS (
  SELECT 1 FROM above JOIN executions_blockexecution b ON b.id = above.block
  JOIN executions_place h ON h.kind = p.kind AND h.key = p.key AND h.held
    AND (h.block_id = b.id OR (h.block_id IS NULL AND h.execution_id = b.execution_id)))
"""

_TAKE = "UPDATE executions_place SET held = true WHERE id = ANY(%(ids)s::bigint[])"

_ENTERED = """
SELECT 1 FROM executions_place WHERE execution_id = %(execution)s AND block_id IS NULL AND NOT held
"""

# Skipped is a timer whose run is in a transaction now: it has yet to ask for the key, which we hold.
_WAKE = """
UPDATE executions_timer SET due_at = statement_timestamp() WHERE id IN (
  SELECT id FROM executions_timer WHERE key = ANY(%(timers)s::text[]) ORDER BY id FOR UPDATE SKIP LOCKED)
"""


def ask_for_run(execution_id: UUID, workspace_id: UUID, place: tuple[str, int, int]) -> None:
    """An execution that needs a place before it begins, in the transaction that accepts it."""
    key, limit, priority = place
    with connection.cursor() as cursor:
        cursor.execute(
            _ASK,
            {
                "execution": execution_id,
                "workspace": workspace_id,
                "kind": OF_RUN,
                "blocks": [None],
                "keys": [key],
                "limits": [limit],
                "priorities": [priority],
            },
        )


@dataclass(frozen=True, slots=True)
class _Turn:
    """A place that may be taken now; `spare` more could have come before it."""

    id: int
    kind: str
    key: str
    execution_id: UUID
    block_pk: int | None
    idx: int
    iteration: int
    spare: int


class Places:
    """What a locked run does about its places: once, when it is left."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began_as = run.status
        self._asked: list[tuple[int, str, int, int]] = []
        self.sweep = False  # what waited for a place may have been settled by others than a walker
        self.granted = 0  # blocks that have become ready

    def ask(self, block_pk: int, key: str, limit: int, priority: int) -> None:
        self._asked.append((block_pk, key, limit, priority))

    def entered(self) -> bool:
        """Whether the run itself may be at work: it has no key, or a place."""
        if not self._run.facts.limited:
            return True
        return self._run.execute(_ENTERED).fetchone() is None

    def take_at_once(self) -> bool:
        """Take the run's own place, or see that others come first."""
        keys = [key for key in self._own()[1] if key[0] == OF_RUN]
        self._lock(keys)
        own = [turn for turn in self._next(keys) if turn.execution_id == self._run.facts.execution_id]
        self._take(own)
        return bool(own)

    def leave(self) -> None:
        """Ask for places, give up those of the settled, take those whose turn it is, tell who is next."""
        if not self._concerned():
            return
        if self._asked:
            self._ask()
        gone, waiting = self._own()
        paused = self._run.status is E.PAUSED and self._began_as is not E.PAUSED
        freed = gone + (waiting if paused else Counter())
        keys = sorted({*freed, *waiting}, key=_lock_of)
        if not keys:
            return
        self._lock(keys)
        turns = self._next(keys)
        own = [turn for turn in turns if turn.execution_id == self._run.facts.execution_id]
        self._take([turn for turn in own if self._may_take(turn)] + self._rides(own))
        self._wake({t.execution_id for t in turns if t not in own and t.spare < freed[t.kind, t.key]})

    def _concerned(self) -> bool:
        facts, run = self._run.facts, self._run
        if facts.keyed:
            return True
        return facts.limited and (run.status is E.PENDING or run.status is not self._began_as)

    def _ask(self) -> None:
        pks, keys, limits, priorities = zip(*self._asked, strict=True)
        self._run.execute(
            _ASK,
            kind=OF_BLOCK,
            blocks=list(pks),
            keys=list(keys),
            limits=list(limits),
            priorities=list(priorities),
        )

    def _own(self) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
        gone: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        everything = self.sweep or self._run.status in TERMINAL or self._run.status is E.CANCELLING
        for kind, key, count, left in self._run.execute(_OWN, all=everything):
            (gone if left else waiting)[kind, key] = count
        return gone, waiting

    def _lock(self, keys: list[tuple[str, str]]) -> None:
        locks = sorted({_lock_of(key) for key in keys})
        self._run.execute(
            _LOCK, spaces=[space for space, _ in locks], buckets=[bucket for _, bucket in locks]
        ).fetchall()

    def _next(self, keys: list[tuple[str, str]]) -> list[_Turn]:
        rows = self._run.execute(
            _NEXT,
            kinds=[kind for kind, _ in keys],
            keys=[key for _, key in keys],
            reach=max(_REACH, self._run.facts.widest_key),
        )
        return [_Turn(*row) for row in rows]

    def _may_take(self, turn: _Turn) -> bool:
        return self._run.status is (E.PENDING if turn.kind == OF_RUN else E.RUNNING)

    def _rides(self, own: list[_Turn]) -> list[_Turn]:
        if self._run.facts.parent_execution_id is None:
            return []
        rows = [_Turn(*row) for row in self._run.execute(_RIDE)]
        known = {turn.id for turn in own}
        return [turn for turn in rows if turn.id not in known and self._may_take(turn)]

    def _take(self, turns: list[_Turn]) -> None:
        if not turns:
            return
        self._run.execute(_TAKE, ids=[turn.id for turn in turns])
        ready = [
            Change(pk=turn.block_pk, idx=turn.idx, iteration=turn.iteration, status=B.READY)
            for turn in turns
            if turn.block_pk is not None
        ]
        self.granted = len(self._run.move(ready, B.WAITING_EXTERNAL))
        self._run.look_again(_SOON_S)
        dispatch.on_commit_hint(self._run.facts.execution_id)

    def _wake(self, executions: set[UUID]) -> None:
        if not executions:
            return
        self._run.execute(_WAKE, timers=[f"check:{execution}" for execution in executions])
        for execution in sorted(executions):
            dispatch.on_commit_look_at(execution)


def _lock_of(key: tuple[str, str]) -> tuple[int, int]:
    kind, text = key
    return _SPACES[kind], zlib.crc32(text.encode()) % _BUCKETS
