"""Creating workspaces and giving people roles there."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.contrib.auth.models import Group
from django.contrib.auth.models import Permission as PermissionRow
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import transaction

from ...errors import InvalidInput
from ...types import JSONObject
from ...workflow import daily
from ...workflow.daily import DayBudget
from .. import access, audit
from ..access import Principal
from ..models import User, Workspace, WorkspaceGroupObjectPermission, WorkspaceRole
from ..roles import GRANTS, Permission, Role


@transaction.atomic
def create_workspace(
    *,
    slug: str,
    name: str,
    by: User | None,
    owner: User | None = None,
    environment: str = Workspace.Environment.DEVELOPMENT,
    egress_allow: Sequence[str] = (),
) -> Workspace:
    """Make a workspace with its five role groups; `owner`, if given, becomes its first admin.

    Raises:
        InvalidInput: the slug is taken or malformed, or the allow list names something not a host.
    """
    workspace = Workspace(slug=slug, name=name, environment=environment, egress_allow=list(egress_allow))
    try:
        workspace.full_clean()
    except ValidationError as error:
        raise InvalidInput(
            "The workspace cannot be created.",
            issues=[
                {"pointer": f"/{field}", "code": "invalid", "message": message, "remedy": ""}
                for field, messages in error.message_dict.items()
                for message in messages
            ],
        ) from error
    workspace.save(force_insert=True)
    open_roles(workspace=workspace)
    audit.record(
        action="workspace.create",
        by=by,
        workspace_id=workspace.pk,
        target_type="workspace",
        target_id=str(workspace.pk),
        detail={"slug": slug, "name": name, "environment": environment},
    )
    if owner is not None:
        grant(user=owner, role=Role.ADMIN, workspace=workspace, by=by)
    return workspace


@transaction.atomic
def set_budget(*, by: Principal, workspace_id: UUID, budget: JSONObject) -> Workspace:
    """What the workspace's agents may use up together in a day; an empty object: as much as comes.

    Raises:
        NotFound, NotPermitted: `by` does not administer the workspace.
        InvalidInput: with every issue.
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    issues = daily.issues(budget)
    if issues:
        raise InvalidInput("The budget cannot be set.", issues=issues)
    workspace = Workspace.objects.select_for_update().get(pk=workspace_id)
    workspace.budget = DayBudget.model_validate(budget).stored()
    workspace.save(update_fields=["budget", "updated_at"])
    audit.record(
        action="workspace.budget",
        by=by,
        workspace_id=workspace.pk,
        target_type="workspace",
        target_id=str(workspace.pk),
        detail={"budget": workspace.budget},
    )
    return workspace


@transaction.atomic
def open_roles(*, workspace: Workspace) -> None:
    """Give a workspace its role groups and their permissions; safe to repeat."""
    content_type = ContentType.objects.get_for_model(Workspace)
    rows = {
        row.codename: row
        for row in PermissionRow.objects.filter(
            content_type=content_type, codename__in=[permission.value for permission in Permission]
        )
    }
    for role in Role:
        group, _ = Group.objects.get_or_create(name=f"workspace:{workspace.pk}:{role.value}")
        WorkspaceRole.objects.get_or_create(workspace=workspace, role=role.value, defaults={"group": group})
        WorkspaceGroupObjectPermission.objects.bulk_create(
            [
                WorkspaceGroupObjectPermission(
                    group=group, permission=rows[permission.value], content_object=workspace
                )
                for permission in sorted(GRANTS[role])
            ],
            ignore_conflicts=True,
        )


@transaction.atomic
def grant(*, user: User, role: Role, workspace: Workspace, by: User | None = None) -> None:
    """Give `user` a role; given twice, it is recorded once."""
    group = workspace.roles.select_related("group").get(role=role.value).group
    if user.groups.filter(pk=group.pk).exists():
        return
    user.groups.add(group)
    _record("workspace.grant", user, role, workspace, by)


@transaction.atomic
def revoke(*, user: User, role: Role, workspace: Workspace, by: User | None = None) -> None:
    """Take a role away; open sockets that rested on it close within their next check."""
    group = workspace.roles.select_related("group").get(role=role.value).group
    if not user.groups.filter(pk=group.pk).exists():
        return
    user.groups.remove(group)
    _record("workspace.revoke", user, role, workspace, by)


def _record(action: str, user: User, role: Role, workspace: Workspace, by: User | None) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=workspace.pk,
        target_type="user",
        target_id=str(user.pk),
        detail={"username": user.username, "role": role.value},
    )
