"""The admin of faults: beginning some in a workspace, and ending them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin, messages
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from agentflow.errors import AgentflowError
from agentflow.governance.admin_base import WorkspaceFilter, WorkspaceScopedAdmin, json_text
from agentflow.governance.json_fields import StrictJSONField
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from . import service
from .fields import rule_issues
from .models import FaultInjection

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[FaultInjection]
else:  # Django's own class takes no parameter
    _ModelForm = forms.ModelForm

_EXAMPLE: list[JSONObject] = [
    {"kind": "transient", "code": "http_503", "share": 0.1},
    {"kind": "slow", "ms": 500, "share": 0.2},
]


class FaultsForm(_ModelForm):
    """What a new mode is, checked where it is written."""

    rules = StrictJSONField(
        help_text="What goes wrong, and of which share of the calls. Each may name templates, blocks,"
        " agents or toolTypes. Kinds: transient, agent, configuration, critical, timeout, diesBefore,"
        " diesAfter, slow (with ms), wrongOutput (with output).",
    )
    minutes = forms.IntegerField(
        min_value=1,
        max_value=service.MINUTES_MAX,
        initial=30,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="After so many minutes it ends by itself.",
    )

    class Meta:
        model = FaultInjection
        fields = ["workspace", "rules", "seed", "counts", "reason"]
        widgets = {"reason": UnfoldAdminTextareaWidget(attrs={"rows": 2})}
        help_texts = {
            "seed": "The same seed gives the same faults. Empty: a new one.",
            "counts": "In their performance and their circuits.",
        }
        labels = {"counts": "Counts against agents"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "seed" in self.fields:  # not on the page of one that began
            self.fields["rules"].initial = _EXAMPLE
            self.fields["seed"].required = False

    def clean_rules(self) -> Any:
        rules = self.cleaned_data["rules"]
        issues = rule_issues(rules)
        if issues:
            raise forms.ValidationError([_words(issue) for issue in issues])
        return rules

    def clean_workspace(self) -> Workspace:
        workspace: Workspace = self.cleaned_data["workspace"]
        refused: type[AgentflowError] | None = None
        if workspace.environment == service.PRODUCTION:
            refused = service.NotInProduction
        elif service.active(FaultInjection.objects.filter(workspace=workspace)).exists():
            refused = service.AlreadyInjecting
        if refused is not None:
            raise forms.ValidationError(f"{refused().message} {refused.remedy}")
        return workspace


def _words(issue: JSONObject) -> str:
    """A problem with its place in the list of rules: `0/ms: Say how many milliseconds longer it takes.`"""
    at = str(issue["pointer"]).removeprefix("/rules").lstrip("/")
    return f"{at}: {issue['message']}" if at else str(issue["message"])


def warn(request: HttpRequest) -> None:
    """Say above a list in whose workspaces faults are injected just now."""
    for each in service.active(service.injections(cast(User, request.user))):
        until = timezone.localtime(each.ends_at).strftime("%H:%M")
        messages.warning(
            request,
            f"Until {until}, executions that are started in {each.workspace} meet faults on purpose.",
        )


@admin.register(FaultInjection)
class FaultInjectionAdmin(WorkspaceScopedAdmin):
    """Faults that executions meet on purpose, those that are on and those that were."""

    add_permission = Permission.OPERATE
    form = FaultsForm
    list_display = ("workspace_name", "state", "started_at", "ends_at", "started_by", "reason")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace", "started_by")
    ordering = ("-started_at",)
    actions = ("stop_selected",)
    empty_words = "Let executions of a workspace meet faults for a time, to see what recovery does."

    def get_fields(self, request: HttpRequest, obj: FaultInjection | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("workspace", "rules", "minutes", "seed", "counts", "reason")
        return (
            *("workspace_name", "state", "shown_rules", "seed", "counts", "reason"),
            *("started_by", "started_at", "ends_at", "ended_by", "ended_at", "met"),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: FaultInjection | None = None) -> tuple[str, ...]:
        return () if obj is None else self.get_fields(request, obj)

    def get_queryset(self, request: HttpRequest) -> QuerySet[FaultInjection]:
        on = service.active(FaultInjection.objects.filter(pk=OuterRef("pk")))
        rows: QuerySet[FaultInjection] = super().get_queryset(request)
        return rows.annotate(on=Exists(on))

    @display(  # type: ignore[untyped-decorator]  # unfold ships no types
        description="State", label={"On": "danger", "Ended": "default"}
    )
    def state(self, row: Any) -> str:
        return "On" if row.on else "Ended"

    @display(description="Rules")  # type: ignore[untyped-decorator]
    def shown_rules(self, row: FaultInjection) -> str:
        return str(json_text(row.rules))

    @display(description="Executions that were started with it")  # type: ignore[untyped-decorator]
    def met(self, row: FaultInjection) -> int:
        return row.executions.count()

    def save_model(self, request: HttpRequest, obj: FaultInjection, form: FaultsForm, change: bool) -> None:
        given = form.cleaned_data
        wanted = service.Wanted(
            rules=given["rules"],
            minutes=given["minutes"],
            seed=given["seed"],
            counts=given["counts"],
            reason=given["reason"],
        )
        made = service.begin(by=cast(User, request.user), workspace_id=obj.workspace_id, wanted=wanted)
        obj.pk = made.pk

    @admin.action(description="End now", permissions=["operate"])
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[FaultInjection]) -> None:
        self.each(
            request,
            service.active(queryset),
            lambda row, by: service.stop(by=by, workspace_id=row.workspace_id),
            permission=Permission.OPERATE,
            done="Ended",
        )
