"""Recovery points: which blocks have settled, written down in the transaction that holds the run.

One short row each.  Nothing is copied, for outputs never change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentflow.conf import LIMITS
from executions.models import PointKind

if TYPE_CHECKING:
    from .run import Run

NAME_CHARS = 200

_SETTLED = """
SELECT idx FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND iteration = 0
  AND idx < %(blocks)s AND status IN ('completed', 'failed', 'skipped', 'cancelled')
"""

_WRITE = """
INSERT INTO executions_recoverypoint (execution_id, epoch, kind, name, xid, settled, settled_count,
    created_by_id, created_at)
VALUES (%(execution)s, %(epoch)s, %(kind)s, %(name)s, pg_current_xact_id()::text::bigint, %(settled)s,
    %(count)s, %(by)s, statement_timestamp())
RETURNING id
"""

# The oldest automatic ones give way; what people made stays.
_THIN = """
DELETE FROM executions_recoverypoint WHERE id IN (
  SELECT id FROM executions_recoverypoint WHERE execution_id = %(execution)s AND kind <> 'manual'
  ORDER BY id DESC OFFSET %(kept)s)
"""


def write(run: Run, kind: PointKind, *, name: str = "", by_id: int | None = None) -> int:
    """Take a recovery point of a locked run as it is now; gives its id."""
    idxs = [idx for (idx,) in run.execute(_SETTLED, blocks=len(run.facts.plan.blocks))]
    row = run.execute(
        _WRITE, kind=str(kind), name=name[:NAME_CHARS], settled=bitmap(idxs), count=len(idxs), by=by_id
    ).fetchone()
    assert row is not None
    if kind is not PointKind.MANUAL:
        run.execute(_THIN, kept=LIMITS.recovery_points_kept)
    return int(row[0])


def bitmap(idxs: Iterable[int]) -> bytes:
    """Positions as bits, the lowest first."""
    bits = bytearray()
    for idx in sorted(idxs):
        bits.extend(bytes(idx // 8 + 1 - len(bits)))
        bits[idx // 8] |= 1 << idx % 8
    return bytes(bits)
