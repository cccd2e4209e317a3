from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import action, display

from agentflow.api.templatetags.agentflow_ui import look_of
from agentflow.governance import access
from agentflow.governance.admin_base import (
    BaseAdmin,
    BaseList,
    ChoiceFilter,
    Table,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    chip,
    condition,
    holds,
    json_text,
    link,
    page_of,
    readable,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import (
    doctor,
    facts,
    ports,
    processes,
    selectors,
)
from .condition import of as condition_of
from .facts import NOTHING_KNOWN, BlockFacts
from .faults import admin as fault_admin
from .incidents import admin as incident_admin  # noqa: F401  # its pages
from .incidents import reads
from .learning import admin as learning_admin  # noqa: F401  # its pages
from .learning import proposal_admin  # noqa: F401  # its pages
from .models import Execution, PointKind, Process
from .narration import reason_words
from .point_pages import KINDS
from .recovery import rule_admin  # noqa: F401  # its pages
from .selectors import BlockRow, Progress
from .services import control, restarting
from .states import BlockStatus

BLOCKS_PER_PAGE = 100
POINTS_PER_PAGE = 20


class Command(Protocol):
    def __call__(self, *, execution_id: UUID, by: User | None) -> object: ...


class SimulatedFilter(ChoiceFilter):
    title = "kind"
    parameter_name = "simulated"
    choices_of = {
        "no": ("Real", {"simulation__isnull": True}),
        "yes": ("Simulated", {"simulation__isnull": False}),
    }


class StuckFilter(ChoiceFilter):
    title = parameter_name = "stuck"
    choices_of = {"yes": ("Stuck", {"timers__stuck_at__isnull": False})}


class EndedFilter(ChoiceFilter):
    title = parameter_name = "ended"
    choices_of = {
        "1d": ("In the last day", {"completed_at__gte": Now() - timedelta(days=1)}),
        "7d": ("In the last 7 days", {"completed_at__gte": Now() - timedelta(days=7)}),
    }


class ExecutionList(BaseList):
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
class ExecutionAdmin(WorkspaceScopedAdmin):
    """To look at and to steer.  States are moved by services, never by a form."""

    list_display = (
        "short_id",
        "shown_status",
        "template",
        "progress",
        "started_at",
        "duration",
        "created_by",
        "workspace",
    )
    list_filter = ("status", StuckFilter, EndedFilter, SimulatedFilter, WorkspaceFilter)
    search_fields = ("id",)  # what is really searched: `get_search_results`
    search_help_text = "Part of the template's name, or the beginning of the id"
    empty_words = "Executions appear here once somebody, or a program, starts a template."
    date_hierarchy = "created_at"
    ordering = ("-created_at", "id")
    actions = ("pause_selected", "resume_selected", "cancel_selected", "restart_selected")
    change_form_outer_after_template = "admin/agentflow/tables.html"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("shown_status", "page"),
                    ("template_page", "workspace_name"),
                    "shown_health",
                    "shown_error",
                    ("created_at", "starter"),
                    ("started_at", "completed_at"),
                    ("duration", "deadline_at"),
                    ("kind", "id"),
                )
            },
        ),
        ("Input", {"fields": ("shown_input", "shown_simulation")}),
    )
    readonly_fields = (
        "id",
        "page",
        "shown_status",
        "shown_health",
        "shown_error",
        "template_page",
        "workspace_name",
        "kind",
        "shown_input",
        "shown_simulation",
        "starter",
        "created_at",
        "started_at",
        "completed_at",
        "duration",
        "deadline_at",
    )

    # -- columns ---------------------------------------------------------------

    @display(description="Execution", ordering="id")  # type: ignore[untyped-decorator]  # as above
    def short_id(self, execution: Execution) -> str:
        return str(execution.pk)[:8]

    @display(description="Status", ordering="status")  # type: ignore[untyped-decorator]  # as above
    def shown_status(self, execution: Execution) -> str:
        return chip(execution.status)

    @display(description="Template", ordering="template_version__template__name")  # type: ignore[untyped-decorator]
    def template(self, execution: Execution) -> str:
        return f"{execution.template_version}{' (simulated)' if execution.simulated else ''}"

    @display(description="Template")  # type: ignore[untyped-decorator]  # as above
    def template_page(self, execution: Execution) -> str:
        return page_of(execution.template_version)

    @display(description="Kind")  # type: ignore[untyped-decorator]  # as above
    def kind(self, execution: Execution) -> str:
        return "Simulated" if execution.simulated else "Real"

    @display(description="Settled")  # type: ignore[untyped-decorator]  # as above
    def progress(self, execution: Execution) -> str:
        done: Progress = execution.progress  # type: ignore[attr-defined]  # ExecutionList
        return f"{done.settled} of {done.total}"

    @display(description="Duration")  # type: ignore[untyped-decorator]  # as above
    def duration(self, execution: Execution) -> str:
        return duration_words(execution.started_at, execution.completed_at)

    @display(description="Live page")  # type: ignore[untyped-decorator]  # as above
    def page(self, execution: Execution) -> str:
        return link(reverse("execution-page", args=[execution.pk]), "Open graph, timeline and log")

    @display(description="Started by")  # type: ignore[untyped-decorator]  # as above
    def starter(self, execution: Execution) -> str:
        """A person or, for a child, the execution it belongs to."""
        if execution.forked_from_id is not None:
            source = page_of(Execution(pk=execution.forked_from_id), str(execution.forked_from_id)[:8])
            return format_html("{}, as a fork of {}", execution.created_by or "-", source)
        found = selectors.parents([execution]).get(execution.pk)
        if found is None:
            return str(execution.created_by or "-")
        return page_of(Execution(pk=found), f"execution {str(found)[:8]}")

    @display(description="Health")  # type: ignore[untyped-decorator]  # as above
    def shown_health(self, execution: Execution) -> str:
        return condition(condition_of(execution))

    @display(description="Error")  # type: ignore[untyped-decorator]  # as above
    def shown_error(self, execution: Execution) -> str:
        return readable(execution.error)

    @display(description="Input")  # type: ignore[untyped-decorator]  # as above
    def shown_input(self, execution: Execution) -> str:
        return json_text(execution.input)

    @display(description="Simulation")  # type: ignore[untyped-decorator]  # as above
    def shown_simulation(self, execution: Execution) -> str:
        return json_text(execution.simulation)

    # -- what is shown to whom -------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        fault_admin.warn(request)
        found: HttpResponse = super().changelist_view(request, extra_context)
        return found

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        rows = selectors.executions(request.user).select_related("workspace")
        return rows.order_by(*self.ordering)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Execution], search_term: str
    ) -> tuple[QuerySet[Execution], bool]:
        return (queryset.filter(selectors.named(search_term)) if search_term else queryset), False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ExecutionList]:
        return ExecutionList

    # -- one execution ---------------------------------------------------------

    def beside(self, request: HttpRequest, execution: Execution) -> dict[str, Any]:
        return {"tables": [_blocks(request, execution), _points(request, execution)]}

    # -- steering --------------------------------------------------------------

    @action(description="Pause", permissions=["operate"])  # type: ignore[untyped-decorator]  # as above
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, control.pause, "Paused")

    @action(description="Resume", permissions=["operate"])  # type: ignore[untyped-decorator]  # as above
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, control.resume, "Resumed")

    @action(description="Cancel", permissions=["operate"])  # type: ignore[untyped-decorator]  # as above
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, control.cancel, "Being cancelled")

    @action(description="Restart what did not succeed", permissions=["operate"])  # type: ignore[untyped-decorator]
    def restart_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._steer(request, queryset, restarting.restart_failed, "Restarted")

    def _steer(
        self, request: HttpRequest, queryset: QuerySet[Execution], command: Command, done: str
    ) -> None:
        def act(execution: Execution, by: User) -> None:
            command(execution_id=execution.pk, by=by)

        self.each(request, queryset, act, permission=Permission.OPERATE, done=done)

    def name_of(self, execution: Execution) -> str:
        return f"{self.short_id(execution)}, {self.template(execution)}"


