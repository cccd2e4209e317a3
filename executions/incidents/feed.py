"""Counts noted failures into incidents: 10,000 of one kind are one row, counted by a few statements.

Notes are taken away by the statement that counts them, past those that another clock has in hand: each is
counted once, however many clocks count, and one that dies leaves its notes to the others.
"""

from __future__ import annotations

import structlog
from django.db import DataError, IntegrityError

from executions.engine.run import raw_cursor

log = structlog.get_logger(__name__)

AT_ONCE = 5_000

# Notes whose block is gone are taken away uncounted.  Incidents are locked in the order of their keys, so
# that two clocks never wait for each other; a block's row follows the lock of its incident.
_COUNT = """
WITH next AS MATERIALIZED (
  SELECT id FROM executions_failurenote ORDER BY id LIMIT %(most)s FOR UPDATE SKIP LOCKED),
taken AS (
  DELETE FROM executions_failurenote n USING next WHERE n.id = next.id
  RETURNING n.id, n.block, n.fingerprint, n.failure, n.at),
failures AS (
  SELECT t.*, b.execution_id, b.block_id AS name, e.workspace_id, e.simulation IS NOT NULL AS simulated,
         v.template_id
  FROM taken t JOIN executions_blockexecution b ON b.id = t.block
  JOIN executions_execution e ON e.id = b.execution_id
  JOIN templates_app_templateversion v ON v.id = e.template_version_id),
kinds AS (
  SELECT workspace_id, fingerprint, simulated, min(id) AS first, count(*) AS count,
         min(at) AS first_seen, max(at) AS last_seen
  FROM failures GROUP BY 1, 2, 3),
counted AS (
  INSERT INTO executions_incident AS i (id, workspace_id, template_id, block_id, code, kind, fingerprint,
      simulated, sample, sample_block, first_seen, last_seen, count)
  SELECT gen_random_uuid(), k.workspace_id, f.template_id, f.name, coalesce(f.failure->>'code', ''),
         left(coalesce(f.failure->>'kind', 'critical'), 20), k.fingerprint, k.simulated, f.failure, f.block,
         k.first_seen, k.last_seen, k.count
  FROM kinds k JOIN failures f ON f.id = k.first
  ORDER BY k.workspace_id, k.fingerprint, k.simulated
  ON CONFLICT (workspace_id, fingerprint, simulated) WHERE NOT state = 'resolved'
  DO UPDATE SET count = i.count + excluded.count, last_seen = greatest(i.last_seen, excluded.last_seen),
                first_seen = least(i.first_seen, excluded.first_seen)
  RETURNING i.id, i.workspace_id, i.fingerprint, i.simulated, i.xmax = 0 AS opened),
told AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT c.workspace_id, f.execution_id, f.name, 'incident_opened', 30, jsonb_build_object(
    'incidentId', c.id, 'code', f.failure->>'code', 'again', EXISTS (
      SELECT 1 FROM executions_incident o WHERE o.workspace_id = c.workspace_id AND o.id <> c.id
        AND o.fingerprint = c.fingerprint AND o.simulated = c.simulated AND o.state = 'resolved'))
  FROM counted c JOIN kinds k USING (workspace_id, fingerprint, simulated) JOIN failures f ON f.id = k.first
  WHERE c.opened ORDER BY f.id),
blocks AS (
  INSERT INTO executions_incidentblock AS b (incident_id, block_id, execution_id, failures, first_at, last_at)
  SELECT c.id, f.block, f.execution_id, count(*), min(f.at), max(f.at)
  FROM failures f JOIN counted c USING (workspace_id, fingerprint, simulated) GROUP BY 1, 2, 3
  ON CONFLICT (incident_id, block_id)
  DO UPDATE SET failures = b.failures + excluded.failures, last_at = greatest(b.last_at, excluded.last_at))
SELECT count(*)::int FROM taken
"""

# The note tells the timeline that nobody did it.
_WAKE = """
WITH woken AS (
  UPDATE executions_incident SET state = 'open', snoozed_until = NULL
  WHERE state = 'snoozed' AND snoozed_until <= statement_timestamp()
  RETURNING id, workspace_id, block_id, sample_block),
told AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT w.workspace_id, b.execution_id, w.block_id, 'incident_reopened', 30,
    jsonb_build_object('incidentId', w.id)
  FROM woken w LEFT JOIN executions_blockexecution b ON b.id = w.sample_block)
INSERT INTO executions_incidentnote (incident_id, kind, text, at)
SELECT id, 'woken', '', statement_timestamp() FROM woken
"""


def noted() -> bool:
    """Whether a failure waits to be counted."""
    row = raw_cursor().execute("SELECT EXISTS (SELECT 1 FROM executions_failurenote)").fetchone()
    return bool(row and row[0])


def count() -> bool:
    """Count what is noted.  True: there is more."""
    try:
        row = raw_cursor().execute(_COUNT, {"most": AT_ONCE}).fetchone()
    except (DataError, IntegrityError):  # the clock has other duties, and the notes stay
        log.exception("failures_not_counted")
        return False
    return row is not None and row[0] == AT_ONCE


def wake() -> None:
    """Open incidents again whose snooze is over."""
    raw_cursor().execute(_WAKE)
