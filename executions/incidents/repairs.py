"""Repairing all blocks that an incident holds: foreseen, begun, stopped, told of.

What is begun here is rows; `repair_steps` works them off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.db.models.functions import Now

from agentflow.errors import Conflict, NotFound
from agentflow.governance import audit
from agentflow.governance.access import Principal
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.engine.run import raw_cursor

from ..services import moving
from . import fixes
from .fixes import MOVE, MOVED, Fix, Held, Outlook, outlook
from .handling import locked
from .models import Incident, IncidentNote, NoteKind
from .repair_models import ACTIVE, RepairItem, RepairRun
from .states import REPAIR, RepairState


class NothingToRepair(Conflict):
    """The incident holds no block that the fix could be applied to."""

    code = "nothing_to_repair"
    remedy = "Look at its blocks: they have gone on, or their executions have ended otherwise."


class RepairUnderWay(Conflict):
    """Another repair of the incident is under way."""

    code = "repair_under_way"
    remedy = "Wait for its end, or stop it."


class RepairOver(Conflict):
    """The repair has ended."""

    code = "repair_over"


# Blocks that stand where this failure left them: of the execution's epoch, asking, in backoff or failed.
# What was moved goes on elsewhere, though it still stands as failed.
_HELD = """
FROM executions_incidentblock i
JOIN executions_incident n ON n.id = i.incident_id
JOIN executions_blockexecution b ON b.id = i.block_id
JOIN executions_execution e ON e.id = i.execution_id
WHERE i.incident_id = %(incident)s AND b.epoch = e.epoch AND b.error->>'code' = n.code
  AND (b.status IN ('waiting_human', 'failed') OR b.status = 'ready' AND b.available_at IS NOT NULL)
  AND e.status <> 'completed'
  AND NOT EXISTS (
    SELECT 1 FROM executions_repairitem m WHERE m.execution_id = e.id AND m.moved_to_id IS NOT NULL)