def duration_words(since: datetime | None, until: datetime | None) -> str:
    """`1 h 04 min`, `12.3 s`; of what still runs, up to now; nothing of what has not begun."""
    if since is None:
        return "-"
    seconds = max(((until or timezone.now()) - since).total_seconds(), 0.0)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _blocks(request: HttpRequest, execution: Execution) -> Table:
    """A page of the execution's blocks, those of `?block_status=` if it names one."""
    wanted = request.GET.get("block_status", "")
    statuses = [wanted] if wanted in BlockStatus.values else []
    counts = selectors.count_by_status(execution)
    total = sum(counts.values()) if not statuses else counts.get(wanted, 0)
    page = Paginator(range(total), BLOCKS_PER_PAGE).get_page(request.GET.get("block_page"))
    rows = selectors.block_rows(
        execution, statuses=statuses, offset=max(page.start_index() - 1, 0), limit=BLOCKS_PER_PAGE
    )
    known = facts.of_version(execution.template_version_id)
    waiting = [row.pk for row in rows if row.status == BlockStatus.WAITING_HUMAN]
    asked = {
        one.block_pk: reverse("inbox-question", args=[one.approval_id])
        for one in (ports.human_history()(execution_id=execution.pk, block_pks=waiting) if waiting else ())
    }
    edited = selectors.edited_by(execution)
    failed = {row.pk for row in rows if row.error is not None}
    incidents = reads.of_blocks(failed) if failed else {}
    words = [(status, chip(status, word=f"{look_of(status).word} {counts[status]}")) for status in counts]
    return Table(
        title=f"Blocks ({total})",
        columns=("Block", "Status", "Attempt", "Started", "Duration", "Why"),
        rows=[
            _row(
                row,
                known.get(row.block_id, NOTHING_KNOWN),
                asked.get(row.pk, ""),
                edited.get(row.block_id, ""),
                incidents.get(row.pk),
            )
            for row in rows
        ],
        page=page,
        anchor="blocks",
        empty="No block has this status.",
        page_parameter="block_page",
        query=f"block_status={wanted}" if statuses else "",
        filters=[
            (f"All {sum(counts.values())}", "", not statuses),
            *((word, f"block_status={status}", status in statuses) for status, word in words),
        ],
    )


