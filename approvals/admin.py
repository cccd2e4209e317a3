from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from unfold.decorators import display

from agentflow.governance import access
from agentflow.governance.admin_base import (
    ChoiceFilter,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    chip,
    json_text,
    link,
    page_of,
    readable,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import selectors
from .models import Approval, ApprovalLevel
from .services import ladder
from .states import ApprovalStatus

# Which of the pages' states an answer looks like, and its word.
LOOKS = {
    ApprovalStatus.PENDING: ("waiting_human", "Waiting"),
    ApprovalStatus.APPROVED: ("completed", "Approved"),
    ApprovalStatus.REJECTED: ("failed", "Rejected"),
    ApprovalStatus.EXPIRED: ("failed", "Nobody answered"),
    ApprovalStatus.CANCELLED: ("cancelled", "Withdrawn"),
}


class AgeFilter(ChoiceFilter):
    title = parameter_name = "age"
    choices_of = {
        "1h": ("Over an hour", {"requested_at__lt": Now() - timedelta(hours=1)}),
        "1d": ("Over a day", {"requested_at__lt": Now() - timedelta(days=1)}),
        "1w": ("Over a week", {"requested_at__lt": Now() - timedelta(weeks=1)}),
    }


@admin.register(Approval)
class ApprovalAdmin(WorkspaceScopedAdmin):
    """To look at.  Questions are answered in the inbox, where one sees what one decides."""

    list_display = (
        "question",
        "shown_status",
        "kind",
        "level",
        "requested_at",
        "respond_by",
        "responder",
        "workspace",
    )
    list_filter = ("status", "kind", "level", AgeFilter, WorkspaceFilter)
    list_select_related = ("workspace", "responder")
    search_fields = ("block_name", "block_id", "execution__id")
    ordering = ("-requested_at", "-id")
    empty_words = "When an execution asks a person, the question is kept here."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "question",
                    ("shown_status", "inbox"),
                    ("execution_page", "workspace_name"),
                    ("block_name", "attempt"),
                    ("kind", "level"),
                    ("requested_at", "respond_by"),
                )
            },
        ),
        ("Asked", {"fields": ("shown_request", "shown_schema")}),
        ("Answer", {"fields": (("who", "responded_at"), "shown_response", "comments", "reason")}),
    )
    readonly_fields = (
        "question",
        "shown_status",
        "inbox",
        "execution_page",
        "workspace_name",
        "block_name",
        "attempt",
        "kind",
        "level",
        "requested_at",
        "respond_by",
        "shown_request",
        "shown_schema",
        "who",
        "responded_at",
        "shown_response",
        "comments",
        "reason",
    )

    @display(description="Question")  # type: ignore[untyped-decorator]  # unfold ships no types
    def question(self, approval: Approval) -> str:
        return str(approval.request.get("title") or approval.block_name)

    @display(description="Status", ordering="status")  # type: ignore[untyped-decorator]  # as above
    def shown_status(self, approval: Approval) -> str:
        status, word = LOOKS[ApprovalStatus(approval.status)]
        return chip(status, word=word)

    @display(description="Inbox")  # type: ignore[untyped-decorator]  # as above
    def inbox(self, approval: Approval) -> str:
        return link(reverse("inbox-question", args=[approval.pk]), "Open in the inbox")

    @display(description="Execution")  # type: ignore[untyped-decorator]  # as above
    def execution_page(self, approval: Approval) -> str:
        return page_of(
            approval.execution, f"{approval.execution.template_version}, {str(approval.execution_id)[:8]}"
        )

    @display(description="Asked with")  # type: ignore[untyped-decorator]  # as above
    def shown_request(self, approval: Approval) -> str:
        return readable(approval.request)

    @display(description="Form")  # type: ignore[untyped-decorator]  # as above
    def shown_schema(self, approval: Approval) -> str:
        return json_text(approval.input_schema)

    @display(description="Answered by")  # type: ignore[untyped-decorator]  # as above
    def who(self, approval: Approval) -> str:
        return str(approval.responder or "-")

    @display(description="Response")  # type: ignore[untyped-decorator]  # as above
    def shown_response(self, approval: Approval) -> str:
        return readable(approval.response)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Approval]:
        rows = selectors.shown(selectors.visible(request.user)).select_related("workspace")
        return rows.order_by(*self.ordering)


@admin.register(ApprovalLevel)
class ApprovalLevelAdmin(WorkspaceScopedAdmin):
    """The ladders of the workspaces one administers."""

    view_permission = add_permission = change_permission = delete_permission = Permission.ADMINISTER

    list_display = ("name", "workspace", "position", "group")
    list_filter = (WorkspaceFilter,)
    empty_words = "Every approver may answer. Levels name groups for questions that need somebody else."
    list_select_related = ("workspace", "group")
    fields = ("workspace", "name", "position", "group")

    def get_readonly_fields(self, request: HttpRequest, obj: ApprovalLevel | None = None) -> tuple[str, ...]:
        # Templates and open questions name a level by these two.
        return ("workspace", "name") if obj is not None else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "group":
            administered = access.workspaces(request.user, Permission.ADMINISTER)
            kwargs["queryset"] = Group.objects.filter(
                Q(workspace_role=None) | Q(workspace_role__workspace__in=administered)
            )
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)  # removed one by one, each looked at
        return actions

    def save_model(self, request: HttpRequest, obj: ApprovalLevel, form: Any, change: bool) -> None:
        ladder.save(level=obj, by=cast(User, request.user))

    def delete_model(self, request: HttpRequest, obj: ApprovalLevel) -> None:
        ladder.remove(level=obj, by=cast(User, request.user))

    def has_delete_permission(self, request: HttpRequest, obj: ApprovalLevel | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not ladder.in_use(obj))
