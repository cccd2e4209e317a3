"""The admin of incidents: their list, and the page of one with its repairs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, cast
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from unfold.decorators import action, display
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from agentflow.errors import AgentflowError, InvalidInput
from agentflow.governance import access
from agentflow.governance.admin_base import (
    ChoiceFilter,
    Table,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    chip,
    page_of,
    readable,
    words_of,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import handling, reads, repairs
from . import page as pages
from .models import Incident
from .page import LOOKS
from .states import IncidentState

SNOOZES = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}


class StateFilter(ChoiceFilter):
    title = parameter_name = "state"
    choices_of: ClassVar[Any] = {
        "unresolved": ("Not resolved", {"state__in": (IncidentState.OPEN, IncidentState.SNOOZED)}),
        **{state.value: (word, {"state": state}) for state, (_, word) in LOOKS.items()},
    }


class SimulatedFilter(ChoiceFilter):
    title, parameter_name = "executions", "simulated"
    choices_of: ClassVar[Any] = {
        "no": ("Real", {"simulated": False}),
        "yes": ("Simulated", {"simulated": True}),
    }


class AssigneeFilter(admin.SimpleListFilter):
    title = parameter_name = "assignee"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("me", "Me"), ("nobody", "Nobody")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Incident]) -> QuerySet[Incident] | None:
        chosen = {"me": Q(assignee=cast(User, request.user)), "nobody": Q(assignee=None)}.get(
            self.value() or ""
        )
        return None if chosen is None else queryset.filter(chosen)


class LookAfterForm(ActionForm):  # type: ignore[misc]  # unfold ships no types
    """What the actions need besides the chosen rows."""

    to = forms.CharField(
        required=False, max_length=150, label="to", widget=UnfoldAdminTextInputWidget({"placeholder": "to"})
    )


@admin.register(Incident)
class IncidentAdmin(WorkspaceScopedAdmin):
    """To look after: nothing is edited by the form, everything is done by services."""

    list_display = (
        "what",
        "shown_state",
        "said",
        "template_name",
        "count",
        "first_seen",
        "last_seen",
        "assignee",
        "workspace",
    )
    list_filter = (StateFilter, AssigneeFilter, "kind", SimulatedFilter, WorkspaceFilter)
    list_select_related = ("workspace", "template", "assignee")
    search_fields = ("code",)  # what is really searched: `get_search_results`
    search_help_text = "Part of the template's name, the step, the code or the message"
    ordering = ("-last_seen", "id")
    empty_words = "Failures of one kind appear here as one incident, about a second after the first."
    actions = ("assign_selected", "snooze_selected", "resolve_selected")
    action_form = LookAfterForm
    change_form_outer_before_template = "admin/executions/incident.html"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("template_page", "workspace_name"),
                    ("block_id", "code"),
                    ("kind", "simulated"),
                    ("count", "assignee"),
                    ("first_seen", "last_seen"),
                    "shown_sample",
                    "fingerprint",
                )
            },
        ),
    )
    readonly_fields = (
        "template_page",
        "workspace_name",
        "block_id",
        "code",
        "kind",
        "simulated",
        "count",
        "assignee",
        "first_seen",
        "last_seen",
        "shown_sample",
        "fingerprint",
    )

    # -- columns ---------------------------------------------------------------

    @display(description="Incident", ordering="block_id")  # type: ignore[untyped-decorator]  # unfold ships no types
    def what(self, incident: Incident) -> str:
        return f"{incident.block_id}: {incident.code}{' (simulated)' if incident.simulated else ''}"

    @display(description="State", ordering="state")  # type: ignore[untyped-decorator]  # as above
    def shown_state(self, incident: Incident) -> str:
        status, word = LOOKS[IncidentState(incident.state)]
        return chip(status, word=word)

    @display(description="First failure")  # type: ignore[untyped-decorator]  # as above
    def said(self, incident: Incident) -> str:
        return incident.message[:120]

    @display(description="Template", ordering="template__name")  # type: ignore[untyped-decorator]  # as above
    def template_name(self, incident: Incident) -> str:
        return incident.template.name

    @display(description="Template")  # type: ignore[untyped-decorator]  # as above
    def template_page(self, incident: Incident) -> str:
        return page_of(incident.template)

    @display(description="First failure")  # type: ignore[untyped-decorator]  # as above
    def shown_sample(self, incident: Incident) -> str:
        return readable(incident.sample)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Incident], search_term: str
    ) -> tuple[QuerySet[Incident], bool]:
        return (queryset.filter(reads.found_by(search_term)) if search_term else queryset), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Incident]:
        rows: QuerySet[Incident] = super().get_queryset(request)
        return rows.select_related("workspace", "template", "assignee").defer("template__search_text")

    def name_of(self, row: Any) -> str:
        return str(self.what(row))

    # -- many ------------------------------------------------------------------

    @action(description="Assign (to me, unless somebody is named)", permissions=["operate"])  # type: ignore[untyped-decorator]
    def assign_selected(self, request: HttpRequest, queryset: QuerySet[Incident]) -> None:
        to = request.POST.get("to", "").strip()

        def act(incident: Incident, by: User) -> None:
            handling.assign(incident_id=incident.pk, by=by, to=to or by.get_username())

        self.each(request, queryset, act, permission=Permission.OPERATE, done="Assigned")

    @action(description="Snooze for a day", permissions=["operate"])  # type: ignore[untyped-decorator]  # as above
    def snooze_selected(self, request: HttpRequest, queryset: QuerySet[Incident]) -> None:
        until = timezone.now() + SNOOZES["1d"]

        def act(incident: Incident, by: User) -> None:
            handling.snooze(incident_id=incident.pk, by=by, until=until)

        self.each(request, queryset, act, permission=Permission.OPERATE, done="Snoozed")

    @action(description="Resolve", permissions=["operate"])  # type: ignore[untyped-decorator]  # as above
    def resolve_selected(self, request: HttpRequest, queryset: QuerySet[Incident]) -> None:
        def act(incident: Incident, by: User) -> None:
            handling.resolve(incident_id=incident.pk, by=by)

        self.each(request, queryset, act, permission=Permission.OPERATE, done="Resolved")

    # -- one -------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        do = self.admin_site.admin_view(require_POST(self.do_view))
        name = "executions_incident_do"
        return [path("<uuid:pk>/do/<slug:what>/", do, name=name), *super().get_urls()]

    def beside(self, request: HttpRequest, incident: Incident) -> dict[str, Any]:
        return {"incident_page": pages.page(request, incident)}

    def do_view(self, request: HttpRequest, pk: UUID, what: str) -> HttpResponse:
        """What the buttons of an incident's page do."""
        incident = self.get_queryset(request).filter(pk=pk).first()
        if incident is None:
            return HttpResponseRedirect(reverse("admin:executions_incident_changelist"))
        if not access.can(request.user, Permission.OPERATE, incident.workspace_id):
            raise PermissionDenied
        try:
            if what == "plan":
                return self._shown(request, incident, pages.foreseen(request, incident))
            messages.success(request, _do(request, incident, what))
        except AgentflowError as error:
            messages.error(request, words_of(error))
            if what in ("plan", "repair"):  # what was typed stays
                return self._shown(request, incident)
        return HttpResponseRedirect(reverse("admin:executions_incident_change", args=[pk]))

    def _shown(self, request: HttpRequest, incident: Incident, plan: Table | None = None) -> HttpResponse:
        """The page with what was typed, as an answer to a button."""
        shown = pages.page(request, incident, plan)
        request.method = "GET"  # it is looked at: the page's own form is not sent
        return self.change_view(request, str(incident.pk), extra_context={"incident_page": shown})


def _do(request: HttpRequest, incident: Incident, what: str) -> str:
    """Do it; gives what to say of it."""
    by, given = cast(User, request.user), request.POST
    text = given.get("text", "").strip()
    match what:
        case "comment":
            if not text:
                raise InvalidInput("Say something.")
            handling.comment(incident_id=incident.pk, by=by, text=text[: handling.COMMENT_CHARS])
            return "Commented."
        case "assign":
            handling.assign(incident_id=incident.pk, by=by, to=text or by.get_username())
            return "Assigned."
        case "snooze":
            span = SNOOZES.get(given.get("for", ""), SNOOZES["1d"])
            handling.snooze(incident_id=incident.pk, by=by, until=timezone.now() + span)
            return "Snoozed."
        case "wake":
            handling.wake(incident_id=incident.pk, by=by)
            return "Open again."
        case "resolve":
            handling.resolve(incident_id=incident.pk, by=by, comment=text[: handling.COMMENT_CHARS])
            return "Resolved."
        case "repair":
            pages.begin(request, incident)
            return "The repair has begun."
        case "stop":
            repairs.stop(repair_id=pages.active(incident).pk, by=by)
            return "Stopped: what was not reached stays as it is."
    raise InvalidInput("There is no such button.")
