"""The admin of what a workspace says about failures: its rules and its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextareaWidget

from agentflow.governance.admin_base import BaseList, WorkspaceFilter, WorkspaceScopedAdmin, json_text
from agentflow.governance.json_fields import JSONObjectField
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from . import policing
from .rule_models import FailureRule, RecoveryPolicy

if TYPE_CHECKING:
    _RuleModelForm = forms.ModelForm[FailureRule]
    _PolicyModelForm = forms.ModelForm[RecoveryPolicy]
else:  # Django's own class takes no parameter
    _RuleModelForm = _PolicyModelForm = forms.ModelForm


def _show(form: forms.BaseForm, issues: list[JSONObject], otherwise: str) -> None:
    """Each problem at its field."""
    for issue in issues:
        name, _, inside = str(issue["pointer"]).lstrip("/").partition("/")
        field = name if name in form.fields else otherwise
        at = f"/{name}/{inside}: ".replace("//", "/") if field == otherwise and name and name != field else ""
        form.add_error(field if field in form.fields else None, f"{at}{issue['message']}")


class RuleForm(_RuleModelForm):
    """What cannot work is refused where it is written."""

    class Meta:
        model = FailureRule
        fields = ["workspace", "name", "place", "condition", "kind", "code", "enabled"]
        widgets = {"condition": UnfoldAdminTextareaWidget(attrs={"rows": 3})}
        help_texts = {
            "place": "The first rule that holds counts; lower goes first.",
            "condition": "CEL over failure (kind, code, message, outcomeUnknown, evidence), block, template,"
            " agent. For example: failure.code == 'http_403' && failure.message.contains('quota')",
            "kind": "Who can mend it: time, another agent, a person, nobody.",
            "code": "Empty: as it was.",
        }

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            for name, value in cleaned.items():
                setattr(self.instance, name, value)
            _show(self, policing.rule_issues(self.instance), "condition")
        return cleaned


class RuleList(BaseList):
    """Looks once for rules that an earlier one takes failures from."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        shown: list[FailureRule] = list(self.result_list)
        found = policing.shadowed(shown)
        for rule in shown:
            rule.shadow = found.get(rule.pk, "")  # type: ignore[attr-defined]
        self.result_list = shown


@admin.register(FailureRule)
class FailureRuleAdmin(WorkspaceScopedAdmin):
    change_permission = add_permission = delete_permission = Permission.ADMINISTER
    form = RuleForm
    list_display = ("name", "place", "workspace", "kind", "code", "enabled", "state")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace",)
    search_fields = ("name", "condition", "code")
    ordering = ("place", "created_at")
    empty_words = "Say here what kind of failure something is that agentflow takes for another."

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RuleList]:
        return RuleList

    def get_queryset(self, request: HttpRequest) -> QuerySet[FailureRule]:
        return cast("QuerySet[FailureRule]", super().get_queryset(request).select_related("workspace"))

    @display(description="State")  # type: ignore[untyped-decorator]
    def state(self, rule: FailureRule) -> str:
        """Whether it works, and what takes failures from it."""
        if rule.error:
            return f"Threw, and is passed over: {rule.error}"
        shadow = getattr(rule, "shadow", "")
        return f"Some of its failures go to {shadow!r} before it" if shadow else "-"

    def get_readonly_fields(self, request: HttpRequest, obj: FailureRule | None = None) -> tuple[str, ...]:
        return () if obj is None else ("workspace", "state")

    def save_model(self, request: HttpRequest, obj: FailureRule, form: RuleForm, change: bool) -> None:
        policing.save_rule(by=cast(User, request.user), rule=obj)

    def delete_model(self, request: HttpRequest, obj: FailureRule) -> None:
        policing.remove_rule(by=cast(User, request.user), rule=obj)


class PolicyForm(_PolicyModelForm):
    policy = JSONObjectField(
        or_empty=True,
        help_text='As "recovery" in a template, for example {"transient": ["retry", "queue", "ask"]}.'
        " What a template or a block says counts before it.",
    )

    class Meta:
        model = RecoveryPolicy
        fields = ["workspace", "policy"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            _show(self, policing.policy_issues(cleaned["policy"]), "policy")
        return cleaned


@admin.register(RecoveryPolicy)
class RecoveryPolicyAdmin(WorkspaceScopedAdmin):
    change_permission = add_permission = delete_permission = Permission.ADMINISTER
    form = PolicyForm
    list_display = ("workspace", "said", "changed_by", "changed_at")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace", "changed_by")
    empty_words = "Without a policy failures are tried again, and then asked about."

    @display(description="Policy")  # type: ignore[untyped-decorator]
    def said(self, policy: RecoveryPolicy) -> str:
        return str(json_text(policy.policy))

    def get_readonly_fields(self, request: HttpRequest, obj: RecoveryPolicy | None = None) -> tuple[str, ...]:
        return () if obj is None else ("workspace",)

    def save_model(self, request: HttpRequest, obj: RecoveryPolicy, form: PolicyForm, change: bool) -> None:
        saved = policing.set_policy(
            by=cast(User, request.user), workspace_id=obj.workspace_id, policy=obj.policy
        )
        obj.pk = saved.pk

    def delete_model(self, request: HttpRequest, obj: RecoveryPolicy) -> None:
        policing.remove_policy(by=cast(User, request.user), workspace_id=obj.workspace_id)
