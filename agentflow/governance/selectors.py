"""Reads about people and their workspaces."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from django.db.models import Q, QuerySet

from .access import Principal, workspaces
from .models import AuditEntry, Secret, User, WorkspaceRole
from .roles import Permission, Role


def roles_of(user: Principal) -> dict[UUID, list[Role]]:
    """Which roles `user` holds, by workspace."""
    held: defaultdict[UUID, list[Role]] = defaultdict(list)
    rows = WorkspaceRole.objects.filter(group__user=user.pk).values_list("workspace_id", "role")
    for workspace_id, role in rows:
        held[workspace_id].append(Role(role))
    return {workspace_id: sorted(roles, key=list(Role).index) for workspace_id, roles in held.items()}


def members(workspace_id: UUID) -> QuerySet[User]:
    """Everyone with a role in the workspace."""
    return User.objects.filter(groups__workspace_role__workspace=workspace_id).distinct()


def audit_visible_to(user: Principal) -> QuerySet[AuditEntry]:
    """Entries of workspaces the user administers, and those about the user's own doings."""
    if getattr(user, "is_superuser", False) and user.is_active:
        return AuditEntry.objects.all()
    administered = workspaces(user, Permission.ADMINISTER).values("pk")
    return AuditEntry.objects.filter(
        Q(workspace_id__in=administered) | Q(workspace_id=None, actor_id=user.pk)
    )


def secrets_visible_to(user: Principal) -> QuerySet[Secret]:
    """Secrets, by name, of the workspaces the user administers.  Their values stay sealed."""
    administered = workspaces(user, Permission.ADMINISTER)
    return Secret.objects.filter(workspace__in=administered).defer("sealed", "sealed_before")
