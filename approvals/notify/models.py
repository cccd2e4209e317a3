"""Who is told what by which channel, and every message that was or is to be sent."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentflow.governance.access import WorkspaceScopedQuerySet

from .states import OPEN, Channel, DeliveryState, Digest, LinkAction, Stakeholder, Topic

NAME_CHARS = 100


def default_topics() -> dict[str, Any]:
    """Which channels tell a person of what, where nobody said otherwise."""
    asks = [Channel.EMAIL.value, Channel.BROWSER.value]
    return {
        Topic.REQUESTED.value: asks,
        Topic.REMINDER.value: asks,
        Topic.ESCALATED.value: asks,
        Topic.DECIDED.value: [Channel.BROWSER.value],
        Topic.EXPIRED.value: [],
        Topic.WITHDRAWN.value: [],
        Topic.COMMENTED.value: [Channel.BROWSER.value],
        Topic.GIVEN_UP.value: [Channel.EMAIL.value],
    }


def all_topics() -> list[str]:
    return list(Topic.values)


def all_stakeholders() -> list[str]:
    return list(Stakeholder.values)


class Follower(models.Model):
    """How far a reader of the event store has come.  Moves in the transaction that writes what it read."""

    name = models.CharField(primary_key=True, max_length=50)
    xid = models.BigIntegerField(default=0)
    event_id = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} at {self.xid}-{self.event_id}"


class Wishes(models.Model):
    """What a person and a workspace's defaults both say.

    `topics` is `{"requested": ["email", "browser"], ...}`.  From `quiet_from` to `quiet_to`, by the clocks of
    `zone`, nothing is sent but what cannot wait.
    """

    topics = models.JSONField(default=default_topics)
    quiet_from = models.TimeField(null=True, blank=True)
    quiet_to = models.TimeField(null=True, blank=True)
    zone = models.CharField(max_length=64, default="UTC")
    digest = models.CharField(max_length=11, choices=Digest.choices, default=Digest.IMMEDIATELY)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class WorkspaceNotifications(Wishes):
    """What holds for members of a workspace who chose nothing themselves; rules for links in mails."""

    workspace = models.OneToOneField(
        "governance.Workspace", on_delete=models.CASCADE, primary_key=True, related_name="notifications"
    )
    link_hours = models.PositiveIntegerField(
        default=72, help_text="How long a link in a mail decides; 0: mails carry none."
    )
    login_kinds = models.JSONField(
        default=list, blank=True, help_text='Kinds that need a login: ["tool", "budget"]; ["*"] is all.'
    )
    login_levels = models.JSONField(
        default=list, blank=True, help_text='Levels that need a login: ["finance"]; ["*"] is all.'
    )

    stakeholders = models.JSONField(
        default=all_stakeholders, help_text="Who is told that an execution was given up."
    )

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        verbose_name = "notification defaults"
        verbose_name_plural = "notification defaults"

    def __str__(self) -> str:
        return f"Notifications of {self.workspace}"


class UserNotifications(Wishes):
    """What one person wants to be told in one workspace."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notifications")
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "workspace"], name="one_choice_per_person_and_workspace")
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.workspace}"


class Target(models.Model):
    """An address of the workspace that is told of its questions: a webhook, or a channel of a chat."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="notification_targets"
    )
    name = models.CharField(max_length=NAME_CHARS)
    channel = models.CharField(
        max_length=7,
        choices=[(each.value, each.label) for each in (Channel.WEBHOOK, Channel.SLACK)],
    )
    url = models.TextField(help_text="May be or hold a secret: ${secrets.NAME}.")
    secret = models.TextField(
        blank=True, default="", help_text="Signs webhooks: ${secrets.NAME}, 24 characters at least."
    )
    topics = models.JSONField(default=all_topics)
    levels = models.JSONField(default=list, blank=True, help_text="Only these levels; none: all.")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        verbose_name = "notification target"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="one_target_per_name"),
        ]

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """One event told to one recipient by one channel: at least once, with `id` to tell a repeat by.

    `lane` is what is sent one after the other: all mail, or one target.  A delivery that leads a batch
    (`batch` is its own id) is sent for all of it, as one mail; only leaders and single ones are claimed.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="+")
    # What it is about: a question, or an execution that was given up.
    approval = models.ForeignKey(
        "approvals.Approval", on_delete=models.CASCADE, related_name="deliveries", null=True
    )
    execution = models.ForeignKey(
        "executions.Execution", on_delete=models.CASCADE, related_name="+", null=True
    )
    event_id = models.BigIntegerField()
    event_type = models.TextField()
    event_at = models.DateTimeField()
    facts = models.JSONField(default=dict)  # the event's payload
    topic = models.CharField(max_length=10, choices=Topic.choices)
    channel = models.CharField(max_length=7, choices=Channel.choices)
    recipient = models.TextField()  # user:<id> or target:<id>
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+")
    target = models.ForeignKey(Target, on_delete=models.CASCADE, null=True, related_name="deliveries")
    lane = models.TextField()
    state = models.CharField(max_length=7, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    digest = models.BooleanField(default=False)
    batch = models.UUIDField(null=True)
    last_error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now(), db_index=True)  # the index: retention
    sent_at = models.DateTimeField(null=True)

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(fields=["event_id", "recipient", "channel"], name="told_once"),
            models.CheckConstraint(
                condition=Q(approval__isnull=True) ^ Q(execution__isnull=True), name="delivery_is_about_one"
            ),
        ]
        indexes = [
            # the clock: which lanes have something due, and the next of one
            models.Index(fields=["lane", "next_at", "id"], condition=Q(state__in=OPEN), name="delivery_due"),
            # what is watched: the few that wait or were given up
            models.Index(
                fields=["state"], condition=Q(state__in=[*OPEN, DeliveryState.DEAD]), name="delivery_watched"
            ),
            # the lists
            models.Index(fields=["workspace", "-created_at", "-id"], name="delivery_of_workspace"),
        ]

    def __str__(self) -> str:
        return f"{self.topic} by {self.channel} ({self.state})"


class SignedLink(models.Model):
    """The right of one person to give one answer to one question, once, by an address in a mail.

    The address is signed with the service's key and names this row; nothing in the row makes an address.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="links")
    approval = models.ForeignKey("approvals.Approval", on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    action = models.CharField(max_length=7, choices=LinkAction.choices)
    content_hash = models.CharField(max_length=64)  # of what the mail was about
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["delivery", "action"], name="one_link_per_action"),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.user}"
