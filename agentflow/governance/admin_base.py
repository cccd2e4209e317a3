"""What every admin page shares: who sees what, how it looks, and that what is done is audited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID

from django.contrib import admin, messages
from django.core.paginator import Page
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.views import ChangeList

from ..api.templatetags import agentflow_ui
from ..conf import KB
from ..errors import AgentflowError
from ..types import JSONValue
from ..workflow.health import Direction, Health, Status
from . import access, audit
from .models import User
from .roles import Permission

M = TypeVar("M", bound=Model)

FOLD_CHARS = 600  # a longer JSON text is folded
SHOWN_CHARS = 64 * KB  # of a JSON text; a browser lays out more only slowly
MESSAGES_MAX = 20  # a page of results that nobody reads helps nobody


# -- who may -------------------------------------------------------------------


def is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


def holds(request: HttpRequest, permission: Permission) -> bool:
    """Whether the user is staff and holds `permission` in some workspace; asked once per request.

    The sidebar alone asks for every model and every permission.
    """
    held: frozenset[Permission] | None = getattr(request, "permissions_held", None)
    if held is None:
        held = access.held_somewhere(request.user) if is_staff(request) else frozenset()
        request.permissions_held = held  # type: ignore[attr-defined]
    return permission in held


# -- how it looks --------------------------------------------------------------


def chip(status: str, attempt: int = 1, word: str = "", sign: str = "") -> SafeString:
    """A state as the pages show it: icon, word and colour."""
    return agentflow_ui.state(status, attempt, word, sign)


def link(url: str, text: Any) -> SafeString:
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', url, text)


_CONDITIONS = {
    Status.HEALTHY: "completed",
    Status.DEGRADED: "waiting_human",
    Status.UNHEALTHY: "failed",
    Status.UNKNOWN: "pending",
}
_TRENDS = {Direction.BETTER: ", better", Direction.STEADY: "", Direction.WORSE: ", worse"}


def condition_chip(found: Health) -> SafeString:
    sign = "alert-triangle" if found.status is Status.DEGRADED else ""
    return chip(
        _CONDITIONS[found.status], word=f"{found.status.capitalize()}{_TRENDS[found.trend]}", sign=sign
    )


def condition(found: Health) -> SafeString:
    """How well something is: a badge, and below it why, with links to what it tells of."""
    said = [
        format_html(
            "<li>{} {}</li>", link(each.href, each.message) if each.href else each.message, each.remedy
        )
        for each in found.reasons
    ]
    said += [format_html("<li>{}</li>", figure.sentence) for figure in found.moved]
    return format_html("{}{}", condition_chip(found), _list(said))


def _list(lines: Sequence[SafeString]) -> SafeString:
    inner = format_html_join("", "{}", ((line,) for line in lines))
    return format_html('<ul class="af-reasons">{}</ul>', inner) if lines else inner


def page_of(row: Model | None, text: Any = None) -> SafeString | str:
    """A link to a row's own page in the admin."""
    if row is None:
        return "-"
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_change"
    return link(reverse(name, args=[row.pk]), str(row) if text is None else text)


def json_text(value: JSONValue) -> SafeString | str:
    """A value as indented JSON that a browser lays out quickly, folded if it is long."""
    if value is None or value in ({}, []):
        return "-"
    text = json.dumps(value, indent=2, ensure_ascii=False)
    more = "" if len(text) <= SHOWN_CHARS else "\n… (the REST API gives the whole value)"
    shown = format_html('<pre class="whitespace-pre-wrap break-words">{}{}</pre>', text[:SHOWN_CHARS], more)
    if len(text) <= FOLD_CHARS:
        return shown
    said = f"Show {len(text) / KB:.0f} KB of JSON" if len(text) >= KB else "Show as JSON"
    return format_html('<details class="af-json"><summary>{}</summary>{}</details>', said, shown)


def readable(value: JSONValue) -> SafeString | str:
    """A value as people read it: names and values, not JSON."""
    if value is None or value in ({}, []):
        return "-"
    return format_html('<div class="af-facts">{}</div>', agentflow_ui.readable(value))


def words_of(error: AgentflowError) -> SafeString:
    """An error as a message of the page says it, with what it found where."""
    issues = getattr(error, "issues", ())
    shown = [f"{issue.get('pointer', '')}: {issue.get('message', '')}" for issue in issues[:5]]
    return format_html("{} {}", " ".join([error.message, *shown]), error.remedy_text)


