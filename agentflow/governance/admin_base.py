"""What every admin page of a workspace's rows shares: who sees what, and that edits are audited."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from . import access, audit
from .roles import Permission

M = TypeVar("M", bound=Model)


def is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


class WorkspaceFilter(admin.SimpleListFilter):
    """Offers only the workspaces one may see; `path` leads from the row to its workspace's id."""

    title = "workspace"
    parameter_name = "workspace"
    path: ClassVar[str] = "workspace_id"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(row.pk), row.name) for row in access.workspaces(request.user)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M] | None:
        known = {key for key, _ in self.lookup_choices}
        return queryset.filter(**{self.path: self.value()}) if self.value() in known else None


class AuditedAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """Every addition, change and deletion made through a form is on the audit record."""

    def workspace_id_of(self, row: Any) -> UUID | None:
        """The workspace a row belongs to; for rows that have it under another name, override."""
        found: UUID | None = getattr(row, "workspace_id", None)
        return found

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "create", message)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "change", message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Any]) -> Any:
        for row in queryset:
            self._record(request, row, "delete", [])
        return super().log_deletions(request, queryset)

    def _record(self, request: HttpRequest, row: Any, verb: str, message: Any) -> None:
        kind = self.model._meta.model_name
        audit.record(
            action=f"{kind}.{verb}",
            by=request.user,
            workspace_id=self.workspace_id_of(row),
            target_type=kind,
            target_id=str(row.pk),
            detail={"changes": message},  # names of fields, no values
        )


class WorkspaceScopedAdmin(AuditedAdmin):
    """Rows of workspaces, seen and edited by what one's roles there allow.

    A staff user sees rows of workspaces where they hold `view_permission`, and may change, add or
    delete where they hold the permission named; None, the default, means nobody may by a form.
    """

    view_permission: ClassVar[Permission] = Permission.VIEW
    change_permission: ClassVar[Permission | None] = None
    add_permission: ClassVar[Permission | None] = None
    delete_permission: ClassVar[Permission | None] = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: Any = super().get_queryset(request)
        visible: QuerySet[Any] = rows.visible_to(request.user, self.view_permission)
        return visible

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.view_permission, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.change_permission, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.add_permission, None)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.delete_permission, obj)

    def _may(self, request: HttpRequest, permission: Permission | None, row: Any) -> bool:
        if permission is None or not is_staff(request):
            return False
        workspace_id = None if row is None else self.workspace_id_of(row)
        if workspace_id is None:
            return access.workspaces(request.user, permission).exists()
        return access.can(request.user, permission, workspace_id)
