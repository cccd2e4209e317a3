from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.timesince import timesince
from django.views.decorators.http import require_POST
from unfold.decorators import action, display
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from agentflow.errors import AgentflowError
from agentflow.governance import access
from agentflow.governance.admin_base import (
    ChoiceFilter,
    Table,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    chip,
    json_text,
    link,
    page_of,
    readable,
    words_of,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import budget, fix_admin, selectors, workload
from .models import CLAIM, Approval, ApprovalLevel
from .question import used_up
from .services import handing, ladder, rework, withdrawing
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


class OverdueFilter(ChoiceFilter):
    title = parameter_name = "attention"
    choices_of = {
        "late": ("Past its time", {"status": ApprovalStatus.PENDING, "respond_by__lte": Now()}),
        "soon": (
            "Due soon",
            {"status": ApprovalStatus.PENDING, "due_soon_at__lte": Now(), "respond_by__gt": Now()},
        ),
        "escalated": ("Escalated", {"status": ApprovalStatus.PENDING, "level_index__gt": 0}),
        "taken": ("Taken", {"status": ApprovalStatus.PENDING, "claimed_at__gt": Now() - CLAIM}),
    }


class HandingForm(ActionForm):  # type: ignore[misc]  # unfold ships no types
    """What the actions need besides the chosen rows."""

    to = forms.CharField(required=False, max_length=150, label="to")
    reason = forms.CharField(required=False, max_length=1000, label="reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("to", "reason"):
            self.fields[name].widget = UnfoldAdminTextInputWidget()


@admin.register(Approval)
class ApprovalAdmin(WorkspaceScopedAdmin):
    """To look at, and to give to others.  Questions are answered in the inbox: there one sees what for; one
    about a stuck step can be answered here, too."""

    action_form = HandingForm
    change_form_outer_before_template = "admin/approvals/fix.html"
    actions = ("reassign_selected", "release_selected", "send_back_selected", "withdraw_selected")
    list_before_template = "admin/agentflow/tables.html"

    list_display = (
        "question",
        "shown_status",
        "kind",
        "level",
        "requested_at",
        "respond_by",
        "claimed_by",
        "responder",
        "workspace",
    )
    list_filter = ("status", OverdueFilter, "kind", "level", AgeFilter, WorkspaceFilter)
    list_select_related = ("workspace", "responder", "claimed_by")
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
                    "sends_back",
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
        "sends_back",
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
        about = budget.shown(approval)
        if about is None:
            return readable(approval.request)
        return render_to_string("approvals/budget_admin.html", {"budget": about})

    @display(description="Send back")  # type: ignore[untyped-decorator]  # as above
    def sends_back(self, approval: Approval) -> str:
        """What would run again; it is done in the inbox, or by the action of the list."""
        offer = rework.offer(approval)
        if offer is None:
            return "-"
        if not offer.left:
            return used_up(offer)
        again = ", ".join(dict.fromkeys(each for way in offer.ways if way.usual for each in way.again))
        return f"Would run again: {again}. {offer.left} of {offer.most} times left."

    @display(description="Form")  # type: ignore[untyped-decorator]  # as above
    def shown_schema(self, approval: Approval) -> str:
        return json_text(approval.input_schema)

    @display(description="Answered by")  # type: ignore[untyped-decorator]  # as above
    def who(self, approval: Approval) -> str:
        return str(approval.responder or "-")

    @display(description="Response")  # type: ignore[untyped-decorator]  # as above
    def shown_response(self, approval: Approval) -> str:
        return readable(approval.response)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        tables = [] if request.method == "POST" else [_groups(request), _people(request)]
        response: HttpResponse = super().changelist_view(
            request, {**(extra_context or {}), "tables": [table for table in tables if table.rows]}
        )
        return response

    @action(description="Give to somebody else", permissions=["operate"])  # type: ignore[untyped-decorator]  # as above
    def reassign_selected(self, request: HttpRequest, queryset: QuerySet[Approval]) -> None:
        to, reason = (request.POST.get(name, "").strip() for name in ("to", "reason"))
        if not to or not reason:
            messages.error(request, "Say to whom (a username) and why, beside the action.")
            return

        def act(approval: Approval, by: User) -> None:
            handing.reassign(approval_id=approval.pk, by=by, to_user=to, reason=reason)

        self.each(request, queryset, act, permission=Permission.OPERATE, done=f"Given to {to}")

    @action(description="Let others have what is taken", permissions=["operate"])  # type: ignore[untyped-decorator]
    def release_selected(self, request: HttpRequest, queryset: QuerySet[Approval]) -> None:
        def act(approval: Approval, by: User) -> None:
            handing.release(approval_id=approval.pk, by=by)

        self.each(request, queryset, act, permission=Permission.OPERATE, done="Free again")

    @action(description="Send back to the steps before", permissions=["decide"])  # type: ignore[untyped-decorator]
    def send_back_selected(self, request: HttpRequest, queryset: QuerySet[Approval]) -> None:
        comments = request.POST.get("reason", "").strip()
        if not comments:
            messages.error(request, "Say beside the action, as the reason, what should be done otherwise.")
            return

        def act(approval: Approval, by: User) -> None:
            rework.send_back(approval_id=approval.pk, by=by, comments=comments)

        self.each(request, queryset, act, permission=Permission.DECIDE, done="Sent back")

    @action(description="Withdraw: their steps fail", permissions=["operate"])  # type: ignore[untyped-decorator]
    def withdraw_selected(self, request: HttpRequest, queryset: QuerySet[Approval]) -> None:
        reason = request.POST.get("reason", "").strip()
        if not reason:
            messages.error(request, "Say why, beside the action.")
            return

        def act(approval: Approval, by: User) -> None:
            withdrawing.withdraw(approval_id=approval.pk, by=by, reason=reason)

        self.each(request, queryset, act, permission=Permission.OPERATE, done="Withdrawn")

    # -- a stuck step ----------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        answered = self.admin_site.admin_view(require_POST(self.fix_view))
        return [path("<uuid:pk>/fix/", answered, name="approvals_approval_fix"), *super().get_urls()]

    def beside(self, request: HttpRequest, approval: Approval) -> dict[str, Any]:
        return {"stuck_step": fix_admin.panel(request, approval)}

    def fix_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """The answer of the form; what was typed stays where it is refused."""
        approval = self.get_queryset(request).filter(pk=pk).first()
        if approval is None:
            return HttpResponseRedirect(reverse("admin:approvals_approval_changelist"))
        try:
            fix_admin.answer(request, approval)
        except AgentflowError as error:
            messages.error(request, words_of(error))
            shown = self.beside(request, approval)
            request.method = "GET"  # it is looked at: the page's own form is not sent
            return self.change_view(request, str(pk), extra_context=shown)
        messages.success(request, "Answered.")
        return HttpResponseRedirect(reverse("admin:approvals_approval_change", args=[pk]))

    def get_fieldsets(self, request: HttpRequest, obj: Approval | None = None) -> Any:
        """What has no answer yet has no place for one."""
        waiting = obj is not None and obj.status == ApprovalStatus.PENDING
        return [each for each in self.fieldsets if not (waiting and each[0] == "Answer")]

    def name_of(self, approval: Approval) -> str:
        return str(self.question(approval))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Approval]:
        rows = selectors.shown(selectors.visible(request.user)).select_related("workspace")
        return rows.order_by(*self.ordering)


def _groups(request: HttpRequest) -> Table:
    rows = [
        (
            one.level,
            one.workspace,
            one.open,
            one.late or "-",
            one.escalated or "-",
            timesince(one.oldest, depth=1),
        )
        for one in workload.by_group(request.user)
    ]
    columns = ("Asked", "Workspace", "Open", "Past their time", "Escalated", "Oldest")
    return _table("Waiting, by group", columns, rows, "groups")


def _people(request: HttpRequest) -> Table:
    rows = [
        (one.name, one.taken or "-", one.asked or "-", one.late or "-", one.answered or "-")
        for one in workload.by_person(request.user)
    ]
    columns = ("Person", "Taken", "Asked by name", "Past their time", "Answered in 7 days")
    return _table("Waiting, by person", columns, rows, "people")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], anchor: str) -> Table:
    page = Paginator(rows, workload.ROWS_MAX).get_page(1)
    return Table(title, columns, rows, page, anchor, empty="Nothing.", page_parameter=anchor, labels=True)


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
