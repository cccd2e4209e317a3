"""Switching a workspace's faults on and off."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from agentflow.errors import Conflict, NotFound
from agentflow.governance import access, audit
from agentflow.governance.access import Principal
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from executions.engine.run import raw_cursor

from .models import EndedBecause, FaultInjection

MINUTES_MAX = 24 * 60
PRODUCTION = Workspace.Environment.PRODUCTION


class NotInProduction(Conflict):
    """Nothing goes wrong on purpose in a workspace that is marked as production."""

    code = "production_workspace"
    remedy = "Try it in another workspace, or in a simulation."


class AlreadyInjecting(Conflict):
    """Faults are injected in this workspace already."""

    code = "already_injecting"
    remedy = "Stop them first."


class NoSuchInjection(NotFound):
    """No faults are injected there just now."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`rules` as `rules.Rule.of` reads them, checked; an empty seed: a new one."""

    rules: list[JSONObject]
    minutes: int
    seed: str = ""
    counts: bool = False
    reason: str = ""


def injections(user: Principal) -> QuerySet[FaultInjection]:
    """Those of one's workspaces, the latest first."""
    rows = FaultInjection.objects.visible_to(user).select_related("workspace", "started_by", "ended_by")
    return rows.order_by("-started_at")


def active(rows: QuerySet[FaultInjection]) -> QuerySet[FaultInjection]:
    """Those that are on at this moment."""
    on = Q(ended_at=None, ends_at__gt=Now()) & ~Q(workspace__environment=PRODUCTION)
    return rows.filter(on)


@transaction.atomic
def begin(*, by: User, workspace_id: UUID, wanted: Wanted) -> FaultInjection:
    """Let executions that are started from now on meet these faults, for so long.

    Raises:
        NotFound, NotPermitted: `by` may not operate the workspace.
        NotInProduction, AlreadyInjecting
    """
    access.require(by, Permission.OPERATE, workspace_id)
    workspace = Workspace.objects.select_for_update(no_key=True).get(pk=workspace_id)
    if workspace.environment == PRODUCTION:
        raise NotInProduction
    end_due(workspace_id)
    if FaultInjection.objects.filter(workspace=workspace, ended_at=None).exists():
        raise AlreadyInjecting
    made = FaultInjection.objects.create(
        workspace=workspace,
        rules=wanted.rules,
        seed=wanted.seed or secrets.token_hex(8),
        counts=wanted.counts,
        reason=wanted.reason,
        started_by=by,
        ends_at=Now() + timedelta(minutes=wanted.minutes),
    )
    detail: JSONObject = {"rules": wanted.rules, "minutes": wanted.minutes, "seed": made.seed}
    detail |= {"counts": wanted.counts, "reason": wanted.reason}
    _told("faults.begin", made, by, detail)
    return injections(by).get(pk=made.pk)


@transaction.atomic
def stop(*, by: User, workspace_id: UUID) -> FaultInjection:
    """End a workspace's faults; calls that meet one already go on.

    Raises:
        NotFound, NotPermitted
    """
    access.require(by, Permission.OPERATE, workspace_id)
    found = FaultInjection.objects.select_for_update(no_key=True).filter(
        workspace=workspace_id, ended_at=None
    )
    injection = found.first()
    if injection is None:
        raise NoSuchInjection("No faults are injected there just now.")
    FaultInjection.objects.filter(pk=injection.pk).update(
        ended_at=Now(), ended_by=by, ended_because=EndedBecause.STOPPED
    )
    _told("faults.stop", injection, by, {})
    return injections(by).get(pk=injection.pk)


# Over at its time, or as its workspace became one of production, whichever was seen first.
_END = """
WITH ended AS (
  UPDATE executions_faultinjection f
  SET ended_at = statement_timestamp(),
      ended_because = CASE WHEN f.ends_at <= statement_timestamp() THEN 'over' ELSE 'production' END
  FROM governance_workspace w
  WHERE w.id = f.workspace_id AND f.ended_at IS NULL
    AND f.workspace_id = coalesce(%(workspace)s::uuid, f.workspace_id)
    AND (f.ends_at <= statement_timestamp() OR w.environment = 'production')
  RETURNING f.id, f.workspace_id, f.ended_because)
SELECT id, workspace_id, ended_because FROM ended
"""


@transaction.atomic
def end_due(workspace_id: UUID | None = None) -> None:
    """End what is over, everywhere or in one workspace.  What meets a fault has looked at the row itself."""
    for pk, of, because in raw_cursor().execute(_END, {"workspace": workspace_id}).fetchall():
        audit.record(
            action="faults.end",
            by=None,
            workspace_id=of,
            target_type="faults",
            target_id=str(pk),
            detail={"because": because},
        )


def _told(action: str, injection: FaultInjection, by: User, detail: JSONObject) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=injection.workspace_id,
        target_type="faults",
        target_id=str(injection.pk),
        detail=detail,
    )
