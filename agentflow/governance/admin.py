from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Count, OuterRef, Prefetch, QuerySet, Subquery
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from . import access, selectors, vault
from .admin_base import (
    AuditedAdmin,
    BaseList,
    ChoiceFilter,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    holds,
    is_staff,
    link,
    readable,
)
from .forms import GroupForm, SecretForm, WorkspaceForm
from .models import AuditEntry, Secret, User, Workspace, WorkspaceRole
from .ports import SecretUse, secret_uses
from .roles import Permission, Role
from .services import secrets
from .services import workspaces as service

admin.site.unregister(Group)
CHIP = "inline-block rounded-default bg-base-100 px-2 py-0.5 text-xs font-semibold dark:bg-base-800"


def is_superuser(request: HttpRequest) -> bool:
    return is_staff(request) and bool(getattr(request.user, "is_superuser", False))


class SuperuserEdits:
    """Accounts reach across workspaces: only superusers edit them, and nobody deletes one."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(User)
class UserAdmin(SuperuserEdits, DjangoUserAdmin, AuditedAdmin):  # type: ignore[misc,type-arg]
    """Accounts.  Roles are given on the workspace's page; an account is closed, not deleted."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "full_name", "roles", "account", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("username", "first_name", "last_name", "email")
    filter_horizontal = ()
    readonly_fields = ("roles", "last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password", "roles")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Account", {"fields": ("is_active", "is_staff", "is_superuser", "last_login", "date_joined")}),
    )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return holds(request, Permission.ADMINISTER)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return holds(request, Permission.ADMINISTER)  # the queryset holds members of theirs

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        rows = cast("QuerySet[User]", super().get_queryset(request))
        seen = WorkspaceRole.objects.filter(workspace__in=access.workspaces(request.user))
        if not is_superuser(request):
            administered = access.workspaces(request.user, Permission.ADMINISTER)
            members = User.objects.filter(groups__workspace_role__workspace__in=administered)
            rows = rows.filter(pk__in=members.values("pk"))
        groups = Group.objects.filter(workspace_role__in=seen).select_related("workspace_role__workspace")
        return rows.prefetch_related(Prefetch("groups", queryset=groups, to_attr="role_groups"))

    @admin.display(description="Name")
    def full_name(self, user: User) -> str:
        return user.get_full_name() or "-"

    @display(  # type: ignore[untyped-decorator]  # unfold ships no types
        description="Account",
        label={"Closed": "danger", "Superuser": "warning", "Staff": "primary"},
    )
    def account(self, user: User) -> str:
        if not user.is_active:
            return "Closed"
        return "Superuser" if user.is_superuser else "Staff" if user.is_staff else "User"

    @admin.display(description="Roles")
    def roles(self, user: User) -> SafeString | str:
        held = sorted(
            (group.workspace_role.workspace.name, group.workspace_role.role)
            for group in getattr(user, "role_groups", [])
        )
        return (
            format_html_join(" ", '<span class="{}">{}: {}</span>', ((CHIP, *each) for each in held)) or "-"
        )

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        with transaction.atomic():  # the audit entry goes with the change
            return super().user_change_password(request, id, form_url)


@admin.register(Group)
class GroupAdmin(SuperuserEdits, AuditedAdmin):
    """Groups that an approval ladder may name; those of roles are kept by their workspaces."""

    form = GroupForm
    list_display = ("name", "size")
    search_fields = ("name",)
    fields = ("name", "members")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        rows: QuerySet[Group] = super().get_queryset(request).filter(workspace_role=None)
        return rows.annotate(size=Count("user"))

    @admin.display(description="Members", ordering="size")
    def size(self, group: Any) -> int:
        return int(group.size)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        form.instance.user_set.set(form.cleaned_data["members"])


@admin.register(Workspace)
class WorkspaceAdmin(AuditedAdmin, WorkspaceScopedAdmin):
    """Workspaces, their members by role, and which hosts their API agents may call."""

    change_permission = Permission.ADMINISTER
    form = WorkspaceForm
    list_display = ("name", "slug", "environment", "member_count")
    list_filter = ("environment",)
    search_fields = ("name", "slug")
    fieldsets = (
        (None, {"fields": ("name", "slug", "environment")}),
        ("Members", {"fields": tuple(role.value for role in Role)}),
        ("Egress", {"fields": ("egress_allow", "script_network")}),
        ("Choosing agents", {"fields": ("explore_agents",)}),
        ("Budget", {"fields": ("budget",)}),
    )

    def workspace_id_of(self, row: Any) -> Any:
        return row.pk

    def get_queryset(self, request: HttpRequest) -> QuerySet[Workspace]:
        rows = access.workspaces(request.user)
        return rows.annotate(member_count=Count("roles__group__user", distinct=True))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("slug",) if obj is not None else ()  # it stands in addresses and configuration

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # The form lists members: for administrators; the list of one's workspaces is for all staff.
        return is_staff(request) if obj is None else self.has_change_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> Any:
        return ("name",) if self.has_change_permission(request) else None

    @admin.display(description="Members", ordering="member_count")
    def member_count(self, workspace: Any) -> int:
        return int(workspace.member_count)

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        # Who was given and lost a role is recorded by the services, one entry each.
        form.changed_data = [name for name in form.changed_data if name not in list(Role)]
        return super().construct_change_message(request, form, formsets, add)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        workspace = form.instance
        service.open_roles(workspace=workspace)
        by = cast(User, request.user)
        for role in Role:
            if role.value not in form.cleaned_data:
                continue
            wanted = set(form.cleaned_data[role.value])
            present = set(
                User.objects.filter(
                    groups__workspace_role__workspace=workspace, groups__workspace_role__role=role.value
                )
            )
            for user in wanted - present:
                service.grant(user=user, role=role, workspace=workspace, by=by)
            for user in present - wanted:
                service.revoke(user=user, role=role, workspace=workspace, by=by)


