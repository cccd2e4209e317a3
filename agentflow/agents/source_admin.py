"""The admin of what finds agents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.views.decorators.http import require_POST
from unfold.decorators import action, display

from ..api.templatetags.agentflow_ui import span, when
from ..governance.admin_base import Table, WorkspaceFilter, chip, page_of, readable
from ..governance.json_fields import JSONObjectField
from ..governance.models import User
from ..governance.roles import Permission
from . import configuration as configurations
from .admin import Managed
from .agent_page import Panel, rows_table
from .models import AgentSource
from .services import sources, synchronising
from .services.sources import SourceFields

if TYPE_CHECKING:
    _SourceModelForm = forms.ModelForm[AgentSource]
else:  # Django's own class takes no parameter
    _SourceModelForm = forms.ModelForm

_FORM_FIELDS = {"intervalSeconds": "interval_s"}
AGENTS = 200  # of a source, so many are listed
WHAT = {"new": "New", "changed": "Changed", "gone": "Gone, switched off", "back": "Back again"}


class SourceForm(_SourceModelForm):
    """Checked by the same rules as a POST to /api/v1/agents/sources."""

    configuration = JSONObjectField(or_empty=True, help_text="Secrets read as ******** and stay if left so.")

    class Meta:
        model = AgentSource
        fields = ["workspace", "kind", "name", "url", "server", "configuration", "interval_s", "enabled"]
        labels = {"interval_s": "Seconds between two looks"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored = dict(self.instance.configuration or {})
        self.initial["configuration"] = configurations.hidden(self.stored)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        chosen = cleaned.get("workspace")
        workspace_id: UUID | None = chosen.pk if chosen else self.instance.workspace_id
        if self.errors or workspace_id is None:
            return cleaned
        taken = AgentSource.objects.filter(workspace_id=workspace_id, name=cleaned["name"])
        if taken.exclude(pk=self.instance.pk).exists():
            self.add_error("name", "The workspace already has a source of that name.")
            return cleaned
        given = {**cleaned["configuration"], "url": cleaned["url"]}
        restored = configurations.restored(given, {**self.stored, "url": self.initial.get("url")})
        restored.pop("url")
        try:
            sources.check(self.fields_of(cleaned, restored))
        except sources.BadSource as error:
            for issue in error.issues:
                name = issue["pointer"].split("/")[1]
                self.add_error(_FORM_FIELDS.get(name, name), f"{issue['pointer']}: {issue['message']}")
        return cleaned

    @staticmethod
    def fields_of(cleaned: dict[str, Any], configuration: dict[str, Any]) -> SourceFields:
        names = ("kind", "name", "url", "server", "interval_s", "enabled")
        return SourceFields(configuration=configuration, **{name: cleaned[name] for name in names})


@admin.register(AgentSource)
class AgentSourceAdmin(Managed):
    change_permission = Permission.MANAGE_AGENTS
    form = SourceForm
    list_display = ("name", "kind", "workspace", "synchronised_at", "found", "state")
    list_filter = ("kind", "enabled", WorkspaceFilter)
    empty_words = "A source lists agents: an MCP server, an A2A card, an OpenAPI document, an Agent Service."
    search_fields = ("name", "url")
    list_select_related = ("workspace",)
    actions = ("look_now",)
    change_form_outer_before_template = "admin/agents/source.html"

    def get_urls(self) -> list[URLPattern]:
        look = self.admin_site.admin_view(require_POST(self.look_view))
        return [path("<uuid:pk>/look/", look, name="agents_agentsource_look"), *super().get_urls()]

    def look_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        source = self.get_queryset(request).filter(pk=pk).first()
        if source is None:
            return HttpResponseRedirect(reverse("admin:agents_agentsource_changelist"))
        if not self.has_change_permission(request, source):
            raise PermissionDenied
        self.look_now(request, [source])
        return HttpResponseRedirect(reverse("admin:agents_agentsource_change", args=[pk]))

    def beside(self, request: HttpRequest, source: AgentSource) -> dict[str, Any]:
        page = {
            "source": source,
            "manages": self.has_change_permission(request, source),
            "panels": [_looked(source), _schedule(source)],
            "tables": [_last_look(source), _agents(source)],
        }
        return {"source_page": page}

    @display(  # type: ignore[untyped-decorator]
        description="State", label={"Good": "success", "Failing": "danger", "Off": "warning", "New": "info"}
    )
    def state(self, source: AgentSource) -> str:
        if not source.enabled:
            return "Off"
        return "Failing" if source.error else "Good" if source.succeeded_at else "New"

    @display(description="Last good look")  # type: ignore[untyped-decorator]
    def found(self, source: AgentSource) -> str:
        counts = (source.result or {}).get("counts", {})
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "-"

    @display(description="Configuration")  # type: ignore[untyped-decorator]
    def shown_configuration(self, source: AgentSource) -> str:
        return readable(configurations.hidden(source.configuration))

    def get_readonly_fields(self, request: HttpRequest, obj: AgentSource | None = None) -> list[str]:
        return [] if obj is None else ["workspace_name", "shown_configuration"]

    def get_fields(self, request: HttpRequest, obj: AgentSource | None = None) -> list[str]:
        fields = list(SourceForm.Meta.fields)
        if obj is None:
            return fields
        fields[0] = "workspace_name"
        if not self.has_change_permission(request, obj):
            fields[fields.index("configuration")] = "shown_configuration"
        return fields

    def save_model(self, request: HttpRequest, obj: AgentSource, form: SourceForm, change: bool) -> None:
        fields = form.fields_of(form.cleaned_data, form.cleaned_data["configuration"])
        by = cast(User, request.user)
        if change:
            changes = {name: getattr(fields, name) for name in fields.__slots__}
            sources.change(by=by, pk=obj.pk, workspace_id=obj.workspace_id, changes=changes)
        else:
            obj.pk = sources.add(by=by, workspace_id=obj.workspace_id, fields=fields).pk

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        source = cast(AgentSource, obj)
        sources.remove(by=request.user, pk=source.pk, workspace_id=source.workspace_id)

    @action(description="Look now", permissions=["manage"])  # type: ignore[untyped-decorator]
    def look_now(self, request: HttpRequest, queryset: Iterable[AgentSource]) -> None:
        def act(source: AgentSource, by: User) -> None:
            synchronising.synchronise(source_id=source.pk, workspace_id=source.workspace_id, by=by)

        self.each(request, queryset, act, permission=Permission.MANAGE_AGENTS, done="Looked at")


# -- above the form ---------------------------------------------------------------


def _looked(source: AgentSource) -> Panel:
    if source.error:
        said = [source.error.get("message") or source.error.get("code") or "", f"{source.failures} in a row."]
        look = chip("failed", word="Failing")
    elif source.succeeded_at:
        counts = (source.result or {}).get("counts", {})
        found = [f"{count} {name}" for name, count in counts.items() if count]
        unchanged = (source.result or {}).get("unchanged")
        found += [f"{unchanged} unchanged"] if unchanged else []
        said, look = [f"Found: {', '.join(found) or 'nothing'}."], chip("completed", word="Good")
    else:
        said, look = ["Nobody has looked yet."], chip("pending", word="New")
    if source.synchronised_at:
        said.append(format_html("Looked at {}.", when(source.synchronised_at, "ago")))
    if source.error and source.succeeded_at:
        said.append(format_html("The last good look was {}.", when(source.succeeded_at, "ago")))
    return Panel("Last look", look, said, "look", "Look now")


def _schedule(source: AgentSource) -> Panel:
    if not source.enabled:
        return Panel("Schedule", chip("cancelled", word="Off"), ["The clock does not look."])
    if not source.interval_s:
        return Panel("Schedule", chip("pending", word="By hand"), ["The clock does not look."])
    said = [f"Every {span(source.interval_s)}.", format_html("Next {}.", when(source.due_at))]
    return Panel("Schedule", chip("completed", word="On"), said)


def _last_look(source: AgentSource) -> Table | None:
    """What was new, changed and gone at the last good look, and what could not be used."""
    result = source.result or {}
    known = {agent.agent_id: agent for agent in source.agents.all()}
    rows: list[tuple[Any, ...]] = [
        (page_of(known[name], name) if name in known else name, word, "-")
        for key, word in WHAT.items()
        for name in result.get(key) or ()
    ]
    rows += [
        (each.get("key", ""), "Cannot be used", each.get("message") or each.get("code", ""))
        for each in result.get("skipped") or ()
    ]
    if not rows:
        return None
    return rows_table("What the last good look changed", ("Agent", "What", "Why"), rows, "result")


def _agents(source: AgentSource) -> Table:
    rows = [
        (
            page_of(agent),
            agent.name,
            chip("cancelled", word="Gone")
            if agent.gone_at
            else chip("completed", word="On")
            if agent.enabled
            else chip("cancelled", word="Off"),
        )
        for agent in source.agents.order_by("agent_id")[:AGENTS]
    ]
    return rows_table(
        "Its agents", ("Agent", "Name", "State"), rows, "agents", empty="It has brought no agent yet."
    )
