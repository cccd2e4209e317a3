"""Places of concurrency keys: at most so many executions, or blocks, of a workspace work for one key.

Agents with limits have places too: module `choosing` takes them for attempts, and a block that found none
waits for one here, or for one of several.

Who needs a place has a row, waiting or held.  A held one is free again as soon as its holder is settled:
that is read from the holder's row, so nothing has to be given back.  Each takes its place by itself, in a
transaction of its own that holds its execution's lock first and then the key's, an advisory one; whose
turn it is by then is told by a timer that is due at once, for nobody touches another execution's row.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from django.db import connection

from executions import dispatch
from executions.states import TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from .judging import AgentPlace, Change
from .rates import take_of_rate

if TYPE_CHECKING:
    from .run import Run

OF_RUN, OF_BLOCK, OF_AGENT = "execution", "block", "agent"
ANY_AGENT = ""  # the key of a block that waits until some agent is fit
# Transactions take the locks of all their keys at once, those of executions first, in this order; a
# bounded number, however many keys there are.
_SPACES = {OF_RUN: 7101, OF_BLOCK: 7102, OF_AGENT: 7103}
_BUCKETS = 512
UNLIMITED = 1_000_000  # places of an agent of which only the rate is limited
_REACH = 1000  # of those that wait for a key so many are looked at, or as many as its limit
_SOON_S = 5.0

# A place counts while its holder, or who waits for it, is not settled.  An agent's counts for one attempt:
# from when it is given until the call, or what the agent does after it, is over.
LIVE = """e.completed_at IS NULL AND (p.block_id IS NULL OR b.epoch = e.epoch AND CASE
  WHEN p.kind <> 'agent' THEN b.status NOT IN ('completed', 'failed', 'skipped', 'cancelled')
  WHEN NOT p.held THEN b.status = 'waiting_external' AND b.reason IN ('agent', 'tool_agent')
  ELSE p.attempt = b.attempt AND (b.status = 'running'
         OR (b.status = 'waiting_external' AND b.reason IN ('callback', 'child', 'tool_child')))
    OR p.attempt = b.attempt + 1 AND b.status = 'ready' AND e.status IN ('running', 'cancelling') END)"""

# Paused runs let others pass.
GOES_ON = """(e.status IN ('pending', 'running')
  OR (e.status = 'cancelling' AND e.compensation = 'running'))"""

_ASK = """
INSERT INTO executions_place (workspace_id, kind, key, places, priority, execution_id, block_id, held)
SELECT %(workspace)s, %(kind)s, x.key, x.places, x.priority, %(execution)s, x.block, false
FROM unnest(%(blocks)s::bigint[], %(keys)s::text[], %(limits)s::int[], %(priorities)s::int[])
  AS x(block, key, places, priority)
ON CONFLICT DO NOTHING
"""

# For the blocks at one position of a version, with one effect, the same agents are fit.
_SEEKS = "concat_ws(':', e.template_version_id, md5(e.patches::text), b.idx, b.effect)"

_ASK_AGENTS = f"""
INSERT INTO executions_place (workspace_id, kind, key, places, rate, priority, execution_id, block_id, held,
    seeks)
SELECT %(workspace)s, 'agent', x.key, x.places, x.rate, x.priority, %(execution)s, x.block, false,
  CASE WHEN x.key = '{ANY_AGENT}' THEN {_SEEKS} ELSE '' END
FROM unnest(%(blocks)s::bigint[], %(keys)s::text[], %(limits)s::int[], %(rates)s::int[],
            %(priorities)s::int[]) WITH ORDINALITY AS x(block, key, places, rate, priority, n)
JOIN executions_blockexecution b ON b.id = x.block JOIN executions_execution e ON e.id = b.execution_id
ORDER BY x.n
ON CONFLICT (block_id, kind, key) DO UPDATE
  SET held = false, attempt = NULL, places = excluded.places, rate = excluded.rate, seeks = excluded.seeks
