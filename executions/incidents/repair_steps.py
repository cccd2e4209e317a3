"""The clock's part of a repair: apply the fix, to one block first, and go on when that one is mended.

Each block is a transaction of its own that marks its item and does what the fix says, with one audit entry:
after a kill between any two lines the fix was applied to a block or it was not, and the clock goes on with
the rest.  Two clocks at the same repair find each other's items marked.
"""

from __future__ import annotations

import time

import structlog
from django.db import DatabaseError, transaction
from django.db.models.functions import Now

from agentflow.errors import AgentflowError
from agentflow.governance import access
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from executions.engine.facts import version_facts
from executions.engine.run import raw_cursor
from executions.models import Execution
from executions.services import locking, moving, repairing, restarting
from executions.services.restarting import RestartRequest

from . import fixing, repairs, telling
from .fixes import COMPLETE, MOVE, MOVED, RESTARTED, SKIP, DoesNotFit, Fix, outlook, version_of
from .repair_models import ACTIVE, RepairItem, RepairRun
from .states import ItemState, RepairState

log = structlog.get_logger(__name__)

AT_ONCE = 100
STEP_S = 0.25  # of a tick of the clock, which has other duties

# How the first block stands: in the execution's epoch, for a restart gave it a new row.
_BECAME = f"""
SELECT CASE WHEN coalesce(b.status, e.status) IN ('completed', 'skipped') OR b.reason = 'review' THEN 'mended'
    WHEN b.status IN ('failed', 'cancelled') OR b.status = 'waiting_human' AND b.error IS NOT NULL
      OR e.completed_at IS NOT NULL THEN 'failed' ELSE '' END,
  coalesce(b.error->>'message', b.status, e.error->>'message', e.status)
{repairs.NOW} WHERE i.id = %(item)s
"""


def step() -> bool:
    """Go on with every repair that is under way, for a moment each.  True: there is more."""
    more = False
    for repair in RepairRun.objects.filter(state__in=ACTIVE).select_related("incident", "created_by"):
        try:
            more = _go_on(repair) or more
        except DatabaseError:
            raise
        except Exception as error:  # the other duties of the clock go on
            log.exception("repair_failed", repair_id=str(repair.pk))
            _end(repair, RepairState.STOPPED, f"{type(error).__name__}: {error}")
    return more


def _go_on(repair: RepairRun) -> bool:
    if not access.can(repair.created_by, Permission.OPERATE, repair.incident.workspace_id):
        _end(repair, RepairState.STOPPED, "Whoever began it may not operate here any more.")
        return False
    if repair.state == RepairState.CANARY:
        return _try_first(repair)
    return _apply_some(repair)


def _try_first(repair: RepairRun) -> bool:
    """Apply the fix to one block, or see what became of it."""
    item = repair.items.filter(pk=repair.canary or 0).first() or _next(repair)
    if item is None:
        return _end(repair, RepairState.DONE)
    if item.state == ItemState.PENDING:
        RepairRun.objects.filter(pk=repair.pk).update(canary=item.pk)
        repair.canary = item.pk
        apply(repair, item)
        item.refresh_from_db()
    if item.state == ItemState.REFUSED:  # another one tells as much
        repair.canary = None
        RepairRun.objects.filter(pk=repair.pk).update(canary=None)
        return True
    became, why = _became(item)
    if became == "mended" and repairs.move(repair, RepairState.RUNNING):
        return True
    if became == "failed":
        _end(repair, RepairState.FAILED, f"The first block was not mended: {why}")
    return False


def _became(item: RepairItem) -> tuple[str, str]:
    row = raw_cursor().execute(_BECAME, {"item": item.pk}).fetchone()
    return ("failed", "The block is gone.") if row is None else (row[0], row[1])


def _next(repair: RepairRun) -> RepairItem | None:
    return repair.items.filter(state=ItemState.PENDING).order_by("pk").first()