def _points(request: HttpRequest, execution: Execution) -> Table:
    """A page of the recovery points; one goes back and forks on the live page, which says what happens."""
    page = Paginator(selectors.points(execution), POINTS_PER_PAGE).get_page(request.GET.get("point_page"))
    live = reverse("execution-page", args=[execution.pk]) + "#points"
    operates = access.can(request.user, Permission.OPERATE, execution.workspace_id)
    return Table(
        title=f"Recovery points ({page.paginator.count})",
        columns=("Kind", "Name", "Taken", "Settled blocks", "Epoch", "By", ""),
        rows=[
            (
                KINDS[PointKind(point.kind)],
                point.name or "-",
                point.created_at,
                point.settled_count,
                point.epoch,
                point.created_by or "-",
                link(live, "Go back, or fork") if operates else "",
            )
            for point in page.object_list
        ],
        page=page,
        anchor="points",
        empty="None was taken yet.",
        page_parameter="point_page",
    )


def _row(
    row: BlockRow, known: BlockFacts, question: str, edited_by: str, incident: UUID | None
) -> tuple[Any, ...]:
    why = _said(row.error) or reason_words(row.reason) or (f"edited by {edited_by}" if edited_by else "-")
    if incident is not None:
        counted = link(reverse("admin:executions_incident_change", args=[incident]), "Its incident")
        why = format_html("{} {}", why, counted)
    return (
        known.name or row.block_id,
        chip(row.status, row.attempt),
        row.attempt or "-",
        row.started_at or "-",
        duration_words(row.started_at, row.completed_at) if row.attempt else "-",
        format_html("{} {}", link(question, "Open the question"), why if incident else "")
        if question
        else why,
    )


def _said(error: Any) -> str:
    return str(error.get("message") or error.get("code") or "")[:300] if isinstance(error, dict) else ""


@admin.register(Process)
class ProcessAdmin(BaseAdmin):
    """What the doctor finds, and the processes; nothing here is edited.

    It tells of the installation and counts, never of one workspace's rows, so any operator may look.
    """

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return holds(request, Permission.OPERATE)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        findings = doctor.examine(probe_s=doctor.PAGE_PROBE_S)
        context = self.admin_site.each_context(request) | {
            "title": "Processes",
            "opts": self.model._meta,
            "tables": [_findings_table(findings), _process_table()],
        }
        return TemplateResponse(request, "admin/executions/doctor.html", context)


VERDICTS = {
    doctor.Verdict.OK: ("completed", "Fine"),
    doctor.Verdict.WARNING: ("waiting_human", "Look"),
    doctor.Verdict.PROBLEM: ("failed", "Problem"),
}


def _findings_table(findings: list[doctor.Finding]) -> Table:
    rows: list[list[Any]] = []
    for finding in findings:
        status, word = VERDICTS[finding.verdict]
        message = finding.message[:1].upper() + finding.message[1:]
        rows.append([finding.check.capitalize(), chip(status, word=word), message, finding.remedy])
    return _whole_table("findings", "What was found", ["Check", "Verdict", "Finding", "Remedy"], rows)


def _process_table() -> Table:
    rows: list[list[Any]] = [
        [
            each.name,
            chip("running" if each.alive else "failed", word="Alive" if each.alive else "Vanished"),
            f"{each.host}, {each.pid}",
            ", ".join(each.queues) or "-",
            f"{each.seen_s:.0f} s ago",
            "-" if each.heard_s is None else f"{each.heard_s:.0f} s ago",
        ]
        for each in processes.listed()
    ]
    columns = ["Process", "State", "Host, pid", "Queues", "Last beat", "Last message"]
    return _whole_table("processes", "Processes", columns, rows)


def _whole_table(anchor: str, title: str, columns: list[str], rows: list[list[Any]]) -> Table:
    page = Paginator(rows, max(len(rows), 1)).get_page(1)
    return Table(title, columns, rows, page, anchor, empty="None has a row.", page_parameter="page")
