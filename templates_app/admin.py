from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, cast
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from agentflow.conf import KB
from agentflow.errors import AgentflowError
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import selectors
from .models import Template, TemplateVersion
from .services import authoring
from .states import VersionStatus

SHOWN_BYTES = 256 * KB  # of a definition; a browser lays out more only slowly
STATUS_COLOURS = {"draft": "warning", "published": "success", "deprecated": "info"}


class WorkspaceFilter(admin.SimpleListFilter):
    """Offers only the workspaces one belongs to."""

    title = "workspace"
    parameter_name = "workspace"
    path = "workspace"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(row.pk), row.name) for row in access.workspaces(request.user)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        known = {key for key, _ in self.lookup_choices}
        return queryset.filter(**{self.path: self.value()}) if self.value() in known else None


class VersionWorkspaceFilter(WorkspaceFilter):
    path = "template__workspace"


class ArchivedFilter(admin.SimpleListFilter):
    title = "in use"
    parameter_name = "archived"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "In use"), ("yes", "Archived")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        return {"no": queryset.filter(archived_at=None), "yes": queryset.exclude(archived_at=None)}.get(
            self.value() or ""
        )


class _ReadOnly:
    """Rows are written by services; what one may see is decided by the queryset."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_module_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_author_permission(self, request: HttpRequest) -> bool:
        return access.workspaces(request.user, Permission.AUTHOR).exists()


def _each(
    request: HttpRequest, rows: Iterable[tuple[UUID, str]], act: Callable[[int, User], Any], done: str
) -> None:
    """Do `act` to each row, given as workspace and name; tell what was done and what was refused."""
    user, count = cast(User, request.user), 0
    for index, (workspace_id, name) in enumerate(rows):
        try:
            access.require(user, Permission.AUTHOR, workspace_id)
            act(index, user)
        except AgentflowError as error:
            messages.error(request, f"{name}: {error.message}")
        else:
            count += 1
    if count:
        messages.success(request, f"{done}: {count}.")


class VersionInline(TabularInline):  # type: ignore[misc]  # unfold ships no types
    model = TemplateVersion
    fields = ("page", "label", "status", "block_count", "created_by", "created_at")
    readonly_fields = fields
    ordering = ("-number",)
    extra = 0
    per_page = 20
    can_delete = False

    @display(description="Version")  # type: ignore[untyped-decorator]  # as above
    def page(self, version: TemplateVersion) -> str:
        url = reverse("admin:templates_app_templateversion_change", args=[version.pk])
        return format_html('<a href="{}">Version {}</a>', url, version.number)

    def get_queryset(self, request: HttpRequest) -> QuerySet[TemplateVersion]:
        rows = TemplateVersion.objects.visible_to(request.user).select_related("created_by")
        return rows.defer("definition", "calls").order_by("-number")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Template)
class TemplateAdmin(_ReadOnly, ModelAdmin):  # type: ignore[misc]  # as above
    list_display = ("name", "workspace", "category", "labels", "newest", "newest_status", "updated_at")
    list_filter = (WorkspaceFilter, ArchivedFilter, ("category", admin.AllValuesFieldListFilter))
    list_select_related = ("workspace",)
    search_fields = ("name",)  # shows the box; what it does is below
    search_help_text = 'Words of name, description, tags and blocks; "a phrase", or, -not'
    show_full_result_count = False  # a count over all rows for every page
    fields = (
        "name",
        "description",
        "workspace",
        "category",
        "labels",
        "created_by",
        "created_at",
        "updated_at",
        "archived_at",
    )
    readonly_fields = fields
    inlines = (VersionInline,)
    actions = ("publish_newest", "deprecate_newest", "archive")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Template]:
        newest = TemplateVersion.objects.filter(template=OuterRef("pk")).order_by("-number")
        return (
            Template.objects.visible_to(request.user)
            .defer("search", "search_text")
            .annotate(
                newest_number=Subquery(newest.values("number")[:1]),
                status_of_newest=Subquery(newest.values("status")[:1]),
            )
            .order_by("-updated_at", "id")
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Template], search_term: str
    ) -> tuple[QuerySet[Template], bool]:
        return (selectors.matching(queryset, search_term) if search_term else queryset), False

    @display(description="Tags")  # type: ignore[untyped-decorator]  # as above
    def labels(self, template: Template) -> str:
        return ", ".join(template.tags)

    @display(description="Newest")  # type: ignore[untyped-decorator]  # as above
    def newest(self, template: Any) -> str:
        return f"Version {template.newest_number}"

    @display(description="Status", label=STATUS_COLOURS)  # type: ignore[untyped-decorator]  # as above
    def newest_status(self, template: Any) -> str:
        return str(template.status_of_newest)

    @admin.action(description="Publish the newest version", permissions=["author"])
    def publish_newest(self, request: HttpRequest, queryset: QuerySet[Template]) -> None:
        self._move(request, queryset, authoring.publish_version, "Published")

    @admin.action(description="Deprecate the newest version", permissions=["author"])
    def deprecate_newest(self, request: HttpRequest, queryset: QuerySet[Template]) -> None:
        self._move(request, queryset, authoring.deprecate_version, "Deprecated")

    @admin.action(description="Archive, or delete what never ran", permissions=["author"])
    def archive(self, request: HttpRequest, queryset: QuerySet[Template]) -> None:
        rows = list(queryset)
        _each(
            request,
            [(row.workspace_id, row.name) for row in rows],
            lambda index, user: authoring.delete_template(template_id=rows[index].pk, by=user),
            "Archived or deleted",
        )

    def _move(
        self, request: HttpRequest, queryset: QuerySet[Template], act: Callable[..., Any], done: str
    ) -> None:
        rows: list[Any] = list(queryset)
        _each(
            request,
            [(row.workspace_id, row.name) for row in rows],
            lambda index, user: act(template_id=rows[index].pk, number=rows[index].newest_number, by=user),
            done,
        )


@admin.register(TemplateVersion)
class TemplateVersionAdmin(_ReadOnly, ModelAdmin):  # type: ignore[misc]  # as above
    list_display = ("title", "shown_status", "label", "block_count", "created_by", "created_at")
    list_filter = (VersionWorkspaceFilter, "status")
    search_fields = ("template__name",)
    ordering = ("-id",)
    show_full_result_count = False
    fields = (
        "template_page",
        "number",
        "shown_status",
        "label",
        "block_count",
        "content_hash",
        "created_by",
        "created_at",
        "pretty",
    )
    readonly_fields = fields
    actions = ("publish", "deprecate")

    def get_queryset(self, request: HttpRequest) -> QuerySet[TemplateVersion]:
        rows = TemplateVersion.objects.visible_to(request.user).select_related("template", "created_by")
        return rows.defer("definition", "calls", "template__search", "template__search_text")

    @display(description="Version")  # type: ignore[untyped-decorator]  # as above
    def title(self, version: TemplateVersion) -> str:
        return str(version)

    @display(description="Status", label=STATUS_COLOURS)  # type: ignore[untyped-decorator]  # as above
    def shown_status(self, version: TemplateVersion) -> str:
        return version.status

    @display(description="Template")  # type: ignore[untyped-decorator]  # as above
    def template_page(self, version: TemplateVersion) -> str:
        url = reverse("admin:templates_app_template_change", args=[version.template_id])
        return format_html('<a href="{}">{}</a>', url, version.template.name)

    @display(description="Definition")  # type: ignore[untyped-decorator]  # as above
    def pretty(self, version: TemplateVersion) -> str:
        text = json.dumps(version.definition, indent=2, ensure_ascii=False)
        more = "" if len(text) <= SHOWN_BYTES else "\n... (the REST API gives the whole definition)"
        return format_html(
            '<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{}{}</pre>', text[:SHOWN_BYTES], more
        )

    @admin.action(description="Publish", permissions=["author"])
    def publish(self, request: HttpRequest, queryset: QuerySet[TemplateVersion]) -> None:
        self._move(request, queryset, VersionStatus.PUBLISHED)

    @admin.action(description="Deprecate", permissions=["author"])
    def deprecate(self, request: HttpRequest, queryset: QuerySet[TemplateVersion]) -> None:
        self._move(request, queryset, VersionStatus.DEPRECATED)

    def _move(self, request: HttpRequest, queryset: QuerySet[TemplateVersion], status: VersionStatus) -> None:
        rows = list(queryset)
        publishes = status == VersionStatus.PUBLISHED
        act = authoring.publish_version if publishes else authoring.deprecate_version
        _each(
            request,
            [(row.template.workspace_id, str(row)) for row in rows],
            lambda index, user: act(template_id=rows[index].template_id, number=rows[index].number, by=user),
            status.label,
        )
