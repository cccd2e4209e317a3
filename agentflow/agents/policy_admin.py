"""The admin of what operators say about choosing: pin, ban, prefer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from ..governance import access
from ..governance.admin_base import BaseList, ChoiceFilter, WorkspaceFilter, link, page_of
from ..governance.models import User
from ..governance.roles import Permission
from .admin import Managed
from .models import Agent, AgentPolicy, PolicyKind
from .ports import Purpose, agent_uses
from .services import policing

if TYPE_CHECKING:
    _PolicyModelForm = forms.ModelForm[AgentPolicy]
else:  # Django's own class takes no parameter
    _PolicyModelForm = forms.ModelForm

TEMPLATES = 500  # that the form offers
EVERYTHING = "Everything in the workspace"
KINDS = {
    PolicyKind.PIN: "Pin: only this agent, and others that are pinned too",
    PolicyKind.BAN: "Ban: never this agent",
    PolicyKind.PREFER: "Prefer: this agent, as long as it has a place free",
}


class PolicyForm(_PolicyModelForm):
    """Checked as a POST to /api/v1/agents/policies."""

    kind = forms.ChoiceField(choices=list(KINDS.items()), widget=UnfoldAdminSelectWidget)
    template = forms.ChoiceField(
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="It counts where a block names no agent, only capabilities.",
    )

    class Meta:
        model = AgentPolicy
        fields = ["agent", "kind", "block_id", "reason"]
        labels = {"block_id": "Block"}
        help_texts = {"block_id": "Its blockId; empty: all blocks of the template."}
        widgets = {"reason": UnfoldAdminTextareaWidget(attrs={"rows": 2})}

    known: tuple[Purpose, ...] = ()  # set for each request

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "template" in self.fields:
            several = len({each.workspace_id for each in self.known}) > 1
            offered = [
                (str(each.template_id), f"{each.name} ({each.workspace})" if several else each.name)
                for each in self.known
            ]
            cast(forms.ChoiceField, self.fields["template"]).choices = [("", EVERYTHING), *offered]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors or "agent" not in cleaned:
            return cleaned
        chosen = next((each for each in self.known if str(each.template_id) == cleaned["template"]), None)
        if chosen is None:
            if cleaned["block_id"]:
                self.add_error("template", "A block goes with its template.")
            return cleaned
        if chosen.workspace_id != cleaned["agent"].workspace_id:
            self.add_error("template", "It is in another workspace than the agent.")
        elif cleaned["block_id"] and cleaned["block_id"] not in chosen.choosing:
            those = ", ".join(chosen.choosing[:10])
            said = f"Those of its newest version: {those}." if those else "Its newest version has none."
            self.add_error("block_id", f"There is no such block that lets its agent be chosen. {said}")
        return cleaned

    def validate_constraints(self) -> None:
        """One for the same purpose is replaced."""


class KindFilter(ChoiceFilter):
    title = parameter_name = "kind"
    choices_of = {kind.value: (kind.label, {"kind": kind.value}) for kind in PolicyKind}


class ReachFilter(ChoiceFilter):
    title = parameter_name = "reach"
    choices_of = {
        "workspace": ("The workspace", {"template_id__isnull": True}),
        "template": ("A template", {"template_id__isnull": False, "block_id": ""}),
        "block": ("A block", {"block_id__gt": ""}),
    }


class PolicyList(BaseList):
    """Names the templates on the page in one query."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        shown: list[AgentPolicy] = list(self.result_list)
        known = names({policy.workspace_id for policy in shown if policy.template_id})
        for policy in shown:
            policy.template_names = known  # type: ignore[attr-defined]
        self.result_list = shown


def names(workspace_ids: Collection[UUID]) -> dict[UUID, str]:
    found = agent_uses().purposes(workspace_ids, TEMPLATES) if workspace_ids else ()
    return {each.template_id: each.name for each in found}


@admin.register(AgentPolicy)
class AgentPolicyAdmin(Managed):
    change_permission = Permission.MANAGE_AGENTS
    form = PolicyForm
    list_display = ("agent", "said", "purpose", "workspace", "reason", "created_by", "created_at")
    list_filter = (KindFilter, ReachFilter, WorkspaceFilter)
    list_select_related = ("agent", "workspace", "created_by")
    search_fields = ("agent__agent_id", "reason", "block_id")
    autocomplete_fields = ("agent",)
    empty_words = "Pin, ban or prefer an agent where blocks name none: in a workspace, a template, a block."

    @display(  # type: ignore[untyped-decorator]
        description="Said", label={"Pinned": "info", "Banned": "danger", "Preferred": "success"}
    )
    def said(self, policy: AgentPolicy) -> str:
        return {"pin": "Pinned", "ban": "Banned", "prefer": "Preferred"}[policy.kind]

    @display(description="For")  # type: ignore[untyped-decorator]
    def purpose(self, policy: AgentPolicy) -> str:
        if policy.template_id is None:
            return EVERYTHING
        known = getattr(policy, "template_names", None)
        known = names([policy.workspace_id]) if known is None else known
        name = known.get(policy.template_id, str(policy.template_id)[:8])
        page = link(reverse("admin:templates_app_template_change", args=[policy.template_id]), name)
        return page if not policy.block_id else format_html("{}, block {}", page, policy.block_id)

    @display(description="Agent")  # type: ignore[untyped-decorator]
    def agent_page(self, policy: AgentPolicy) -> str:
        return page_of(policy.agent)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[PolicyList]:
        return PolicyList

    def get_fields(self, request: HttpRequest, obj: AgentPolicy | None = None) -> list[str]:
        if obj is None:
            return ["agent", "kind", "template", "block_id", "reason"]
        fixed = ["agent_page", "workspace_name", "purpose"]
        if self.has_change_permission(request, obj):
            return [*fixed, "kind", "reason", "created_by", "created_at"]
        return [*fixed, "said", "reason", "created_by", "created_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: AgentPolicy | None = None) -> list[str]:
        if obj is None:
            return []
        return ["agent_page", "workspace_name", "purpose", "said", "created_by", "created_at"]

    def get_form(
        self, request: HttpRequest, obj: AgentPolicy | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        made = super().get_form(request, obj, change, **kwargs)
        if obj is None:
            managed = access.workspaces(request.user, Permission.MANAGE_AGENTS).values_list("pk", flat=True)
            made.known = tuple(agent_uses().purposes(list(managed), TEMPLATES))
        return made

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "agent":
            managed = access.workspaces(request.user, Permission.MANAGE_AGENTS)
            kwargs["queryset"] = Agent.objects.filter(workspace__in=managed)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: AgentPolicy, form: PolicyForm, change: bool) -> None:
        template = form.cleaned_data.get("template")
        policy = policing.set_policy(
            by=cast(User, request.user),
            workspace_id=obj.agent.workspace_id,
            agent_id=obj.agent.agent_id,
            kind=obj.kind,
            template_id=UUID(template) if template else obj.template_id,
            block_id=obj.block_id,
            reason=obj.reason,
        )
        obj.pk, obj.workspace_id = policy.pk, policy.workspace_id

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        policing.remove_policy(by=request.user, pk=cast(AgentPolicy, obj).pk)
