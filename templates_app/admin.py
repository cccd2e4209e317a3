from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from unfold.admin import TabularInline
from unfold.decorators import action, display

from agentflow.governance.admin_base import (
    ChoiceFilter,
    Table,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    condition,
    json_text,
    page_of,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from . import confirming, selectors
from .models import Template, TemplateVersion
from .ports import template_health
from .services import authoring
from .states import VersionStatus

BLOCKS_PER_PAGE = 100
STATUS_COLOURS = {
    VersionStatus.DRAFT.label: "warning",
    VersionStatus.PUBLISHED.label: "success",
    VersionStatus.DEPRECATED.label: "default",
}


class Move(Protocol):
    def __call__(self, *, template_id: UUID, number: int, by: User) -> TemplateVersion: ...


class VersionWorkspaceFilter(WorkspaceFilter):
    path = "template__workspace"


class ArchivedFilter(ChoiceFilter):
    title = "in use"
    parameter_name = "archived"
    choices_of = {
        "no": ("In use", {"archived_at__isnull": True}),
        "yes": ("Archived", {"archived_at__isnull": False}),
    }


class VersionInline(TabularInline):  # type: ignore[misc]  # unfold ships no types
    model = TemplateVersion
    verbose_name_plural = "Versions"
    hide_title = True
    fields = ("page", "label", "shown_status", "block_count", "author", "created_at")
    readonly_fields = fields
    ordering = ("-number",)
    extra = 0
    per_page = 20
    can_delete = False

    @display(description="Version")  # type: ignore[untyped-decorator]  # as above
    def page(self, version: TemplateVersion) -> str:
        return page_of(version, f"Version {version.number}")

    @display(description="Status")  # type: ignore[untyped-decorator]  # as above
    def shown_status(self, version: TemplateVersion) -> str:
        return version.get_status_display()

    @display(description="Author")  # type: ignore[untyped-decorator]  # as above
    def author(self, version: TemplateVersion) -> str:
        return str(version.created_by)

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
class TemplateAdmin(WorkspaceScopedAdmin):
    list_display = ("name", "workspace", "category", "labels", "newest", "newest_status", "updated_at")
    list_filter = (WorkspaceFilter, ArchivedFilter, ("category", admin.AllValuesFieldListFilter))
    list_select_related = ("workspace",)
    search_fields = ("name",)  # shows the box; what it does is below
    search_help_text = 'Words of name, description, tags and blocks; "a phrase", or, -not'
    empty_words = "Authors write templates by the REST API; they appear here."
    fields = (
        "description",
        ("workspace_name", "category"),
        ("labels", "author"),
        ("created_at", "updated_at"),
        "archived_at",
        "condition",
    )
    readonly_fields = (
        "description",
        "workspace_name",
        "category",
        "labels",
        "author",
        "created_at",
        "updated_at",
        "archived_at",
        "condition",
    )
    inlines = (VersionInline,)
    actions = ("publish_newest", "deprecate_newest", "archive")

    @display(description="Health")  # type: ignore[untyped-decorator]  # as above
    def condition(self, template: Template) -> str:
        return condition(template_health()(template))

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
        return ", ".join(template.tags) or "-"

    @display(description="Author")  # type: ignore[untyped-decorator]  # as above
    def author(self, template: Template) -> str:
        return str(template.created_by)

    @display(description="Newest version")  # type: ignore[untyped-decorator]  # as above
    def newest(self, template: Any) -> str:
        return str(template.newest_number)

    @display(description="Status", label=STATUS_COLOURS)  # type: ignore[untyped-decorator]  # as above
    def newest_status(self, template: Any) -> str:
        return VersionStatus(template.status_of_newest).label

    @action(description="Publish the newest version", permissions=["author"])  # type: ignore[untyped-decorator]
    def publish_newest(self, request: HttpRequest, queryset: QuerySet[Template]) -> HttpResponse | None:
        newest = selectors.newest_versions(queryset).values()
        if (page := confirming.asked(self, request, newest, action="publish_newest")) is not None:
            return page
        self._move(request, queryset, authoring.publish_version, "Published")
        return None

    @action(description="Deprecate the newest version", permissions=["author"])  # type: ignore[untyped-decorator]
    def deprecate_newest(self, request: HttpRequest, queryset: QuerySet[Template]) -> None:
        self._move(request, queryset, authoring.deprecate_version, "Deprecated")

    @action(description="Archive, or delete what never ran", permissions=["author"])  # type: ignore[untyped-decorator]
    def archive(self, request: HttpRequest, queryset: QuerySet[Template]) -> None:
        def act(template: Template, by: User) -> None:
            authoring.delete_template(template_id=template.pk, by=by)

        self.each(request, queryset, act, permission=Permission.AUTHOR, done="Archived or deleted")

    def _move(self, request: HttpRequest, queryset: QuerySet[Template], move: Move, done: str) -> None:
        def act(template: Any, by: User) -> None:
            move(template_id=template.pk, number=template.newest_number, by=by)

        self.each(request, queryset, act, permission=Permission.AUTHOR, done=done)


@admin.register(TemplateVersion)
class TemplateVersionAdmin(WorkspaceScopedAdmin):
    list_display = ("title", "shown_status", "label", "block_count", "created_by", "created_at")
    list_filter = (VersionWorkspaceFilter, "status")
    search_fields = ("template__name",)
    ordering = ("-id",)
    empty_words = "Every change of a template makes a version; they appear here."
    change_form_outer_after_template = "admin/agentflow/table.html"
    fields = (
        ("template_page", "number"),
        ("state", "label"),
        ("author", "created_at"),
        "content_hash",
        "pretty",
    )
    readonly_fields = (
        "template_page",
        "number",
        "state",
        "label",
        "author",
        "created_at",
        "content_hash",
        "pretty",
    )
    actions = ("publish", "deprecate")

    def get_queryset(self, request: HttpRequest) -> QuerySet[TemplateVersion]:
        rows = TemplateVersion.objects.visible_to(request.user).select_related("template", "created_by")
        return rows.defer("definition", "calls", "template__search", "template__search_text")

    @display(description="Version")  # type: ignore[untyped-decorator]  # as above
    def title(self, version: TemplateVersion) -> str:
        return str(version)

    @display(description="Status", label=STATUS_COLOURS)  # type: ignore[untyped-decorator]  # as above
    def shown_status(self, version: TemplateVersion) -> str:
        return version.get_status_display()

    @display(description="Status")  # type: ignore[untyped-decorator]  # as above
    def state(self, version: TemplateVersion) -> str:
        return version.get_status_display()

    @display(description="Author")  # type: ignore[untyped-decorator]  # as above
    def author(self, version: TemplateVersion) -> str:
        return str(version.created_by)

    @display(description="Template")  # type: ignore[untyped-decorator]  # as above
    def template_page(self, version: TemplateVersion) -> str:
        return page_of(version.template)

    @display(description="Definition")  # type: ignore[untyped-decorator]  # as above
    def pretty(self, version: TemplateVersion) -> str:
        return json_text(version.definition)

    def workspace_id_of(self, version: TemplateVersion) -> UUID:
        return version.template.workspace_id

    def beside(self, request: HttpRequest, version: TemplateVersion) -> dict[str, Any]:
        return {"table": _blocks(request, version.definition)}

    @action(description="Publish", permissions=["author"])  # type: ignore[untyped-decorator]  # as above
    def publish(self, request: HttpRequest, queryset: QuerySet[TemplateVersion]) -> HttpResponse | None:
        if (page := confirming.asked(self, request, queryset, action="publish")) is not None:
            return page
        self._move(request, queryset, authoring.publish_version, "Published")
        return None

    @action(description="Deprecate", permissions=["author"])  # type: ignore[untyped-decorator]  # as above
    def deprecate(self, request: HttpRequest, queryset: QuerySet[TemplateVersion]) -> None:
        self._move(request, queryset, authoring.deprecate_version, "Deprecated")

    def _move(self, request: HttpRequest, queryset: QuerySet[TemplateVersion], move: Move, done: str) -> None:
        def act(version: TemplateVersion, by: User) -> None:
            move(template_id=version.template_id, number=version.number, by=by)

        self.each(request, queryset, act, permission=Permission.AUTHOR, done=done)


def _blocks(request: HttpRequest, definition: JSONObject) -> Table:
    """A page of the definition's blocks, each in a row of words."""
    blocks: list[JSONObject] = definition["blocks"]
    page = Paginator(blocks, BLOCKS_PER_PAGE).get_page(request.GET.get("block_page"))
    return Table(
        title=f"Blocks ({len(blocks)})",
        columns=("Block", "Id", "Does", "After", "Rules"),
        rows=[
            (
                block.get("name") or block["blockId"],
                block["blockId"],
                _work(block),
                _listed(block.get("dependencies") or []),
                "; ".join(_rules(block)) or "-",
            )
            for block in page.object_list
        ],
        page=page,
        anchor="blocks",
        empty="There are no blocks.",
        page_parameter="block_page",
    )


def _work(block: JSONObject) -> str:
    """What a block does: who is called, or who is asked."""
    human = block.get("humanInLoop") or {}
    agent = " ".join(str(block[key]) for key in ("toolType", "agentId") if block.get(key))
    if not human.get("required", bool(human)):
        return agent or "Nothing by itself"
    asks = "Asks a person for input" if human.get("type") == "input" else "Asks a person"
    level = human.get("approvalLevel", "user")
    asked = asks if level == "user" else f"{asks} ({level})"
    return f"{asked}, then {agent}" if agent else asked


def _rules(block: JSONObject) -> list[str]:
    """When it runs and what happens if it fails, where the author said so."""
    said = []
    if conditions := block.get("conditions"):
        targets = [target for branch in conditions["branches"] for target in branch["nextBlocks"]]
        said.append(f"chooses ({conditions['type']}) among {_listed(targets)}")
    if when := block.get("when"):
        said.append(f"only when {when}")
    for key, word in (("runOn", "runs on"), ("join", "joins"), ("onError", "on error"), ("effect", "effect")):
        if block.get(key):
            said.append(f"{word} {block[key]}")
    if (retry := block.get("retryPolicy")) and "maxRetries" in retry:
        said.append(f"{retry['maxRetries']} retries")
    if timeout_ms := block.get("timeout"):
        said.append(f"within {timeout_ms / 1000:g} s")
    if block.get("end"):
        said.append(f"ends the run as {block['end']}")
    return said


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "-"
