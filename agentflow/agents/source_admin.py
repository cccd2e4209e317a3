"""The admin of what finds agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.decorators import action, display

from ..governance.admin_base import WorkspaceFilter, readable
from ..governance.models import User
from ..governance.roles import Permission
from . import configuration as configurations
from .admin import Managed, StrictJSONField
from .models import AgentSource
from .services import sources, synchronising
from .services.sources import SourceFields

if TYPE_CHECKING:
    _SourceModelForm = forms.ModelForm[AgentSource]
else:  # Django's own class takes no parameter
    _SourceModelForm = forms.ModelForm

_FORM_FIELDS = {"intervalSeconds": "interval_s"}
_STATE = ("synchronised_at", "succeeded_at", "failures", "shown_result", "shown_error")


class SourceForm(_SourceModelForm):
    """Checked by the same rules as a POST to /api/v1/agents/sources."""

    configuration = StrictJSONField(required=False, help_text="Secrets read as ******** and stay if left so.")

    class Meta:
        model = AgentSource
        fields = ["workspace", "kind", "name", "url", "server", "configuration", "interval_s", "enabled"]
        labels = {"interval_s": "Seconds between two looks"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored = dict(self.instance.configuration or {})
        self.initial["configuration"] = configurations.hidden(self.stored)

    def clean_configuration(self) -> Any:
        given = self.cleaned_data["configuration"] or {}
        if not isinstance(given, dict):
            raise ValidationError("This must be a JSON object.")
        return given

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

    @display(description="Last good look")  # type: ignore[untyped-decorator]
    def shown_result(self, source: AgentSource) -> str:
        return readable(source.result)

    @display(description="Error")  # type: ignore[untyped-decorator]
    def shown_error(self, source: AgentSource) -> str:
        return readable(source.error)

    @display(description="Configuration")  # type: ignore[untyped-decorator]
    def shown_configuration(self, source: AgentSource) -> str:
        return readable(configurations.hidden(source.configuration))

    def get_readonly_fields(self, request: HttpRequest, obj: AgentSource | None = None) -> list[str]:
        return [] if obj is None else ["workspace_name", "shown_configuration", *_STATE]

    def get_fields(self, request: HttpRequest, obj: AgentSource | None = None) -> list[str]:
        fields = list(SourceForm.Meta.fields)
        if obj is None:
            return fields
        fields[0] = "workspace_name"
        if not self.has_change_permission(request, obj):
            fields[fields.index("configuration")] = "shown_configuration"
        return [*fields, *_STATE]

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
    def look_now(self, request: HttpRequest, queryset: QuerySet[AgentSource]) -> None:
        def act(source: AgentSource, by: User) -> None:
            synchronising.synchronise(source_id=source.pk, workspace_id=source.workspace_id, by=by)

        self.each(request, queryset, act, permission=Permission.MANAGE_AGENTS, done="Looked at")