SEALED = {
    "first": "The first of the keys",
    "older": "An older key: run manage.py rotate_secrets",
    "none": "No key opens it: set it again",
}


class SecretList(BaseList):
    """Asks for all secrets on the page together who uses them."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        shown: list[Secret] = list(self.result_list)
        found = secret_uses()({secret.workspace_id for secret in shown})
        for secret in shown:
            secret.use = found.get((secret.workspace_id, secret.name), UNUSED)  # type: ignore[attr-defined]
        self.result_list = shown


UNUSED = SecretUse((), None)


@admin.register(Secret)
class SecretAdmin(WorkspaceScopedAdmin):
    """Secrets by name.  A value is written here and never shown."""

    view_permission = Permission.ADMINISTER
    add_permission = change_permission = delete_permission = Permission.ADMINISTER
    form = SecretForm
    list_display = ("name", "workspace_name", "used_by", "last_used", "updated_at", "updated_by")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace", "updated_by")
    search_fields = ("name",)
    empty_words = "Keys and passwords that agents need are kept here, sealed."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Secret]:
        return selectors.secrets_visible_to(request.user).order_by("name", "pk")

    def get_fields(self, request: HttpRequest, obj: Secret | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("workspace", "name", "value")
        return ("workspace_name", "name", "value", *self.SHOWN)

    def get_readonly_fields(self, request: HttpRequest, obj: Secret | None = None) -> tuple[str, ...]:
        if obj is None:
            return ()
        return ("workspace_name", "name", *self.SHOWN)

    SHOWN = ("used_by", "last_used", "sealed_with", "created_at", "updated_at", "updated_by")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[SecretList]:
        return SecretList

    @admin.display(description="Used by")
    def used_by(self, secret: Secret) -> SafeString | str:
        return format_html_join(", ", "{}", ((link(url, name),) for name, url in self._use(secret).by)) or "-"

    @admin.display(description="Last used", empty_value="-")
    def last_used(self, secret: Secret) -> datetime | None:
        return self._use(secret).last_used

    @admin.display(description="Sealed with")
    def sealed_with(self, secret: Secret) -> str:
        return SEALED[vault.sealed_by(secret.sealed)]

    @staticmethod
    def _use(secret: Secret) -> SecretUse:
        known: SecretUse | None = getattr(secret, "use", None)
        if known is not None:
            return known
        return secret_uses()([secret.workspace_id]).get((secret.workspace_id, secret.name), UNUSED)

    def save_model(self, request: HttpRequest, obj: Secret, form: SecretForm, change: bool) -> None:
        secret, _ = secrets.put_secret(
            by=request.user, workspace_id=obj.workspace_id, name=obj.name, value=form.cleaned_data["value"]
        )
        obj.pk = secret.pk

    def delete_model(self, request: HttpRequest, obj: Secret) -> None:
        secrets.delete_secret(by=request.user, workspace_id=obj.workspace_id, name=obj.name)


class AgeFilter(ChoiceFilter):
    title = parameter_name = "when"
    choices_of = {
        "1d": ("Last day", {"at__gte": Now() - timedelta(days=1)}),
        "7d": ("Last 7 days", {"at__gte": Now() - timedelta(days=7)}),
        "30d": ("Last 30 days", {"at__gte": Now() - timedelta(days=30)}),
    }


class ChannelFilter(ChoiceFilter):
    title = parameter_name = "channel"
    choices_of = {
        name: (name, {"channel": name})
        for name in ("api", "page", "admin", "websocket", "worker", "clock", "cli", "system")
    }


@admin.register(AuditEntry)
class AuditEntryAdmin(WorkspaceScopedAdmin):
    """Who did what.  Nothing here can be changed; the database refuses it too."""

    view_permission = Permission.ADMINISTER
    list_display = ("at", "actor_name", "action", "workspace", "target", "channel")
    list_filter = (AgeFilter, ChannelFilter, WorkspaceFilter)
    search_fields = ("actor_name", "action", "target_type", "target_id", "request_id")
    empty_words = "What people and programs change is recorded here."
    fields = readonly_fields = (
        "at",
        "actor_name",
        "actor_id",
        "action",
        "workspace",
        "target",
        "shown_detail",
        "request_id",
        "channel",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        name = Workspace.objects.filter(pk=OuterRef("workspace_id")).values("name")
        rows = selectors.audit_visible_to(request.user).annotate(workspace_name=Subquery(name))
        return rows.order_by("-id")

    @admin.display(description="Workspace")
    def workspace(self, entry: Any) -> str:
        return entry.workspace_name or (str(entry.workspace_id) if entry.workspace_id else "-")

    @admin.display(description="Target")
    def target(self, entry: AuditEntry) -> str:
        """The object by its kind and the beginning of its id, linked where the admin has a page of it."""
        said = f"{entry.target_type} {entry.target_id[:8]}"
        for model in self.admin_site._registry:
            if model._meta.model_name == entry.target_type.replace("_", ""):
                name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
                return link(reverse(name, args=[quote(entry.target_id)]), said)
        return said

    @admin.display(description="Detail")
    def shown_detail(self, entry: AuditEntry) -> str:
        return readable(entry.detail)
