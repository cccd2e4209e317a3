"""The admin's frame: its sidebar, and what its first page shows of all apps together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from agentflow.agents.models import Agent
from agentflow.governance.admin_base import chip
from agentflow.types import JSONObject
from approvals import selectors as approvals
from approvals.models import Approval
from approvals.states import ApprovalStatus
from executions import selectors as executions
from executions.incidents import reads as incidents
from executions.incidents.models import Incident
from executions.incidents.states import IncidentState
from executions.models import Execution
from executions.states import TERMINAL, ExecutionStatus

ROWS = 8  # of each list on the first page
SIDEBAR = (
    (
        "Work",
        (
            ("executions.execution", "account_tree"),
            ("approvals.approval", "approval"),
            ("executions.incident", "report"),
            ("executions.process", "monitor_heart"),
        ),
    ),
    (
        "Build",
        (
            ("templates_app.template", "schema"),
            ("executions.proposal", "lightbulb"),
            ("agents.agent", "smart_toy"),
            ("agents.agentsource", "travel_explore"),
            ("agents.agentpolicy", "rule"),
            ("agents.script", "code"),
        ),
    ),
    (
        "Govern",
        (
            ("governance.workspace", "domain"),
            ("governance.secret", "key"),
            ("governance.user", "person"),
            ("auth.group", "group"),
            ("approvals.approvallevel", "stairs"),
            ("executions.recoverypolicy", "healing"),
            ("executions.failurerule", "category"),
            ("executions.strategytally", "insights"),
            ("executions.faultinjection", "bolt"),
            ("notifications.workspacenotifications", "notifications"),
            ("notifications.target", "webhook"),
            ("notifications.delivery", "outgoing_mail"),
            ("governance.auditentry", "history"),
        ),
    ),
)


def navigation(request: HttpRequest) -> list[JSONObject]:
    """The sidebar, with what the user may open."""
    models = {model._meta.label_lower: (model, its) for model, its in admin.site._registry.items()}
    overview = reverse("admin:index")
    first = {
        "title": "Overview",
        "icon": "dashboard",
        "link": overview,
        "active": request.path == overview,
    }
    groups: list[JSONObject] = [{"title": None, "items": [first]}]
    for title, entries in SIDEBAR:
        items = []
        for label, icon in entries:
            model, its = models[label]
            if its.has_module_permission(request):
                address = changelist(label)
                # A version has no entry of its own: it stands under its template.
                under = address.rstrip("/") if label == "templates_app.template" else address
                items.append(
                    {
                        "title": str(model._meta.verbose_name_plural).capitalize(),
                        "icon": icon,
                        "link": address,
                        "active": request.path.startswith(under),
                    }
                )
        groups.append({"title": title, "items": items})
    return groups


def changelist(label: str, query: str = "") -> str:
    """The address of a model's list in the admin."""
    return reverse(f"admin:{label.replace('.', '_')}_changelist") + (f"?{query}" if query else "")


@dataclass(frozen=True)
class Figure:
    count: int
    words: str
    url: str


@dataclass(frozen=True)
class Line:
    url: str
    title: str
    note: str
    state: SafeString | str
    at: Any


@dataclass(frozen=True)
class Panel:
    title: str
    lines: list[Line]
    empty: str
    more: str


