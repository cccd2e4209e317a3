"""The rows of budgets: what became of each, who asks about it, and who waits for a word.

A row of `BudgetState` is locked by whoever may ask about its budget and by whoever answers, so that a run
which begins to wait is told of an answer that comes at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agentflow.types import JSONObject
from agentflow.workflow.definition import Budget
from executions import dispatch
from executions.models import BudgetScope

from .facts import Facts, as_json
from .rows import loads
from .run import Run, raw_cursor

OF_A_DAY = frozenset({BudgetScope.AGENT, BudgetScope.WORKSPACE})
TOLD_AT_ONCE = 100  # runs; the clock finds the others within a moment
CACHED_S = 3.0  # after so long every process has read a changed budget


@dataclass(frozen=True, slots=True)
class Held:
    """One budget that a block draws on.

    `spent` is what was used up of a day's by now, by unit; of the others attempts and steps of the run
    tell whose template gives it.
    """

    scope: BudgetScope
    key: str
    name: str  # for people
    budget: Budget
    spent: Mapping[str, float] | None = None
    waits_s: float | None = None  # until the next day, where nobody is asked
    agent_id: str = ""  # whose it is
    run_id: UUID | None = None  # None: of a day
    block_id: str = ""  # of a block's


@dataclass(frozen=True, slots=True)
class State:
    """What became of it until now."""

    warned: bool = False
    extra: JSONObject | None = None
    answered: int = 0
    stopped: bool = False
    agent_id: str = ""


States = dict[tuple[BudgetScope, str], State]

_COLUMNS = "s.scope, s.key, s.warned, s.extra, s.answered, {stopped}, s.agent_id"

_OF_RUN = f"""
SELECT {_COLUMNS.format(stopped="coalesce(s.stopped_epoch = e.epoch, false)")}
FROM executions_budgetstate s JOIN executions_execution e ON e.id = s.execution_id
WHERE s.execution_id = ANY(%(executions)s::uuid[])
"""

_OF_DAYS = f"""
SELECT {_COLUMNS.format(stopped="false")} FROM executions_budgetstate s
WHERE s.workspace_id = %(workspace)s AND s.scope IN ('agent', 'workspace') AND s.key = ANY(%(keys)s::text[])
"""

_ASKED_BY = """
SELECT s.scope, s.key, s.warned, s.extra, s.answered, false, s.agent_id FROM executions_budgetstate s
WHERE s.asked_block = %(block)s
"""

_WARN = """
INSERT INTO executions_budgetstate AS s (workspace_id, execution_id, scope, key, warned, extra, answered)
VALUES (%(workspace)s, %(execution)s, %(scope)s, %(key)s, true, '{}', 0)
ON CONFLICT (workspace_id, scope, key) DO UPDATE SET warned = true WHERE NOT s.warned
RETURNING id
"""

# Whoever asked before may ask again, once it is settled or was taken back so may others.  The row is locked
# also where it says no.
_ASK = """
INSERT INTO executions_budgetstate AS s
  (workspace_id, execution_id, scope, key, warned, extra, answered, asked_block)
VALUES (%(workspace)s, %(of)s, %(scope)s, %(key)s, false, '{}', 0, %(block)s)
ON CONFLICT (workspace_id, scope, key) DO UPDATE SET asked_block = excluded.asked_block
WHERE s.answered = %(answered)s AND (s.asked_block = excluded.asked_block OR NOT EXISTS (
  SELECT 1 FROM executions_blockexecution b JOIN executions_execution e ON e.id = b.execution_id
  WHERE b.id = s.asked_block AND b.epoch = e.epoch AND e.completed_at IS NULL
    AND b.status NOT IN ('completed', 'failed', 'skipped', 'cancelled')))
RETURNING id
"""

_ASKING = """
SELECT b.id, b.idx, b.iteration, s.scope, s.key
FROM executions_blockexecution b JOIN executions_budgetstate s ON s.asked_block = b.id
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.status = 'waiting_human'
  AND s.scope IN ('agent', 'workspace') ORDER BY b.id
"""

_ANSWERED = """
SELECT answered FROM executions_budgetstate
WHERE workspace_id = %(workspace)s AND scope = %(scope)s AND key = %(key)s
"""

_ANSWER = """
UPDATE executions_budgetstate
SET extra = coalesce(%(extra)s::jsonb, extra), answered = answered + 1, asked_block = NULL
WHERE asked_block = %(block)s
"""

_STOP = """
INSERT INTO executions_budgetstate AS s
  (workspace_id, execution_id, scope, key, warned, extra, answered, stopped_epoch)
SELECT %(workspace)s, e.id, %(scope)s, %(key)s, false, '{}', 0, e.epoch
FROM executions_execution e WHERE e.id = %(of)s
ON CONFLICT (workspace_id, scope, key) DO UPDATE SET stopped_epoch = excluded.stopped_epoch
"""

_GO_ON_WITH = """
INSERT INTO executions_budgetstate AS s
  (workspace_id, execution_id, scope, key, warned, extra, answered, agent_id)
VALUES (%(workspace)s, %(execution)s, 'block', %(key)s, false, '{}', 0, %(agent)s)
ON CONFLICT (workspace_id, scope, key) DO UPDATE SET agent_id = excluded.agent_id
"""

_WAKE = """
UPDATE executions_blockexecution SET available_at = NULL
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'ready'
  AND reason IN ('budget', 'budget_day')