def _apply_some(repair: RepairRun) -> bool:
    until = time.monotonic() + STEP_S
    left = list(repair.items.filter(state=ItemState.PENDING).order_by("pk")[:AT_ONCE])
    for item in left:
        apply(repair, item)
        if time.monotonic() > until:
            return True
    if len(left) < AT_ONCE:
        return _end(repair, RepairState.DONE)
    return True


def _end(repair: RepairRun, to: RepairState, said: str = "") -> bool:
    with transaction.atomic():
        if repairs.move(repair, to, said):
            told = repairs.progress(repair)
            text = f"{to.value}: {told['applied']} applied, {told['refused']} refused, {told['pending']} left"
            repairs.tell(repair, None, f"{text}. {said}".rstrip())
            facts: JSONObject = {"repairId": str(repair.pk), "state": to.value, **told}
            telling.tell(repair.incident, "incident_repaired", facts)
    return False


# -- one block -----------------------------------------------------------------


def apply(repair: RepairRun, item: RepairItem) -> None:
    """Do to one block what the fix says, once; nothing when the repair was stopped meanwhile."""
    with transaction.atomic():
        execution = locking.lock(item.execution_id)
        mine = RepairItem.objects.filter(pk=item.pk, state=ItemState.PENDING, repair__state__in=ACTIVE)
        if not mine.update(state=ItemState.APPLIED, at=Now()):
            return
        try:
            with transaction.atomic():
                attempt = _do(repair, item, execution)
        except AgentflowError as error:
            refused = {"state": ItemState.REFUSED, "code": error.code, "message": error.message}
            RepairItem.objects.filter(pk=item.pk).update(**refused)
        else:
            RepairItem.objects.filter(pk=item.pk).update(attempt=attempt)


def _do(repair: RepairRun, item: RepairItem, execution: Execution) -> int:
    fix = Fix.from_json(repair.fix)
    if fix.action == MOVE and _moved_before(repair, item):
        return int(item.block.attempt)
    version, held = repairs.held_now(item.block_id)
    seen = outlook(fix, held, effect=repairs.effect_of(repair, fix, version))
    if seen.code:
        raise DoesNotFit(seen.code, seen.message)
    if fix.patch:
        block_id = repair.incident.block_id
        fixing.apply(
            execution_id=execution.pk, block_id=block_id, patch=fix.patch, said=f"repair {repair.pk}"
        )
    reason = f"Repair {repair.pk}" + (f": {repair.reason}" if repair.reason else "")
    by = repair.created_by
    if seen.does == MOVED:
        _move(repair, item, fix, reason)
    elif seen.does == RESTARTED:
        restarting.restart(execution_id=execution.pk, by=by, request=RestartRequest(reason=reason))
    elif fix.action == SKIP:
        repairing.skip(execution_id=execution.pk, block_pk=item.block_id, by=by, reason=reason)
    elif fix.action == COMPLETE:
        repairing.complete(
            execution_id=execution.pk, block_pk=item.block_id, output=fix.output, by=by, reason=reason
        )
    else:
        repairing.retry(execution_id=execution.pk, block_pk=item.block_id, by=by, reason=reason)
    return int(item.block.attempt)


def _moved_before(repair: RepairRun, item: RepairItem) -> bool:
    """With another block that the incident holds of the same execution."""
    others = repair.items.filter(execution=item.execution_id, moved_to__isnull=False)
    moved = others.values_list("moved_to", "moved_idx").first()
    if moved is not None:
        RepairItem.objects.filter(pk=item.pk).update(moved_to=moved[0], moved_idx=moved[1])
    return moved is not None


def _move(repair: RepairRun, item: RepairItem, fix: Fix, reason: str) -> None:
    version = version_of(fix, repair.incident.template_id)
    moved_to = moving.move(
        execution_id=item.execution_id, version=version, by=repair.created_by, reason=reason
    )
    planned = version_facts(version.pk).plan.index.get(repair.incident.block_id)
    RepairItem.objects.filter(pk=item.pk).update(moved_to=moved_to, moved_idx=planned)
