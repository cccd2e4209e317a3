from __future__ import annotations

from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from agentflow.errors import InvalidInput
from agentflow.governance.admin_base import (
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    chip,
    page_of,
    readable,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import outbox, targets, wishes
from .models import Delivery, Target, WorkspaceNotifications, default_topics
from .states import DeliveryState, Stakeholder, Topic
from .targets import TargetFields
from .wishes import PERSONAL, Given

if TYPE_CHECKING:
    _TargetModelForm = forms.ModelForm[Target]
    _DefaultsModelForm = forms.ModelForm[WorkspaceNotifications]
else:  # Django's own class takes no parameter
    _TargetModelForm = _DefaultsModelForm = forms.ModelForm

LOOKS = {
    DeliveryState.PENDING: ("pending", "Waits"),
    DeliveryState.FAILED: ("waiting_external", "Tried again later"),
    DeliveryState.SENT: ("completed", "Sent"),
    DeliveryState.DEAD: ("failed", "Given up"),
    DeliveryState.DROPPED: ("skipped", "Not needed"),
}


class Words(forms.CharField):
    """A JSON list of words, as words between commas."""

    widget = UnfoldAdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [word.strip() for word in str(value or "").split(",") if word.strip()]


class Administered(WorkspaceScopedAdmin):
    """For those who administer the workspace, and nobody else."""

    view_permission = Permission.ADMINISTER

    def has_administer_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)  # removed one by one, each looked at
        return actions


@admin.register(Delivery)
class DeliveryAdmin(Administered):
    """What was sent, is to be, or was given up."""

    list_display = ("told", "state_shown", "channel", "recipient_shown", "attempts", "due", "workspace")
    list_filter = ("state", "channel", "topic", WorkspaceFilter)
    list_select_related = ("workspace", "user", "target", "approval", "execution")
    search_fields = ("id", "approval__id", "user__username", "target__name")
    ordering = ("-created_at", "-id")
    actions = ("send_again",)
    empty_words = "When a question is asked, what is sent about it is kept here."
    fields = (
        ("told", "state_shown"),
        ("channel", "recipient_shown"),
        ("subject", "event_id"),
        ("attempts", "due"),
        ("created_at", "sent_at"),
        "last_error",
        "shown_facts",
    )
    readonly_fields = (
        "told",
        "state_shown",
        "channel",
        "recipient_shown",
        "subject",
        "event_id",
        "attempts",
        "due",
        "created_at",
        "sent_at",
        "last_error",
        "shown_facts",
    )

    @display(description="About")  # type: ignore[untyped-decorator]  # unfold ships no types
    def told(self, delivery: Delivery) -> str:
        if delivery.approval is None:
            return f"{Topic(delivery.topic).label}: {delivery.facts.get('templateName', '')}"
        return f"{Topic(delivery.topic).label}: {delivery.approval.block_name}"

    @display(description="State", ordering="state")  # type: ignore[untyped-decorator]  # as above
    def state_shown(self, delivery: Delivery) -> str:
        status, word = LOOKS[DeliveryState(delivery.state)]
        return chip(status, word=word)

    @display(description="To")  # type: ignore[untyped-decorator]  # as above
    def recipient_shown(self, delivery: Delivery) -> str:
        return str(delivery.target or delivery.user)

    @display(description="Tried at", ordering="next_at")  # type: ignore[untyped-decorator]  # as above
    def due(self, delivery: Delivery) -> Any:
        return delivery.next_at if delivery.state in {DeliveryState.PENDING, DeliveryState.FAILED} else None

    @display(description="Subject")  # type: ignore[untyped-decorator]  # as above
    def subject(self, delivery: Delivery) -> str:
        return page_of(delivery.approval or delivery.execution)

    @display(description="Event")  # type: ignore[untyped-decorator]  # as above
    def shown_facts(self, delivery: Delivery) -> str:
        return readable(delivery.facts)

    @action(description="Send again", permissions=["administer"])  # type: ignore[untyped-decorator]  # as above
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        def act(delivery: Delivery, by: User) -> None:
            outbox.send_again(pk=delivery.pk, by=by)

        self.each(request, queryset, act, permission=Permission.ADMINISTER, done="To be sent again")