"""

_WAIT = """
INSERT INTO executions_budgetwait (workspace_id, execution_id, scope, key)
VALUES (%(workspace)s, %(execution)s, %(scope)s, %(key)s) ON CONFLICT DO NOTHING
"""

# As `statements.NEWS`, to all that wait for the budget, and where it was changed to who asks about it.
_TELL = """
WITH waited AS (
  DELETE FROM executions_budgetwait
  WHERE workspace_id = %(workspace)s AND scope = %(scope)s AND key = %(key)s RETURNING execution_id),
told AS (
  SELECT execution_id FROM waited
  UNION
  SELECT b.execution_id FROM executions_budgetstate s
  JOIN executions_blockexecution b ON b.id = s.asked_block
  WHERE s.workspace_id = %(workspace)s AND s.scope = %(scope)s AND s.key = %(key)s
    AND %(execution)s::uuid IS NULL),
news AS (
  INSERT INTO executions_timer (kind, key, execution_id, due_at, tries, progress)
  SELECT 'news', 'news:' || execution_id || ':budget', execution_id,
         statement_timestamp() + %(seconds)s * interval '1 second', 0, 0
  FROM told WHERE execution_id IS DISTINCT FROM %(execution)s ON CONFLICT (key) DO NOTHING)
SELECT execution_id FROM told WHERE execution_id IS DISTINCT FROM %(execution)s
"""
OF_BUDGETS = ":budget"  # how the key of such a timer ends


def block_key(facts: Facts, block_id: str) -> str:
    return f"{facts.execution_id}:{block_id}"


def of_run(facts: Facts) -> States:
    """Of the budgets that the template gives, and those of the runs above, and with what blocks go on."""
    runs = [facts.execution_id, *(each.execution_id for each in facts.above)]
    return _states(raw_cursor().execute(_OF_RUN, {"executions": runs}))


def asking(run: Run) -> list[tuple[int, int, int, BudgetScope, str]]:
    """The blocks of a run that ask about the budget of a day: row, position, item, scope and key."""
    rows = run.execute(_ASKING).fetchall()
    return [(pk, idx, iteration, BudgetScope(scope), key) for pk, idx, iteration, scope, key in rows]


def of_days(workspace_id: UUID, keys: Iterable[str]) -> States:
    given = {"workspace": workspace_id, "keys": list(keys)}
    return _states(raw_cursor().execute(_OF_DAYS, given)) if given["keys"] else {}


def asked_by(run: Run, block_pk: int) -> tuple[BudgetScope, str, State] | None:
    """The budget that a block asks about."""
    found = _states(run.execute(_ASKED_BY, block=block_pk))
    return next(((scope, key, state) for (scope, key), state in found.items()), None)


def warn(facts: Facts, held: Held) -> bool:
    """Note a warning.  False: there was one."""
    given: JSONObject = {"workspace": facts.workspace_id, "execution": held.run_id}
    given |= {"scope": str(held.scope), "key": held.key}
    return raw_cursor().execute(_WARN, given).fetchone() is not None


def ask(run: Run, block_pk: int, held: Held, answered: int) -> bool:
    """Take the one question about a budget.  False: it is asked, or was answered since `answered`."""
    given = {"of": held.run_id, "scope": str(held.scope), "key": held.key}
    return run.execute(_ASK, block=block_pk, answered=answered, **given).fetchone() is not None


def wait(run: Run, held: Held, answered: int) -> bool:
    """Let the run be told of a word about the budget.  False: there was one since `answered`."""
    given = {"scope": str(held.scope), "key": held.key}
    row = run.execute(_ANSWERED, **given).fetchone()
    if row is not None and row[0] != answered:
        return False
    run.execute(_WAIT, **given)
    return True


def answer(run: Run, block_pk: int, extra: JSONObject | None = None) -> None:
    """The question of a block is answered; `extra` is what the budget allows more from now on."""
    run.execute(_ANSWER, block=block_pk, extra=None if extra is None else as_json(extra))


def stop(run: Run, scope: BudgetScope, key: str) -> None:
    """Of a run, this or one above it: as long as it is not restarted."""
    run.execute(_STOP, scope=str(scope), key=key, of=key[:36])


def go_on_with(run: Run, block_id: str, agent_id: str) -> None:
    run.execute(_GO_ON_WITH, key=block_key(run.facts, block_id), agent=agent_id)


def wake(run: Run, scope: BudgetScope | None = None, key: str = "") -> None:
    """Let blocks look again that wait for a word: of this run, and of all that wait for the same budget."""
    run.execute(_WAKE)
    if scope is not None:
        for (other,) in run.execute(_TELL, scope=str(scope), key=key, seconds=0).fetchall()[:TOLD_AT_ONCE]:
            dispatch.on_commit_look_at(other)


def changed(workspace_id: UUID, scope: BudgetScope, key: str) -> None:
    """A budget of a day was changed: who waits for it looks once every process knows."""
    given = {"workspace": workspace_id, "scope": str(scope), "key": key}
    raw_cursor().execute(_TELL, {**given, "execution": None, "seconds": CACHED_S})


def _states(rows: Iterable[Any]) -> States:
    return {
        (BudgetScope(scope), key): State(warned, loads(extra), answered, stopped, agent_id)
        for scope, key, warned, extra, answered, stopped, agent_id in rows
    }