"""
_COLUMNS = """b.status, e.status, b.status <> 'failed', e.parent_block_id IS NOT NULL, b.epoch = e.epoch,
  b.iteration > 0, b.effect, coalesce((b.error->>'outcomeUnknown')::bool, false)"""
_LIST = f"SELECT b.id, b.execution_id, e.template_version_id, {_COLUMNS} {_HELD} ORDER BY b.id"
_VERSIONS = f"SELECT DISTINCT e.template_version_id {_HELD}"
_ITEMS = f"""
INSERT INTO executions_repairitem (repair_id, block_id, execution_id, state, attempt, code, message)
SELECT %(repair)s, b.id, b.execution_id, 'pending', 0, '', '' {_HELD} ORDER BY b.id
"""
_ONE = f"""
SELECT e.template_version_id, {_COLUMNS} FROM executions_blockexecution b
JOIN executions_execution e ON e.id = b.execution_id WHERE b.id = %(block)s
"""


@dataclass(frozen=True, slots=True)
class Foreseen:
    block_pk: int
    execution_id: UUID
    status: str
    outlook: Outlook
    once: bool  # an effect that may have happened would be asked for again
    fit: moving.Fit | None = None  # of a move: what is kept, and what runs again


def foresee(*, incident: Incident, fix: Fix) -> list[Foreseen]:
    """What the fix would do to each block that the incident holds.  Changes nothing.

    Raises:
        NothingToRepair
        fixes.FixInvalid, InvalidInput: the fix does not fit the block.
    """
    rows = raw_cursor().execute(_LIST, {"incident": incident.pk}).fetchall()
    if not rows:
        raise NothingToRepair
    effects = _check(incident, fix, {version for _, _, version, *_ in rows})
    fits = _fits(incident, fix, {execution_id for _, execution_id, *_ in rows})
    found = []
    for pk, execution_id, version, *columns in rows:
        held = Held(*columns)
        seen = outlook(fix, held, effect=effects.get(version))
        fit = fits.get(execution_id) if seen.does == MOVED else None
        if fit is not None and fit.code:
            seen = fixes.refused(fit.code, fit.message)
        once = held.unknown and held.effect == "once" and seen.does in (fixes.AGAIN, fixes.RESTARTED)
        found.append(Foreseen(pk, execution_id, held.status, seen, once, fit))
    return found


def _fits(incident: Incident, fix: Fix, executions: set[UUID]) -> dict[UUID, moving.Fit]:
    if fix.action != MOVE:
        return {}
    return moving.fits(sorted(executions), fixes.version_of(fix, incident.template_id))


def difference(incident: Incident, fix: Fix) -> JSONObject | None:
    """How the version of a move differs from those that the executions have now: names of blocks."""
    if fix.action != MOVE:
        return None
    version = fixes.version_of(fix, incident.template_id)
    before = {row[0] for row in raw_cursor().execute(_VERSIONS, {"incident": incident.pk})} - {version.pk}
    found = [moving.pairing_of(old, version.pk) for old in sorted(before)]
    return {
        name: sorted({block_id for each in found for block_id in getattr(each, name)})
        for name in ("changed", "gone", "added")
    }


def summary(found: Sequence[Foreseen]) -> JSONObject:
    """How many blocks each thing would happen to, and what stands against the others."""
    return {
        "total": len(found),
        "does": dict(Counter(each.outlook.does for each in found)),
        "refused": dict(Counter(each.outlook.code for each in found if each.outlook.code)),
        "onceEffectsRepeated": sum(each.once for each in found),
    }


def begin(*, incident_id: UUID, by: User, fix: Fix, reason: str = "", canary: bool = True) -> RepairRun:
    """Let the fix be applied to every block that the incident holds now; to one first, with `canary`.

    Raises:
        NotFound, NotPermitted, incidents.IncidentResolved, RepairUnderWay, NothingToRepair
        fixes.FixInvalid, InvalidInput: the fix does not fit the block.
    """
    with locked(incident_id, by) as incident:
        if RepairRun.objects.filter(incident=incident, state__in=ACTIVE).exists():
            raise RepairUnderWay
        versions = {row[0] for row in raw_cursor().execute(_VERSIONS, {"incident": incident.pk})}
        if not versions:
            raise NothingToRepair
        _check(incident, fix, versions)
        repair = RepairRun.objects.create(
            incident=incident,
            fix=fix.as_json(),
            state=RepairState.CANARY if canary else RepairState.RUNNING,
            reason=reason,
            created_by=by,
        )
        count = raw_cursor().execute(_ITEMS, {"incident": incident.pk, "repair": repair.pk}).rowcount
        tell(
            repair,
            by,
            f"{fix.action}: {count} block{'' if count == 1 else 's'}"
            + (", one of them first" if canary else ""),
        )
        audit.record(
            action="incident.repair",
            by=by,
            workspace_id=incident.workspace_id,
            target_type="incident",
            target_id=str(incident.pk),
            detail={"repairId": str(repair.pk), "action": fix.action, "blocks": count, "canary": canary},
        )
        return repair


def stop(*, repair_id: UUID, by: User) -> None:
    """Leave what was not reached as it is.  A block that the fix is being applied to is finished.

    Raises:
        NotFound, NotPermitted, RepairOver
    """
    repair = find(by, repair_id)
    with locked(repair.incident_id, by, closed=True):
        if not move(repair, RepairState.STOPPED):
            raise RepairOver
        tell(repair, by, "stopped")
        audit.record(
            action="incident.stop_repair",
            by=by,
            workspace_id=repair.incident.workspace_id,
            target_type="incident",
            target_id=str(repair.incident_id),
            detail={"repairId": str(repair.pk)},
        )


def move(repair: RepairRun, to: RepairState, said: str = "") -> bool:
    """Whether it was still where it can be moved on from."""
    ended = {"ended_at": Now()} if to in REPAIR.final else {}
    rows = RepairRun.objects.filter(pk=repair.pk, state__in=REPAIR.leaving(to))
    return bool(rows.update(state=to, said=said, **ended))


def tell(repair: RepairRun, by: User | None, text: str) -> None:
    IncidentNote.objects.create(incident_id=repair.incident_id, kind=NoteKind.REPAIR, by=by, text=text)


def effect_of(repair: RepairRun, fix: Fix, version_id: int) -> str | None:
    """The effect of the agent that a fix puts in the block's place, if it does."""
    return _effect_of(repair.pk, version_id) if "agentId" in fix.patch else None