class TargetForm(_TargetModelForm):
    """Checked by the same rules as a POST to /api/v1/notifications/targets."""

    topics = forms.MultipleChoiceField(
        choices=Topic.choices, initial=Topic.values, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )
    levels = Words(required=False, help_text="Only these levels, between commas; none: all.")

    class Meta:
        model = Target
        fields = ["workspace", "name", "channel", "url", "secret", "topics", "levels", "enabled"]
        widgets = {"url": UnfoldAdminTextInputWidget, "secret": UnfoldAdminTextInputWidget}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        chosen = cleaned.get("workspace")
        workspace_id = chosen.pk if chosen else self.instance.workspace_id
        if self.errors or workspace_id is None:
            return cleaned
        but = None if self.instance._state.adding else self.instance.pk
        try:
            targets.check(self.given(cleaned), workspace_id=workspace_id, but=but)
        except InvalidInput as error:
            for issue in error.issues:
                self.add_error(issue["pointer"].split("/")[1], issue["message"])
        return cleaned

    @staticmethod
    def given(cleaned: dict[str, Any]) -> TargetFields:
        return TargetFields(**{field.name: cleaned[field.name] for field in fields_of(TargetFields)})


@admin.register(Target)
class TargetAdmin(Administered):
    """Webhooks and chats that a workspace is told at."""

    add_permission = change_permission = delete_permission = Permission.ADMINISTER
    form = TargetForm
    list_display = ("name", "channel", "workspace", "enabled", "given_up")
    list_filter = ("channel", "enabled", WorkspaceFilter)
    list_select_related = ("workspace",)
    search_fields = ("name",)
    empty_words = "A target is a webhook or a chat that is told of the workspace's questions."

    @display(description="Given up")  # type: ignore[untyped-decorator]  # as above
    def given_up(self, target: Target) -> int:
        return target.deliveries.filter(state=DeliveryState.DEAD).count()

    def get_readonly_fields(self, request: HttpRequest, obj: Target | None = None) -> tuple[str, ...]:
        return ("workspace",) if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: Target, form: TargetForm, change: bool) -> None:
        by, given = cast(User, request.user), form.given(form.cleaned_data)
        if change:
            targets.change(by=by, pk=obj.pk, fields=given)
        else:
            obj.pk = targets.add(by=by, workspace_id=obj.workspace_id, fields=given).pk

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        targets.remove(by=cast(User, request.user), pk=cast(Target, obj).pk)


class TopicsField(forms.MultipleChoiceField):
    """`{"requested": ["email"]}`, as boxes to tick."""

    def __init__(self, **kwargs: Any) -> None:
        choices = [
            (f"{topic.value}:{channel.value}", f"{topic.label}, {channel.label.lower()}")
            for topic in Topic
            for channel in PERSONAL
        ]
        super().__init__(
            choices=choices, required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget, **kwargs
        )

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return [f"{topic}:{channel}" for topic, channels in value.items() for channel in channels]
        return value

    def clean(self, value: Any) -> Any:
        chosen = [entry.split(":") for entry in super().clean(value)]
        return {topic: [c for t, c in chosen if t == topic] for topic in Topic.values}

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


class DefaultsForm(_DefaultsModelForm):
    topics = TopicsField(label="Members are told", initial=default_topics)
    login_kinds = Words(required=False, help_text="Kinds, between commas: tool, budget. * is all.")
    login_levels = Words(required=False, help_text="Levels, between commas. * is all.")
    stakeholders = forms.MultipleChoiceField(
        choices=Stakeholder.choices,
        initial=Stakeholder.values,
        required=False,
        label="Told of executions that were given up",
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    class Meta:
        model = WorkspaceNotifications
        fields = [
            "workspace",
            "topics",
            "quiet_from",
            "quiet_to",
            "zone",
            "digest",
            "link_hours",
            "login_kinds",
            "login_levels",
            "stakeholders",
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        try:
            wishes.check(self.given(cleaned))
        except InvalidInput as error:
            raise ValidationError([issue["message"] for issue in error.issues]) from error
        return cleaned

    @staticmethod
    def given(cleaned: dict[str, Any]) -> Given:
        return Given(**{field.name: cleaned[field.name] for field in fields_of(Given)})


@admin.register(WorkspaceNotifications)
class WorkspaceNotificationsAdmin(Administered):
    """What holds for members who chose nothing themselves."""

    add_permission = change_permission = Permission.ADMINISTER
    form = DefaultsForm
    list_display = ("workspace", "digest", "quiet_from", "quiet_to", "zone", "link_hours")
    list_select_related = ("workspace",)
    empty_words = "Members are told by mail of what they are asked, at once, until defaults are set here."

    def get_readonly_fields(
        self, request: HttpRequest, obj: WorkspaceNotifications | None = None
    ) -> tuple[str, ...]:
        return ("workspace",) if obj is not None else ()

    def save_model(
        self, request: HttpRequest, obj: WorkspaceNotifications, form: DefaultsForm, change: bool
    ) -> None:
        cleaned = form.cleaned_data
        wishes.put_rules(
            by=cast(User, request.user),
            workspace_id=obj.workspace_id,
            given=form.given(cleaned),
            link_hours=cleaned["link_hours"],
            login_kinds=cleaned["login_kinds"],
            login_levels=cleaned["login_levels"],
            stakeholders=cleaned["stakeholders"],
        )
