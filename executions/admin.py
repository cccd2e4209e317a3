from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Protocol, cast
from uuid import UUID

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.views import ChangeList

from agentflow.conf import KB
from agentflow.errors import AgentflowError
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONValue

from . import facts, selectors
from .facts import NOTHING_KNOWN, BlockFacts
from .models import Execution
from .narration import reason_words
from .selectors import BlockRow, Progress
from .services import control
from .states import BlockStatus, ExecutionStatus

BLOCKS_PER_PAGE = 100
SHOWN_CHARS = 16 * KB
MESSAGES_MAX = 20  # a page of results that nobody reads helps nobody

STATUS_COLOURS = {
    ExecutionStatus.PENDING.value: "info",
    ExecutionStatus.RUNNING.value: "info",
    ExecutionStatus.PAUSED.value: "warning",
    ExecutionStatus.CANCELLING.value: "warning",
    ExecutionStatus.COMPLETED.value: "success",
    ExecutionStatus.FAILED.value: "danger",
    BlockStatus.READY.value: "info",
    BlockStatus.WAITING_HUMAN.value: "warning",
    BlockStatus.WAITING_EXTERNAL.value: "warning",
}


class Command(Protocol):
    def __call__(self, *, execution_id: Any, by: User | None, reason: str = "") -> None: ...


class WorkspaceFilter(admin.SimpleListFilter):
    """Offers only the workspaces one may see."""

    title = "workspace"
    parameter_name = "workspace"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(row.pk), row.name) for row in access.workspaces(request.user)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Execution]) -> QuerySet[Execution] | None:
        wanted = self.value()
        known = {key for key, _ in self.lookup_choices}
        return queryset.filter(workspace=UUID(wanted)) if wanted in known and wanted else None


class SimulatedFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "simulated"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "Real"), ("yes", "Simulated")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Execution]) -> QuerySet[Execution] | None:
        wanted = {"no": True, "yes": False}.get(self.value() or "")
        return None if wanted is None else queryset.filter(simulation__isnull=wanted)