@lru_cache(maxsize=64)
def _effect_of(repair_id: UUID, version_id: int) -> str | None:
    repair = RepairRun.objects.select_related("incident").get(pk=repair_id)
    return _check(repair.incident, Fix.from_json(repair.fix), {version_id}).get(version_id)


def held_now(block_pk: int) -> tuple[int, Held]:
    """A block as it is, with its version."""
    row: Any = raw_cursor().execute(_ONE, {"block": block_pk}).fetchone()
    return row[0], Held(*row[1:])


def _check(incident: Incident, fix: Fix, versions: set[int]) -> dict[int, str | None]:
    if fix.action == MOVE:
        fixes.version_of(fix, incident.template_id)
        return {}
    return fixes.check(fix, workspace_id=incident.workspace_id, block_id=incident.block_id, versions=versions)


# -- reads ---------------------------------------------------------------------


def repairs(user: Principal) -> QuerySet[RepairRun]:
    """The repairs that `user` may see, the latest first."""
    rows = RepairRun.objects.visible_to(user).select_related("created_by", "incident")
    return rows.order_by("-created_at", "pk")


def find(user: Principal, repair_id: UUID) -> RepairRun:
    """Raises NotFound: there is none, or `user` may not see it."""
    repair = repairs(user).filter(pk=repair_id).first()
    if repair is None:
        raise NotFound("There is no such repair.", repair_id=str(repair_id))
    return repair


# Where the blocks are now: a restart since has given them a row in a later epoch, a move one in another
# execution, or none, where its version has no such block: then that execution's end tells.
NOW = """
FROM executions_repairitem i
JOIN executions_blockexecution o ON o.id = i.block_id
JOIN executions_execution e ON e.id = coalesce(i.moved_to_id, i.execution_id)
LEFT JOIN executions_blockexecution b ON b.execution_id = e.id AND b.epoch = e.epoch
  AND b.idx = CASE WHEN i.moved_to_id IS NULL THEN o.idx ELSE i.moved_idx END
  AND b.iteration = CASE WHEN i.moved_to_id IS NULL THEN o.iteration ELSE 0 END
"""
_PROGRESS = f"""
SELECT i.state, CASE WHEN i.state <> 'applied' THEN ''
    WHEN coalesce(b.status, e.status) IN ('completed', 'skipped') THEN 'mended'
    WHEN coalesce(b.status, e.status) IN ('failed', 'cancelled')
      OR b.status = 'waiting_human' AND b.error IS NOT NULL THEN 'failedAgain'
    ELSE 'underWay' END, count(*)::int
{NOW} WHERE i.repair_id = %(repair)s GROUP BY 1, 2
"""


def progress(repair: RepairRun) -> JSONObject:
    """`{"pending": 7, "refused": 0, "applied": 3, "mended": 2, "failedAgain": 0, "underWay": 1}`"""
    found: Counter[str] = Counter()
    for state, became, count in raw_cursor().execute(_PROGRESS, {"repair": repair.pk}):
        found[state] += count
        if became:
            found[became] += count
    names = ("pending", "refused", "applied", "mended", "failedAgain", "underWay")
    return {name: found[name] for name in names}


def as_json(repair: RepairRun) -> JSONObject:
    return {
        "repairId": str(repair.pk),
        "incidentId": str(repair.incident_id),
        "fix": repair.fix,
        "state": repair.state,
        "said": repair.said,
        "reason": repair.reason,
        "createdBy": repair.created_by.get_username(),
        "createdAt": repair.created_at,
        "endedAt": repair.ended_at,
        "progress": progress(repair),
    }


def items(repair: RepairRun) -> QuerySet[RepairItem]:
    return RepairItem.objects.filter(repair=repair).select_related("block", "execution").order_by("pk")
