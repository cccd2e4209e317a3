"""Counts what recovery decided and what came of it, in the transaction that counts attempts for the measures.

Each attempt is looked at once: for the decision that its own failure led to, and as the result of the
decision before it.  So nothing is remembered between, and nothing is counted twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from executions.engine.run import raw_cursor
from executions.recovery.experience import OTHER

MOST_CODES = 50  # told apart in a template, and in a workspace
KEPT_WEEKS = 12

# The attempt before: of the same row, or, after a restart that recovery decided, of the epoch before.  An
# attempt whose worker vanished, that was stopped, that waited on its way or that called nobody is no result.
# Executions that meet faults on purpose teach nothing, unless the faults are to count.
_ENDED = """
WITH ended AS (
  SELECT a.attempt, a.outcome, a.ended_at, a.failure, b.id AS block, b.execution_id, b.epoch, b.idx,
         b.iteration, e.workspace_id, v.template_id
  FROM executions_blockattempt a
  JOIN executions_blockexecution b ON b.id = a.block_id
  JOIN executions_execution e ON e.id = b.execution_id
  JOIN templates_app_templateversion v ON v.id = e.template_version_id
  LEFT JOIN executions_faultinjection f ON f.id = e.faults_id
  WHERE a.id > %(after)s AND a.id <= %(upto)s AND e.simulation IS NULL AND coalesce(f.counts, true)
    AND (a.attempt > 1 OR b.epoch > 1 OR a.failure ? 'recovery')),
told AS (
  SELECT workspace_id, template_id, failure, ended_at, 1 AS taken, 0 AS tries, 0 AS recovered, 0 AS seconds
  FROM ended WHERE failure ? 'recovery'
  UNION ALL
  SELECT e.workspace_id, e.template_id, p.failure, e.ended_at, 0, 1, (e.outcome = 'ok')::int,
         greatest(extract(epoch FROM e.ended_at - p.ended_at), 0)
  FROM ended e
  CROSS JOIN LATERAL (
    SELECT o.id, t.failure, t.ended_at
    FROM executions_blockexecution o JOIN executions_blockattempt t ON t.block_id = o.id
    WHERE o.execution_id = e.execution_id AND o.idx = e.idx AND o.iteration = e.iteration
      AND (o.epoch < e.epoch OR o.id = e.block AND t.attempt < e.attempt)
      AND t.outcome <> 'waited' AND coalesce(t.failure->>'code', '') <> ALL (%(nobody)s)
    ORDER BY o.epoch DESC, t.attempt DESC LIMIT 1) p
  WHERE e.outcome IN ('ok', 'error') AND coalesce(e.failure->>'code', '') <> ALL (%(nobody)s)
    AND p.failure ? 'recovery' AND (p.id = e.block OR p.failure->'recovery'->>'strategy' = 'restart'))
SELECT workspace_id, template_id, date_trunc('week', ended_at AT TIME ZONE 'UTC')::date,
  left(failure->'recovery'->>'cause', 20), left(coalesce(failure->>'code', ''), 100),
  left(failure->'recovery'->>'strategy', 12),
  sum(taken)::bigint, sum(tries)::bigint, sum(recovered)::bigint, sum(seconds)::float8
FROM told GROUP BY 1, 2, 3, 4, 5, 6
"""

_CODES = """
SELECT workspace_id, template_id, code FROM executions_strategytally
WHERE workspace_id = ANY(%(workspaces)s) AND (template_id = ANY(%(templates)s) OR template_id IS NULL)
GROUP BY 1, 2, 3
"""

_MERGE = """
INSERT INTO executions_strategytally AS t
  (workspace_id, template_id, week, cause, code, strategy, taken, tries, recovered, seconds)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (workspace_id, template_id, week, cause, code, strategy) DO UPDATE SET
  taken = t.taken + excluded.taken, tries = t.tries + excluded.tries,
  recovered = t.recovered + excluded.recovered, seconds = t.seconds + excluded.seconds
"""

Scope = tuple[UUID, UUID | None]  # workspace, and template or all
# Workspace, template, week, cause, code, strategy, taken, tries, recovered, seconds.
_Row = tuple[UUID, UUID, date, str, str, str, int, int, int, float]


@dataclass(slots=True)
class _Sums:
    taken: int = 0
    tries: int = 0
    recovered: int = 0
    seconds: float = 0.0

    def add(self, taken: int, tries: int, recovered: int, seconds: float) -> None:
        self.taken += taken
        self.tries += tries
        self.recovered += recovered
        self.seconds += seconds


def count(*, after: int, upto: int) -> None:
    """Count the attempts of these ids.  In the caller's transaction, which lets none come twice."""
    given = {"after": after, "upto": upto, "nobody": ["circuit_open", "circuit_open_long", "cancelled"]}
    rows = raw_cursor().execute(_ENDED, given).fetchall()
    if rows:
        _merge(rows)


def _merge(rows: Iterable[_Row]) -> None:
    listed = list(rows)
    codes = _codes_kept(listed)
    sums: dict[tuple[Scope, date, str, str, str], _Sums] = defaultdict(_Sums)
    for workspace, template, week, cause, code, strategy, taken, tries, recovered, seconds in listed:
        for scope in _scopes(workspace, template):
            kept = code if code in codes[scope] else OTHER
            sums[scope, week, cause, kept, strategy].add(taken, tries, recovered, seconds)
    # One order for all who write.
    ordered = sorted(sums.items(), key=lambda item: (str(item[0][0]), *item[0][1:]))
    raw_cursor().executemany(
        _MERGE,
        [
            (*scope, *key, each.taken, each.tries, each.recovered, each.seconds)
            for (scope, *key), each in ordered
        ],
    )


def _scopes(workspace: UUID, template: UUID) -> tuple[Scope, Scope]:
    return (workspace, template), (workspace, None)


def _codes_kept(
    rows: list[_Row],
) -> dict[Scope, set[str]]:
    """Of each scope the codes that are told apart: those that are known, and the most frequent new ones."""
    new: dict[Scope, Counter[str]] = defaultdict(Counter)
    for workspace, template, _, _, code, _, taken, tries, *_rest in rows:
        for scope in _scopes(workspace, template):
            new[scope][code] += taken + tries
    given = {"workspaces": [row[0] for row in rows], "templates": [row[1] for row in rows]}
    kept: dict[Scope, set[str]] = {scope: set() for scope in new}
    for workspace, known_template, code in raw_cursor().execute(_CODES, given).fetchall():
        if (workspace, known_template) in kept:
            kept[workspace, known_template].add(code)
    for scope, found in new.items():
        for code, _ in found.most_common():
            if len(kept[scope]) < MOST_CODES:
                kept[scope].add(code)
    return kept


def purge() -> int:
    """Remove what is too old to tell anything."""
    statement = "DELETE FROM executions_strategytally WHERE week < current_date - 7 * %s"
    return int(raw_cursor().execute(statement, [KEPT_WEEKS]).rowcount)
