"""Reads of targets and deliveries."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet

from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.governance.access import Principal
from agentflow.governance.roles import Permission

from .models import Delivery, Target

M = TypeVar("M", bound=Model)


class NoSuchTarget(NotFound):
    """There is no such target."""


def targets(user: Principal, workspace_id: UUID | None = None) -> QuerySet[Target]:
    """Targets of the workspaces `user` administers, by name."""
    rows = Target.objects.visible_to(user, Permission.ADMINISTER).order_by("name", "pk")
    return _of(rows, user, workspace_id)


def target(user: Principal, pk: UUID) -> Target:
    found = targets(user).filter(pk=pk).first()
    if found is None:
        raise NoSuchTarget
    return found


def deliveries(
    user: Principal,
    *,
    workspace_id: UUID | None = None,
    state: str | None = None,
    channel: str | None = None,
    approval_id: UUID | None = None,
) -> QuerySet[Delivery]:
    """Deliveries of the workspaces `user` administers, the latest first."""
    rows = Delivery.objects.visible_to(user, Permission.ADMINISTER).select_related("user", "target")
    chosen = {"state": state, "channel": channel, "approval": approval_id}
    rows = rows.filter(**{name: value for name, value in chosen.items() if value is not None})
    return _of(rows, user, workspace_id).order_by("-created_at", "-id")


def _of(rows: QuerySet[M], user: Principal, workspace_id: UUID | None) -> QuerySet[M]:
    if workspace_id is None:
        return rows
    access.require(user, Permission.ADMINISTER, workspace_id)
    return rows.filter(workspace=workspace_id)
