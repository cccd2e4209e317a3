from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import ForeignKey, Model, Q, QuerySet
from django.db.models.functions import Now
from django.forms import ModelChoiceField
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display

from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import selectors
from .models import Approval, ApprovalLevel
from .services import ladder


def _staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


class AgeFilter(admin.SimpleListFilter):
    title = "age"
    parameter_name = "age"
    hours = {"1h": 1, "1d": 24, "1w": 168}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1h", "Over an hour"), ("1d", "Over a day"), ("1w", "Over a week")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        hours = self.hours.get(self.value() or "")
        return None if hours is None else queryset.filter(requested_at__lt=Now() - timedelta(hours=hours))


@admin.register(Approval)
class ApprovalAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """To look at.  Questions are answered in the inbox, where one sees what one decides."""

    list_display = (
        "question",
        "shown_status",
        "kind",
        "level",
        "workspace",
        "requested_at",
        "respond_by",
        "responder",
    )
    list_filter = ("status", "kind", "level", AgeFilter)
    list_select_related = ("workspace", "responder")
    search_fields = ("block_name", "block_id", "execution__id")
    ordering = ("-requested_at", "-id")
    date_hierarchy = None
    show_full_result_count = False  # a count over all rows for every page
    fields = (
        "question",
        "inbox",
        "workspace",
        "execution_id",
        "block_id",
        "attempt",
        "kind",
        "level",
        "status",
        "request",
        "input_schema",
        "content_hash",
        "requested_at",
        "respond_by",
        "responded_at",
        "closed_at",
        "responder",
        "response",
        "comments",
        "reason",
    )
    readonly_fields = fields

    @display(description="Question")  # type: ignore[untyped-decorator]  # as above
    def question(self, approval: Approval) -> str:
        return str(approval.request.get("title") or approval.block_name)

    @display(  # type: ignore[untyped-decorator]  # as above
        description="Status",
        label={
            "pending": "warning",
            "approved": "success",
            "rejected": "danger",
            "expired": "danger",
            "cancelled": "info",
        },
    )
    def shown_status(self, approval: Approval) -> str:
        return approval.status

    @display(description="Inbox")  # type: ignore[untyped-decorator]  # as above
    def inbox(self, approval: Approval) -> str:
        url = reverse("inbox-question", args=[approval.pk])
        return format_html('<a href="{}">Open in the inbox</a>', url)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Approval]:
        return selectors.visible(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Approval | None = None) -> bool:
        return _staff(request)  # the queryset holds only what may be seen

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Approval | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Approval | None = None) -> bool:
        return False


@admin.register(ApprovalLevel)
class ApprovalLevelAdmin(ModelAdmin):  # type: ignore[misc]  # as above
    """The ladders of the workspaces one administers."""

    list_display = ("name", "workspace", "position", "group")
    list_filter = ("workspace",)
    list_select_related = ("workspace", "group")
    fields = ("workspace", "name", "position", "group")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApprovalLevel]:
        return ApprovalLevel.objects.visible_to(request.user, Permission.ADMINISTER)

    def get_readonly_fields(self, request: HttpRequest, obj: ApprovalLevel | None = None) -> tuple[str, ...]:
        # Templates and open questions name a level by these two.
        return ("workspace", "name") if obj is not None else ()

    def formfield_for_foreignkey(
        self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField[Model] | None:
        administered = access.workspaces(request.user, Permission.ADMINISTER)
        if db_field.name == "workspace":
            kwargs["queryset"] = administered
        elif db_field.name == "group":
            kwargs["queryset"] = Group.objects.filter(
                Q(workspace_role=None) | Q(workspace_role__workspace__in=administered)
            )
        return cast(
            "ModelChoiceField[Model] | None", super().formfield_for_foreignkey(db_field, request, **kwargs)
        )

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)  # removed one by one, each looked at
        return actions

    def save_model(self, request: HttpRequest, obj: ApprovalLevel, form: Any, change: bool) -> None:
        ladder.save(level=obj, by=cast(User, request.user))

    def delete_model(self, request: HttpRequest, obj: ApprovalLevel) -> None:
        ladder.remove(level=obj, by=cast(User, request.user))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._administers(request)

    def has_view_permission(self, request: HttpRequest, obj: ApprovalLevel | None = None) -> bool:
        return self._administers(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._administers(request)

    def has_change_permission(self, request: HttpRequest, obj: ApprovalLevel | None = None) -> bool:
        return self._administers(request)

    def has_delete_permission(self, request: HttpRequest, obj: ApprovalLevel | None = None) -> bool:
        return self._administers(request) and (obj is None or not ladder.in_use(obj))

    def _administers(self, request: HttpRequest) -> bool:
        return _staff(request) and access.workspaces(request.user, Permission.ADMINISTER).exists()
