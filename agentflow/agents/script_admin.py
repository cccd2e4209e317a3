"""The admin of scripts: what is saved anew is a new version; the old ones stay."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin, messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from ..errors import AgentflowError, InvalidInput
from ..governance.admin_base import WorkspaceFilter, json_text
from ..governance.json_fields import JSONObjectField, StrictJSONField
from ..governance.models import User
from ..governance.roles import Permission
from .admin import Managed
from .calls import Completed
from .models import Script
from .services import scripts
from .services.scripts import ScriptFields

if TYPE_CHECKING:
    _ScriptModelForm = forms.ModelForm[Script]
else:  # Django's own class takes no parameter
    _ScriptModelForm = forms.ModelForm

_FORM_FIELDS = {"inputSchema": "input_schema", "outputSchema": "output_schema"}
_VERSIONED = ("language", "source", "timeout_s", "limits", "input_schema", "output_schema")
_STATE = ("version", "sha256", "created_at", "versions")


class ScriptForm(_ScriptModelForm):
    """Checked as a POST to /api/v1/scripts."""

    source = forms.CharField(
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 20, "class": "af-code"}), strip=False
    )
    limits = JSONObjectField(
        or_empty=True, help_text='{"memoryMb": 256, "cpuSeconds": 10, "processes": 4, "outputKb": 512}'
    )
    input_schema = JSONObjectField()
    output_schema = JSONObjectField()
    trial = StrictJSONField(
        required=False, label="Input to try", help_text="What “Save and try” gives the script; not kept."
    )

    class Meta:
        model = Script
        fields = ["workspace", "name", "description", *_VERSIONED]
        labels = {"timeout_s": "Timeout in seconds"}
        widgets = {"description": UnfoldAdminTextareaWidget(attrs={"rows": 2})}

    def clean_source(self) -> str:
        return str(self.cleaned_data["source"]).replace("\r\n", "\n")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        try:
            scripts.check(self.script_fields(cleaned))
        except InvalidInput as error:
            for issue in error.issues:
                name = issue["pointer"].split("/")[1]
                self.add_error(_FORM_FIELDS.get(name, name), f"{issue['pointer']}: {issue['message']}")
        return cleaned

    @staticmethod
    def script_fields(cleaned: dict[str, Any]) -> ScriptFields:
        return ScriptFields(**{name: cleaned[name] for name in _VERSIONED})


@admin.register(Script)
class ScriptAdmin(Managed):
    """What is saved with another source, limit or schema is the next version; agents may name an old one."""

    change_permission = Permission.MANAGE_AGENTS
    form = ScriptForm
    list_display = ("name", "workspace", "language", "version", "short_hash", "timeout", "updated_at")
    list_filter = ("language", WorkspaceFilter)
    empty_words = "A script is registered here before an agent may run it; a template never brings code."
    search_fields = ("name", "description")
    list_select_related = ("workspace",)
    actions_submit_line = ("save_and_try",)

    @display(description="Timeout")  # type: ignore[untyped-decorator]
    def timeout(self, script: Script) -> str:
        return f"{script.timeout_s:g} s"

    @display(description="SHA-256")  # type: ignore[untyped-decorator]
    def short_hash(self, script: Script) -> str:
        return script.sha256[:12]

    @display(description="Source")  # type: ignore[untyped-decorator]
    def shown_source(self, script: Script) -> str:
        return format_html('<pre class="af-code">{}</pre>', script.source)

    @display(description="Limits")  # type: ignore[untyped-decorator]
    def shown_limits(self, script: Script) -> str:
        return json_text(script.limits)

    @display(description="Input schema")  # type: ignore[untyped-decorator]
    def shown_input_schema(self, script: Script) -> str:
        return json_text(script.input_schema)

    @display(description="Output schema")  # type: ignore[untyped-decorator]
    def shown_output_schema(self, script: Script) -> str:
        return json_text(script.output_schema)

    @display(description="Versions")  # type: ignore[untyped-decorator]
    def versions(self, script: Script) -> str:
        rows = (
            (each.number, each.sha256[:12], f"{each.created_at:%Y-%m-%d %H:%M}", each.source)
            for each in script.versions.order_by("-number")[:20]
        )
        summary = '<details><summary>{} · {} · {}</summary><pre class="af-code">{}</pre></details>'
        return format_html_join("", summary, rows)

    def get_fields(self, request: HttpRequest, obj: Script | None = None) -> list[str]:
        fields = list(ScriptForm.Meta.fields)
        if obj is None:
            return fields
        fields[0] = "workspace_name"  # a script does not move
        if self.has_change_permission(request, obj):
            return [*fields, "trial", *_STATE]
        for name in ("source", "limits", "input_schema", "output_schema"):
            fields[fields.index(name)] = f"shown_{name}"
        return [*fields, *_STATE]

    def get_readonly_fields(self, request: HttpRequest, obj: Script | None = None) -> list[str]:
        if obj is None:
            return []
        shown = [f"shown_{name}" for name in ("source", "limits", "input_schema", "output_schema")]
        return ["workspace_name", "name", *shown, *_STATE]  # agents know it by its name

    def save_model(self, request: HttpRequest, obj: Script, form: ScriptForm, change: bool) -> None:
        fields, by = form.script_fields(form.cleaned_data), cast(User, request.user)
        description = form.cleaned_data["description"]
        if change:
            saved = scripts.add_version(
                by=by, pk=obj.pk, workspace_id=obj.workspace_id, fields=fields, description=description
            )
        else:
            saved = scripts.register_script(
                by=by,
                workspace_id=obj.workspace_id,
                name=form.cleaned_data["name"],
                fields=fields,
                description=description,
            )
        obj.pk = saved.pk
        request.saved_script = saved  # type: ignore[attr-defined]  # for the button

    @action(description="Save and try")  # type: ignore[untyped-decorator]
    def save_and_try(self, request: HttpRequest, obj: Script) -> None:
        """A button; what it does is done once what it saves is saved."""

    def changeform_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
        response = cast(HttpResponse, super().changeform_view(request, *args, **more))
        saved = getattr(request, "saved_script", None)
        if saved is not None and "agents_script_save_and_try" in request.POST:
            self._try(request, saved)
            return HttpResponseRedirect(reverse("admin:agents_script_change", args=[saved.pk]))
        return response

    def _try(self, request: HttpRequest, script: Script) -> None:
        try:
            trial = scripts.try_script(
                by=request.user,
                pk=script.pk,
                workspace_id=script.workspace_id,
                input=json.loads(request.POST.get("trial") or "null"),
                version=script.version,
            )
        except (AgentflowError, ValueError) as error:
            messages.error(request, str(error))
            return
        outcome, log = trial.outcome, " | ".join(trial.log)[:1000]
        said = f" Log: {log}" if log else ""
        if isinstance(outcome, Completed):
            output = json.dumps(outcome.output, ensure_ascii=False)[:2000]
            messages.success(request, f"Completed in {trial.ms:.0f} ms: {output}{said}")
        else:
            failure = outcome.failure
            messages.error(request, f"Failed ({failure.kind}, {failure.code}): {failure.message}{said}")

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        script = cast(Script, obj)
        try:
            scripts.delete_script(by=request.user, pk=script.pk, workspace_id=script.workspace_id)
        except scripts.ScriptInUse as error:
            messages.error(request, error.message)
