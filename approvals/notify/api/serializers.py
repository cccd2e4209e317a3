from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agentflow.api.serializers import StrictSerializer

from ..models import NAME_CHARS, all_stakeholders, all_topics
from ..states import Channel, DeliveryState, Digest, Stakeholder, Topic
from ..targets import CHANNELS
from ..wishes import PERSONAL

WORKSPACE_HELP = "Needed by members of several workspaces."
LEVELS_MOST = 100
WORD_CHARS = 200


class Channels(serializers.ListField):
    """Ways to tell one person."""

    child = serializers.ChoiceField(choices=[each.value for each in PERSONAL])


class Topics(StrictSerializer):
    """Which ways are used for what; a topic that is left out goes as usual."""

    requested = Channels(required=False)
    reminder = Channels(required=False)
    escalated = Channels(required=False)
    decided = Channels(required=False)
    expired = Channels(required=False)
    withdrawn = Channels(required=False)
    commented = Channels(required=False)
    given_up = Channels(required=False)


class QuietHours(StrictSerializer):
    """By the clocks of `zone`; `ends` may lie on the next day."""

    begins = serializers.TimeField(format="%H:%M")
    ends = serializers.TimeField(format="%H:%M")


class Preferences(StrictSerializer):
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text=WORKSPACE_HELP
    )
    topics = Topics()
    quiet_hours = QuietHours(required=False, allow_null=True, default=None)
    zone = serializers.CharField(required=False, default="UTC", max_length=64)
    digest = serializers.ChoiceField(choices=Digest.choices, required=False, default=Digest.IMMEDIATELY)


class PreferencesShown(Preferences):
    own = serializers.BooleanField(help_text="false: what the workspace says, nothing of one's own.")
    quiet_until = serializers.DateTimeField(
        allow_null=True, help_text="Where it is quiet just now: till when."
    )
    address = serializers.CharField(help_text="Where mail goes; empty: nowhere.")


class Defaults(Preferences):
    link_hours = serializers.IntegerField(required=False, default=72, min_value=0, max_value=720)
    login_kinds = serializers.ListField(
        child=serializers.CharField(max_length=WORD_CHARS), required=False, max_length=LEVELS_MOST
    )
    login_levels = serializers.ListField(
        child=serializers.CharField(max_length=WORD_CHARS), required=False, max_length=LEVELS_MOST
    )

    stakeholders = serializers.ListField(
        child=serializers.ChoiceField(choices=Stakeholder.choices),
        required=False,
        default=all_stakeholders,
        max_length=len(Stakeholder),
        help_text="Who is told that an execution was given up.",
    )


class NewTarget(StrictSerializer):
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text=WORKSPACE_HELP
    )
    name = serializers.CharField(max_length=NAME_CHARS)
    channel = serializers.ChoiceField(choices=[each.value for each in CHANNELS])
    url = serializers.CharField(max_length=2000, help_text="May be or hold a secret: ${secrets.NAME}.")
    secret = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=WORD_CHARS,
        help_text="Signs webhooks: ${secrets.NAME}.",
    )
    topics = serializers.ListField(
        child=serializers.ChoiceField(choices=Topic.values), required=False, default=all_topics
    )
    levels = serializers.ListField(
        child=serializers.CharField(max_length=WORD_CHARS),
        required=False,
        default=list,
        max_length=LEVELS_MOST,
        help_text="Only questions of these levels; none: all.",
    )
    enabled = serializers.BooleanField(required=False, default=True)


class TargetShown(NewTarget):
    target_id = serializers.UUIDField(source="pk")
    created_at = serializers.DateTimeField()


class TargetList(StrictSerializer):
    targets = TargetShown(many=True)
    total = serializers.IntegerField()


class DeliveryShown(StrictSerializer):
    delivery_id = serializers.UUIDField(source="pk")
    workspace_id = serializers.UUIDField()
    approval_id = serializers.UUIDField(allow_null=True, help_text="The question that it is about.")
    execution_id = serializers.UUIDField(allow_null=True, help_text="Or the execution, which was given up.")
    event_id = serializers.IntegerField()
    event_type = serializers.CharField()
    topic = serializers.ChoiceField(choices=Topic.choices)
    channel = serializers.ChoiceField(choices=[(each.value, each.label) for each in Channel])
    recipient = serializers.SerializerMethodField()
    state = serializers.ChoiceField(choices=DeliveryState.choices)
    attempts = serializers.IntegerField()
    next_at = serializers.DateTimeField(allow_null=True, help_text="null: it is not tried any more.")
    last_error = serializers.CharField()
    created_at = serializers.DateTimeField()
    sent_at = serializers.DateTimeField(allow_null=True)

    def get_recipient(self, delivery: Any) -> str:
        return str(delivery.target.name if delivery.target else delivery.user.get_username())

    def to_representation(self, instance: Any) -> Any:
        shown = super().to_representation(instance)
        if instance.state not in {DeliveryState.PENDING, DeliveryState.FAILED}:
            shown["nextAt" if "nextAt" in shown else "next_at"] = None
        return shown


class DeliveryList(StrictSerializer):
    deliveries = DeliveryShown(many=True)
    total = serializers.IntegerField()


class TargetRemoved(StrictSerializer):
    success = serializers.BooleanField()


class Nothing(StrictSerializer):
    """A body in which nothing is expected."""