"""

# What this run has no use for any more, and what it waits for.
_OWN = f"""
WITH gone AS (
  DELETE FROM executions_place WHERE id IN (
    SELECT p.id FROM executions_place p JOIN executions_execution e ON e.id = p.execution_id
    LEFT JOIN executions_blockexecution b ON b.id = p.block_id
    WHERE p.execution_id = %(execution)s AND (p.held OR %(all)s) AND NOT ({LIVE}))
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

# Whose turn it is: fewer than its limit hold a place or come before it.
_NEXT = f"""
SELECT n.id, n.kind, n.key, n.execution_id, n.block_id, n.idx, n.iteration, n.places - h.held - n.rank,
  n.rank, n.rate
FROM unnest(%(kinds)s::text[], %(keys)s::text[]) AS k(kind, key)
CROSS JOIN LATERAL (
  SELECT count(*)::int AS held FROM executions_place p
  JOIN executions_execution e ON e.id = p.execution_id
  LEFT JOIN executions_blockexecution b ON b.id = p.block_id
  WHERE p.workspace_id = %(workspace)s AND p.kind = k.kind AND p.key = k.key AND p.held AND ({LIVE})) h
CROSS JOIN LATERAL (
  SELECT w.*, (row_number() OVER (ORDER BY w.priority DESC, w.id))::int AS rank FROM (
    SELECT p.id, p.kind, p.key, p.execution_id, p.block_id, p.places, p.priority, b.idx, b.iteration,
      p.rate
    FROM executions_place p
    JOIN executions_execution e ON e.id = p.execution_id
    LEFT JOIN executions_blockexecution b ON b.id = p.block_id
    WHERE p.workspace_id = %(workspace)s AND p.kind = k.kind AND p.key = k.key AND NOT p.held
      AND {GOES_ON} AND ({LIVE})
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
SELECT p.id, p.kind, p.key, p.execution_id, p.block_id, o.idx, o.iteration, 0, 0, NULL
FROM executions_place p LEFT JOIN executions_blockexecution o ON o.id = p.block_id
WHERE p.execution_id = %(execution)s AND NOT p.held AND p.kind <> 'agent' AND EXISTS (
  SELECT 1 FROM above JOIN executions_blockexecution b ON b.id = above.block
  JOIN executions_place h ON h.kind = p.kind AND h.key = p.key AND h.held
    AND (h.block_id = b.id OR (h.block_id IS NULL AND h.execution_id = b.execution_id)))
"""

_TAKE = """
UPDATE executions_place p SET held = true,
  attempt = (SELECT b.attempt + 1 FROM executions_blockexecution b
             WHERE b.id = p.block_id AND p.kind = 'agent')
WHERE p.id = ANY(%(ids)s::bigint[])
"""

# Who has got one agent waits for no other.
_LEAVE_OTHERS = """
DELETE FROM executions_place WHERE block_id = ANY(%(blocks)s::bigint[]) AND kind = 'agent' AND NOT held
RETURNING key
"""

_GIVE_BACK = """
DELETE FROM executions_place
WHERE block_id = %(block)s AND kind = 'agent' AND key = %(agent)s AND held AND attempt = %(attempt)s
"""

_ENTERED = """
SELECT 1 FROM executions_place WHERE execution_id = %(execution)s AND block_id IS NULL AND NOT held
"""

_HAS_AGENTS = "SELECT 1 FROM executions_place WHERE execution_id = %(execution)s AND kind = 'agent' LIMIT 1"

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
    rank: int  # among those that wait
    rate: int | None  # of an agent, a minute


class Places:
    """What a locked run does about its places: once, when it is left."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began_as = run.status
        self._asked: list[tuple[int, str, int, int]] = []
        self.sweep = False  # what waited for a place may have been settled by others than a walker
        self.granted = 0  # blocks that have become ready
        self.of_agents = False  # the transaction touches places of agents
        self._wanted: list[tuple[int, AgentPlace, int]] = []
        self._given_back: Counter[tuple[str, str]] = Counter()

    def ask(self, block_pk: int, key: str, limit: int, priority: int) -> None:
        self._asked.append((block_pk, key, limit, priority))

    def ask_for_agents(self, block_pk: int, agents: tuple[AgentPlace, ...], priority: int) -> None:
        """A block was handed back for want of one of these agents, or of any."""
        self.of_agents = True
        wanted = agents or (AgentPlace(ANY_AGENT, 0),)
        self._wanted += [(block_pk, agent, priority) for agent in wanted]

    def give_back(self, block_pk: int, attempt: int, agent_id: str) -> None:
        """The attempt goes on without the place of an agent that was called on its way."""
        self.of_agents = True
        given = self._run.execute(_GIVE_BACK, block=block_pk, attempt=attempt, agent=agent_id)
        self._given_back[OF_AGENT, agent_id] += given.rowcount

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
        if self._wanted:
            self._ask_for_agents()
        gone, waiting = self._own()
        paused = self._run.status is E.PAUSED and self._began_as is not E.PAUSED
        freed = gone + self._given_back + (waiting if paused else Counter())
        keys = sorted({*freed, *waiting} - {(OF_AGENT, ANY_AGENT)}, key=_lock_of)
        if not keys:
            return
        self._lock(keys)
        turns = self._next(keys)
        own = [turn for turn in turns if turn.execution_id == self._run.facts.execution_id]
        taken = _one_for_each_block([turn for turn in own if self._may_take(turn)] + self._rides(own))
        left = self._take(self._within_rates(taken))
        if left:  # who waits behind a block that has got another agent moves up
            freed += left
            turns = self._next(keys)
            own = [turn for turn in turns if turn.execution_id == self._run.facts.execution_id]
        self._wake({t.execution_id for t in turns if t not in own and t.spare < freed[t.kind, t.key]})

    def _concerned(self) -> bool:
        facts, run = self._run.facts, self._run
        if facts.keyed or self.of_agents:
            return True
        if self.sweep and run.execute(_HAS_AGENTS).fetchone() is not None:
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

    def _ask_for_agents(self) -> None:
        self._run.execute(
            _ASK_AGENTS,
            blocks=[pk for pk, _, _ in self._wanted],
            keys=[agent.agent_id for _, agent, _ in self._wanted],
            limits=[agent.limit for _, agent, _ in self._wanted],
            rates=[agent.rate for _, agent, _ in self._wanted],
            priorities=[priority for _, _, priority in self._wanted],
        )

    def _own(self) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
        gone: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        over = self._run.status in TERMINAL or self._run.status is E.CANCELLING
        everything = self.sweep or self.of_agents or over
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
        if turn.kind == OF_AGENT:
            return self._run.works
        return self._run.status is (E.PENDING if turn.kind == OF_RUN else E.RUNNING)

    def _within_rates(self, turns: list[_Turn]) -> list[_Turn]:
        """Those whose agent takes another call now; the others are looked after when it does."""
        within = []
        ahead: Counter[str] = Counter()  # who stood before a turn and has been counted by now
        for turn in turns:
            if turn.rate is None:
                within.append(turn)
                continue
            before = turn.rank - 1 - ahead[turn.key]
            workspace_id = self._run.facts.workspace_id
            seconds = take_of_rate(self._run.cursor, workspace_id, turn.key, turn.rate, before=before)
            if seconds <= 0:
                ahead[turn.key] += 1
                within.append(turn)
            else:
                self._run.look_again(seconds)
        return within

    def _rides(self, own: list[_Turn]) -> list[_Turn]:
        if self._run.facts.parent_execution_id is None:
            return []
        rows = [_Turn(*row) for row in self._run.execute(_RIDE)]
        known = {turn.id for turn in own}
        return [turn for turn in rows if turn.id not in known and self._may_take(turn)]

    def _take(self, turns: list[_Turn]) -> Counter[tuple[str, str]]:
        """Take places; for whose agents the blocks wait no longer."""
        if not turns:
            return Counter()
        self._run.execute(_TAKE, ids=[turn.id for turn in turns])
        ready = [
            Change(pk=turn.block_pk, idx=turn.idx, iteration=turn.iteration, status=B.READY)
            for turn in turns
            if turn.block_pk is not None
        ]
        self.granted = len(self._run.move(ready, B.WAITING_EXTERNAL))
        self._run.look_again(_SOON_S)
        dispatch.on_commit_hint(self._run.facts.execution_id)
        blocks = [turn.block_pk for turn in turns if turn.kind == OF_AGENT]
        if not blocks:
            return Counter()
        return Counter((OF_AGENT, key) for (key,) in self._run.execute(_LEAVE_OTHERS, blocks=blocks))

    def _wake(self, executions: set[UUID]) -> None:
        if not executions:
            return
        self._run.execute(_WAKE, timers=[f"check:{execution}" for execution in executions])
        for execution in sorted(executions):
            dispatch.on_commit_look_at(execution)


def _one_for_each_block(turns: list[_Turn]) -> list[_Turn]:
    """A block that waits for several agents takes one."""
    return list({turn.block_pk or -turn.id: turn for turn in reversed(turns)}.values())


def lock_agents(cursor: psycopg.Cursor[Any], agent_ids: Iterable[str]) -> None:
    locks = sorted({_lock_of((OF_AGENT, agent_id)) for agent_id in agent_ids})
    given = {"spaces": [space for space, _ in locks], "buckets": [bucket for _, bucket in locks]}
    cursor.execute(_LOCK, given).fetchall()


def _lock_of(key: tuple[str, str]) -> tuple[int, int]:
    kind, text = key
    return _SPACES[kind], zlib.crc32(text.encode()) % _BUCKETS
