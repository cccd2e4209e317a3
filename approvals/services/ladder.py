"""The ladder of a workspace: which groups answer which levels."""

from __future__ import annotations

from django.db import transaction

from agentflow.errors import Conflict
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from ..models import Approval, ApprovalLevel
from ..states import ApprovalStatus


class LevelInUse(Conflict):
    """Open questions are waiting for this level."""

    code = "level_in_use"
    remedy = "Answer or cancel them first."


@transaction.atomic
def save(*, level: ApprovalLevel, by: User) -> None:
    """Add a rung or change one."""
    access.require(by, Permission.ADMINISTER, level.workspace_id)
    added = level.pk is None
    level.full_clean()
    level.save()
    _record("approval_level.add" if added else "approval_level.change", level, by)


@transaction.atomic
def remove(*, level: ApprovalLevel, by: User) -> None:
    """Take a rung away.

    Raises:
        LevelInUse: somebody is still asked at this level; nobody could answer them any more.
    """
    access.require(by, Permission.ADMINISTER, level.workspace_id)
    if in_use(level):
        raise LevelInUse(level=level.name)
    _record("approval_level.remove", level, by)
    level.delete()


def in_use(level: ApprovalLevel) -> bool:
    return Approval.objects.filter(
        workspace=level.workspace_id, level=level.name, status=ApprovalStatus.PENDING
    ).exists()


def _record(action: str, level: ApprovalLevel, by: User) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=level.workspace_id,
        target_type="approval_level",
        target_id=str(level.pk),
        detail={"name": level.name, "position": level.position, "group": level.group.name},
    )
