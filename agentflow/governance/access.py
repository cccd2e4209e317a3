"""Who may do what: every read goes through `visible_to`, every command through `require`.

A role is a group that holds guardian permissions on its workspace, so one subquery answers for
any number of rows.  Superusers may do everything; inactive and anonymous users nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Self, TypeAlias, TypeVar
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q, QuerySet

from ..errors import InvalidInput, NotFound, NotPermitted
from .models import User, Workspace, WorkspaceGroupObjectPermission, WorkspaceUserObjectPermission
from .roles import Permission

Principal: TypeAlias = AbstractBaseUser | AnonymousUser
M = TypeVar("M", bound=models.Model)

_WORDS = {
    Permission.VIEW: "look at",
    Permission.AUTHOR: "write templates in",
    Permission.OPERATE: "run and steer executions in",
    Permission.MANAGE_AGENTS: "manage agents in",
    Permission.DECIDE: "decide approvals in",
    Permission.ADMINISTER: "administer",
}


def signed_in(user: Any) -> User:
    """The person behind a request: anonymous ones come no further than authentication or the login page."""
    assert isinstance(user, User)
    return user


def workspaces(user: Principal, permission: Permission = Permission.VIEW) -> QuerySet[Workspace]:
    """The workspaces in which `user` holds `permission`; usable as a subquery."""
    if not user.is_active or not user.is_authenticated:
        return Workspace.objects.none()
    if getattr(user, "is_superuser", False):
        return Workspace.objects.all()
    # A union: of an OR the planner expects three workspaces of four, and reads whole tables for them.
    by_role, in_person = _held(user, permission)
    held: QuerySet[Any, Any] = by_role.values("content_object_id")
    return Workspace.objects.filter(pk__in=held.union(in_person.values("content_object_id")))


def workspaces_of(
    user_pks: Collection[int], permission: Permission, among: Collection[UUID] | None = None
) -> dict[int, frozenset[UUID]]:
    """`workspaces` of many people at once, in four queries at most; who is inactive has none."""
    active = User.objects.filter(pk__in=user_pks, is_active=True).values_list("pk", "is_superuser")
    superusers = {pk for pk, is_superuser in active if is_superuser}
    found: dict[int, set[UUID]] = {pk: set() for pk, _ in active}
    if superusers:
        there = Workspace.objects.all() if among is None else Workspace.objects.filter(pk__in=among)
        everywhere = set(there.values_list("pk", flat=True))
        found |= dict.fromkeys(superusers, everywhere)
    held = _named(permission) | ({} if among is None else {"content_object__in": list(among)})
    ordinary = [pk for pk in found if pk not in superusers]
    by_role = WorkspaceGroupObjectPermission.objects.filter(**held, group__user__in=ordinary)
    in_person = WorkspaceUserObjectPermission.objects.filter(**held, user__in=ordinary)
    for pk, workspace_id in [
        *by_role.values_list("group__user", "content_object_id"),
        *in_person.values_list("user", "content_object_id"),
    ]:
        if pk in found:
            found[pk].add(workspace_id)
    return {pk: frozenset(workspace_ids) for pk, workspace_ids in found.items()}


def held_somewhere(user: Principal) -> frozenset[Permission]:
    """What `user` may do in one workspace at least, in one query."""
    if not user.is_active or not user.is_authenticated:
        return frozenset()
    if getattr(user, "is_superuser", False):
        return frozenset(Permission)
    by_role, in_person = (rows.values_list("permission__codename", flat=True) for rows in _held(user))
    return frozenset(Permission(name) for name in by_role.union(in_person))


def _held(
    user: Principal, *permissions: Permission
) -> tuple[QuerySet[WorkspaceGroupObjectPermission], QuerySet[WorkspaceUserObjectPermission]]:
    """The rows that give `user` one of these permissions on workspaces: by a role, and in person."""
    held = _named(*permissions)
    return (
        WorkspaceGroupObjectPermission.objects.filter(**held, group__user=user.pk),
        WorkspaceUserObjectPermission.objects.filter(**held, user=user.pk),
    )


def _named(*permissions: Permission) -> dict[str, Any]:
    return {
        "permission__codename__in": [each.value for each in permissions or Permission],
        "permission__content_type__app_label": "governance",
        "permission__content_type__model": "workspace",
    }


def holders(permission: Permission, workspace_ids: Collection[UUID]) -> QuerySet[User]:
    """The active people to whom `permission` was given in one of these workspaces; superusers need none."""
    held = {**_named(permission), "content_object__in": list(workspace_ids)}
    groups = WorkspaceGroupObjectPermission.objects.filter(**held).values("group_id")
    in_person = WorkspaceUserObjectPermission.objects.filter(**held).values("user_id")
    by_role = User.groups.through.objects.filter(group_id__in=groups).values("user_id")
    return User.objects.filter(Q(pk__in=by_role) | Q(pk__in=in_person), is_active=True).order_by("pk")


def can(user: Principal, permission: Permission, workspace_id: UUID) -> bool:
    return workspaces(user, permission).filter(pk=workspace_id).exists()


def require(user: Principal, permission: Permission, workspace_id: UUID) -> None:
    """Pass, or say why not.

    Raises:
        NotFound: the workspace does not exist or may not be seen; the two look the same.
        NotPermitted: it may be seen, but the permission is missing.
    """
    if can(user, permission, workspace_id):
        return
    if permission is Permission.VIEW or not can(user, Permission.VIEW, workspace_id):
        raise NotFound("There is no such workspace.", workspace_id=str(workspace_id))
    raise NotPermitted(
        f"You may not {_WORDS[permission]} this workspace.",
        remedy="Ask an administrator of the workspace for a role that allows it.",
        permission=permission.value,
    )


def chosen(user: Principal, permission: Permission, workspace_id: UUID | None) -> UUID:
    """The workspace a request is about: the one it names, or the only one the user belongs to.

    Raises:
        InvalidInput: none is named and the user belongs to several, or to none.
        NotFound, NotPermitted: as `require`.
    """
    if workspace_id is None:
        own = list(workspaces(user).values_list("pk", flat=True)[:2])
        if len(own) != 1:
            raise InvalidInput(
                "workspaceId is needed: you belong to " + ("several workspaces." if own else "no workspace."),
                pointer="/workspaceId",
                remedy="GET /api/v1/workspaces lists yours.",
            )
        workspace_id = own[0]
    require(user, permission, workspace_id)
    return workspace_id


class WorkspaceScopedQuerySet(models.QuerySet[M]):
    """Rows that belong to a workspace; the model's `workspace_path` is the lookup that leads there."""

    def visible_to(self, user: Principal, permission: Permission = Permission.VIEW) -> Self:
        """The rows in workspaces where `user` holds `permission`."""
        if getattr(user, "is_superuser", False) and user.is_active:
            return self.all()
        path = getattr(self.model, "workspace_path", "workspace")
        return self.filter(**{f"{path}__in": workspaces(user, permission)})