RUNS, ASKED, INCIDENTS = "executions.execution", "approvals.approval", "executions.incident"
FAILED, COMPLETED = "failed in the last day", "completed in the last day"
OPEN_INCIDENTS = f"state={IncidentState.OPEN.value}&simulated=no"


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What waits, what failed and what runs, in a fixed number of queries."""
    return context | {"title": "Overview", "figures": _figures(request), "panels": _panels(request)}


def _pending(request: HttpRequest) -> QuerySet[Approval]:
    return approvals.visible(request.user).filter(status=ApprovalStatus.PENDING)


def _figures(request: HttpRequest) -> list[Figure]:
    lately = Now() - timedelta(days=1)
    found = Execution.objects.visible_to(request.user).aggregate(
        running=Count("pk", filter=Q(status=ExecutionStatus.RUNNING)),
        paused=Count("pk", filter=Q(status=ExecutionStatus.PAUSED)),
        stuck=Count("pk", filter=executions.stuck()),
        failed=Count("pk", filter=Q(status=ExecutionStatus.FAILED, completed_at__gte=lately)),
        completed=Count("pk", filter=Q(status=ExecutionStatus.COMPLETED, completed_at__gte=lately)),
    )
    asked = _pending(request).count()
    off = Agent.objects.visible_to(request.user).filter(enabled=False).count()
    return [
        _figure(
            asked, "question waits for people", "questions wait for people", ASKED, "status__exact=pending"
        ),
        _figure(_incidents(request).count(), "open incident", "open incidents", INCIDENTS, OPEN_INCIDENTS),
        _figure(found["running"], "execution runs", "executions run", RUNS, "status__exact=running"),
        _figure(found["paused"], "is paused", "are paused", RUNS, "status__exact=paused"),
        _figure(found["stuck"], "execution is stuck", "executions are stuck", RUNS, "stuck=yes"),
        _figure(found["failed"], FAILED, FAILED, RUNS, "status__exact=failed&ended=1d"),
        _figure(found["completed"], COMPLETED, COMPLETED, RUNS, "status__exact=completed&ended=1d"),
        _figure(off, "agent is switched off", "agents are switched off", "agents.agent", "enabled__exact=0"),
    ]


def _figure(count: int, one: str, many: str, label: str, query: str) -> Figure:
    return Figure(count, one if count == 1 else many, changelist(label, query))


def _incidents(request: HttpRequest) -> QuerySet[Incident]:
    return incidents.incidents(request.user).filter(state=IncidentState.OPEN, simulated=False)


def _panels(request: HttpRequest) -> list[Panel]:
    runs = executions.executions(request.user)
    failed = runs.filter(status=ExecutionStatus.FAILED).order_by("-completed_at")[:ROWS]
    unfinished = runs.exclude(status__in=TERMINAL).order_by("-created_at")[:ROWS]
    asked = approvals.shown(_pending(request)).order_by("respond_by", "id")[:ROWS]
    return [
        Panel(
            "Waits for people",
            [_question(row) for row in asked],
            "No question waits for anybody.",
            changelist(ASKED, "status__exact=pending"),
        ),
        Panel(
            "Open incidents",
            [_incident(row) for row in _incidents(request)[:ROWS]],
            "No incident is open.",
            changelist(INCIDENTS, OPEN_INCIDENTS),
        ),
        Panel(
            "Failed lately",
            [_line(row, row.completed_at) for row in failed],
            "No execution failed.",
            changelist(RUNS, "status__exact=failed"),
        ),
        Panel(
            "Open now",
            [_line(row, row.created_at) for row in unfinished],
            "No execution is open.",
            changelist(RUNS),
        ),
    ]


def _question(row: Approval) -> Line:
    return Line(
        url=reverse("admin:approvals_approval_change", args=[row.pk]),
        title=str(row.request.get("title") or row.block_name),
        note=f"{row.execution.template_version}, answer by",
        state=chip("waiting_human", word="Waiting"),
        at=row.respond_by,
    )


def _incident(row: Incident) -> Line:
    return Line(
        url=reverse("admin:executions_incident_change", args=[row.pk]),
        title=f"{row.template.name}, {row.block_id}: {row.code}",
        note=f"{row.count} failure{'' if row.count == 1 else 's'}, the last",
        state=chip("failed", word=row.assignee.get_username() if row.assignee else "Open"),
        at=row.last_seen,
    )


def _line(run: Execution, at: Any) -> Line:
    return Line(
        url=reverse("admin:executions_execution_change", args=[run.pk]),
        title=str(run.template_version),
        note=_error(run) or str(run.pk)[:8],
        state=chip(run.status),
        at=at,
    )


def _error(run: Execution) -> str:
    return str(run.error.get("message") or run.error.get("code") or "") if isinstance(run.error, dict) else ""