class ExecutionList(ChangeList):  # type: ignore[misc]  # unfold ships no types
    """Counts the blocks of the executions on the page, in one query."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        shown: list[Execution] = list(self.result_list)
        found = selectors.progress(execution.pk for execution in shown)
        for execution in shown:
            execution.progress = found.get(execution.pk, Progress(0, 0))  # type: ignore[attr-defined]
        self.result_list = shown


@admin.register(Execution)
class ExecutionAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """To look at and to steer.  States are moved by services, never by a form."""

    list_display = (
        "short_id",
        "shown_status",
        "template",
        "workspace",
        "simulated",
        "progress",
        "started_at",
        "duration",
        "created_by",
    )
    list_filter = ("status", SimulatedFilter, WorkspaceFilter)
    list_per_page = 50
    search_fields = ("id",)  # what is really searched: `get_search_results`
    search_help_text = "Part of the template's name, or the beginning of the id"
    date_hierarchy = "created_at"
    ordering = ("-created_at", "id")
    show_full_result_count = False  # a count over all rows for every page
    actions = ("pause_selected", "resume_selected", "cancel_selected")
    change_form_outer_after_template = "executions/admin/blocks.html"
    fields = (
        "id",
        "page",
        "shown_status",
        "shown_error",
        "template",
        "workspace",
        "parent",
        "simulated",
        "shown_input",
        "shown_simulation",
        "created_by",
        "created_at",
        "started_at",
        "completed_at",
        "duration",
        "deadline_at",
    )
    readonly_fields = fields

    # -- columns ---------------------------------------------------------------

    @display(description="Execution", ordering="id")  # type: ignore[untyped-decorator]  # as above
    def short_id(self, execution: Execution) -> str:
        return str(execution.pk)[:8]

    @display(description="Status", label=STATUS_COLOURS, ordering="status")  # type: ignore[untyped-decorator]
    def shown_status(self, execution: Execution) -> str:
        return execution.status

    @display(description="Template", ordering="template_version__template__name")  # type: ignore[untyped-decorator]
    def template(self, execution: Execution) -> str:
        return str(execution.template_version)

    @display(description="Simulated", boolean=True)  # type: ignore[untyped-decorator]  # as above
    def simulated(self, execution: Execution) -> bool:
        return execution.simulated

    @display(description="Settled")  # type: ignore[untyped-decorator]  # as above
    def progress(self, execution: Execution) -> str:
        done: Progress = execution.progress  # type: ignore[attr-defined]  # ExecutionList
        return f"{done.settled} of {done.total}"

    @display(description="Duration")  # type: ignore[untyped-decorator]  # as above
    def duration(self, execution: Execution) -> str:
        return duration_words(execution.started_at, execution.completed_at)

    @display(description="Page")  # type: ignore[untyped-decorator]  # as above
    def page(self, execution: Execution) -> str:
        return format_html('<a href="{}">Open its page</a>', reverse("execution-page", args=[execution.pk]))

    @display(description="Started by")  # type: ignore[untyped-decorator]  # as above
    def parent(self, execution: Execution) -> str:
        found = selectors.parents([execution]).get(execution.pk)
        if found is None:
            return "-"
        url = reverse("admin:executions_execution_change", args=[found])
        return format_html('<a href="{}">{}</a>', url, found)

    @display(description="Error")  # type: ignore[untyped-decorator]  # as above
    def shown_error(self, execution: Execution) -> str:
        return _json(execution.error)

    @display(description="Input")  # type: ignore[untyped-decorator]  # as above
    def shown_input(self, execution: Execution) -> str:
        return _json(execution.input)

    @display(description="Simulation")  # type: ignore[untyped-decorator]  # as above
    def shown_simulation(self, execution: Execution) -> str:
        return _json(execution.simulation)

    # -- what is shown to whom -------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        rows = selectors.executions(request.user).select_related("workspace")
        return rows.order_by(*self.ordering)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Execution], search_term: str
    ) -> tuple[QuerySet[Execution], bool]:
        return (queryset.filter(selectors.named(search_term)) if search_term else queryset), False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ExecutionList]:
        return ExecutionList

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Execution | None = None) -> bool:
        return _staff(request)  # the queryset holds only what may be seen

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Execution | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Execution | None = None) -> bool:
        return False

    # -- one execution ---------------------------------------------------------

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        execution = self.get_object(request, object_id)
        more = {"blocks": _blocks(request, execution)} if execution is not None else {}
        response: HttpResponse = super().change_view(
            request, object_id, form_url, {**(extra_context or {}), **more}
        )
        return response

    # -- steering --------------------------------------------------------------

    @action(description="Pause")  # type: ignore[untyped-decorator]  # as above
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, control.pause, "paused")

    @action(description="Resume")  # type: ignore[untyped-decorator]  # as above
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, control.resume, "resumed")

    @action(description="Cancel")  # type: ignore[untyped-decorator]  # as above
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, control.cancel, "being cancelled")

    def _steer(
        self, request: HttpRequest, queryset: QuerySet[Execution], command: Command, done: str
    ) -> None:
        """Give the command to each; one that cannot take it does not keep it from the others."""
        by = cast(User, request.user)
        refused: list[str] = []
        count = 0
        for execution in queryset:
            try:
                access.require(by, Permission.OPERATE, execution.workspace_id)
                command(execution_id=execution.pk, by=by)
            except AgentflowError as error:
                refused.append(f"{self.short_id(execution)}, {self.template(execution)}: {error.message}")
            else:
                count += 1
        if count:
            noun = "execution is" if count == 1 else "executions are"
            self.message_user(request, f"{count} {noun} {done}.", messages.SUCCESS)
        for text in refused[:MESSAGES_MAX]:
            self.message_user(request, text, messages.ERROR)
        if len(refused) > MESSAGES_MAX:
            self.message_user(request, f"And {len(refused) - MESSAGES_MAX} more refused.", messages.ERROR)


def _staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


def duration_words(since: datetime | None, until: datetime | None) -> str:
    """`1 h 04 min`, `12.3 s`; of what still runs, up to now; nothing of what has not begun."""
    if since is None:
        return "-"
    seconds = max(((until or timezone.now()) - since).total_seconds(), 0.0)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _blocks(request: HttpRequest, execution: Execution) -> dict[str, Any]:
    """A page of the execution's blocks, those of `?block_status=` if it names one."""
    wanted = request.GET.get("block_status", "")
    statuses = [wanted] if wanted in BlockStatus.values else []
    total = selectors.count_blocks(execution, statuses=statuses)
    page = Paginator(range(total), BLOCKS_PER_PAGE).get_page(request.GET.get("block_page"))
    rows = selectors.block_rows(
        execution, statuses=statuses, offset=max(page.start_index() - 1, 0), limit=BLOCKS_PER_PAGE
    )
    known = facts.of_version(execution.template_version_id)
    return {
        "page": page,
        "rows": [_row(row, known.get(row.block_id, NOTHING_KNOWN)) for row in rows],
        "status": statuses[0] if statuses else "",
        "statuses": BlockStatus.values,
    }


def _row(row: BlockRow, known: BlockFacts) -> dict[str, Any]:
    return {
        "id": row.block_id,
        "name": known.name or row.block_id,
        "status": row.status,
        "colour": STATUS_COLOURS.get(row.status, "default"),
        "attempt": row.attempt,
        "started_at": row.started_at,
        "duration": duration_words(row.started_at, row.completed_at) if row.attempt else "-",
        "why": _said(row.error) or reason_words(row.reason),
    }


def _json(value: JSONValue) -> str:
    """As text that a browser lays out quickly, however large the value is."""
    if value is None:
        return "-"
    text = json.dumps(value, indent=2, ensure_ascii=False)
    shown = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "\n…"
    return format_html('<pre class="whitespace-pre-wrap break-words">{}</pre>', shown)


def _said(error: Any) -> str:
    return str(error.get("message") or error.get("code") or "")[:300] if isinstance(error, dict) else ""