@dataclass(frozen=True)
class Table:
    """What `admin/agentflow/table.html` draws below a form: rows in pages, with links to narrow them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    page: Page[Any]
    anchor: str
    empty: str
    page_parameter: str
    query: str = ""  # what the links to other pages keep, as `block_status=failed`
    filters: Sequence[tuple[str, str, bool]] = field(default=())  # words, query, chosen
    labels: bool = False  # on a phone, which has no head row, each cell says what it is

    @property
    def cells(self) -> list[list[tuple[str, Any]]]:
        """The rows with the column of each cell."""
        return [[*zip(self.columns, row, strict=True)] for row in self.rows]


# -- the bases -----------------------------------------------------------------


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


class ChoiceFilter(admin.SimpleListFilter):
    """A filter of fixed words, each with the lookups it stands for."""

    choices_of: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, word) for key, (word, _) in self.choices_of.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M] | None:
        chosen = self.choices_of.get(self.value() or "")
        return None if chosen is None else queryset.filter(**chosen[1])


class BaseList(ChangeList):  # type: ignore[misc]  # unfold ships no types
    """Offers to show all rows only where some are filtered out."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.has_active_filters and not self.query:
            self.full_result_count = self.result_count


class BaseAdmin(ModelAdmin):  # type: ignore[misc]  # as above
    show_full_result_count = False  # a count over all rows for every page
    list_per_page = 50
    empty_words: ClassVar[str] = "Nothing is here yet."  # of a list that is not filtered

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BaseList

    def workspace_id_of(self, row: Any) -> UUID | None:
        """The workspace a row belongs to; for rows that have it under another name, override."""
        found: UUID | None = getattr(row, "workspace_id", None)
        return found

    def beside(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What a row's page shows beside its fields, for the template of that page."""
        return {}

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        more = {} if row is None else self.beside(request, row)
        response: HttpResponse = super().change_view(
            request, object_id, form_url, {**more, **(extra_context or {})}
        )
        return response


class AuditedAdmin(BaseAdmin):
    """Rows that a form writes itself: every addition, change and deletion is on the audit record."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "create", message)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        if message:  # a form saved as it was changes nothing
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


class WorkspaceScopedAdmin(BaseAdmin):
    """Rows of workspaces, seen and edited by what one's roles there allow, written by services.

    A staff user sees rows of workspaces where they hold `view_permission`, and may change, add or
    delete where they hold the permission named; None, the default, means nobody may by a form.
    Services write and audit; nothing is saved or recorded here.
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
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None and self.view_permission is Permission.VIEW:
            return is_staff(request)  # who belongs to no workspace sees empty lists
        return self._may(request, self.view_permission, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.change_permission, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.add_permission, None)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.delete_permission, obj)

    # Who is offered an action; whether it may be done to a row, `each` asks for every one of them.

    def has_author_permission(self, request: HttpRequest) -> bool:
        return holds(request, Permission.AUTHOR)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return holds(request, Permission.OPERATE)

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return holds(request, Permission.DECIDE)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return holds(request, Permission.MANAGE_AGENTS)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "workspace" and self.add_permission is not None:
            kwargs["queryset"] = access.workspaces(request.user, self.add_permission)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.delete_model(request, row)

    def each(
        self,
        request: HttpRequest,
        rows: Iterable[M],
        act: Callable[[M, User], Any],
        *,
        permission: Permission,
        done: str,
    ) -> None:
        """Do `act` to each row for which the user holds `permission`, and tell what came of it.

        A row that is refused does not keep the action from the others.
        """
        by = cast(User, request.user)
        refused: list[str] = []
        count = 0
        for row in list(rows):  # what is done may take a row out of the query
            try:
                access.require(by, permission, cast(UUID, self.workspace_id_of(row)))
                act(row, by)
            except AgentflowError as error:
                refused.append(f"{self.name_of(row)}: {error.message}")
            else:
                count += 1
        if count:
            messages.success(request, f"{done}: {count}.")
        for text in refused[:MESSAGES_MAX]:
            messages.error(request, text)
        if len(refused) > MESSAGES_MAX:
            messages.error(request, f"And {len(refused) - MESSAGES_MAX} more refused.")

    @display(description="Workspace")  # type: ignore[untyped-decorator]  # as above
    def workspace_name(self, row: Any) -> str:
        """The workspace as a word: its page is for its administrators."""
        return str(row.workspace)

    def name_of(self, row: Any) -> str:
        """What a message calls a row."""
        return str(row)

    def _may(self, request: HttpRequest, permission: Permission | None, row: Any) -> bool:
        if permission is None or not holds(request, permission):
            return False
        workspace_id = None if row is None else self.workspace_id_of(row)
        return workspace_id is None or access.can(request.user, permission, workspace_id)
