from __future__ import annotations

from rest_framework import serializers

from ...api.serializers import StrictSerializer
from ..models import Workspace
from ..roles import ROLE_CHOICES


class SignIn(StrictSerializer):
    username = serializers.CharField(max_length=150)
    # Not trimmed: a space is part of a password.
    password = serializers.CharField(max_length=1000, trim_whitespace=False)


class Refresh(StrictSerializer):
    refresh = serializers.CharField(max_length=4096)


class TokenPair(StrictSerializer):
    access = serializers.CharField()
    refresh = serializers.CharField()


class NoFields(StrictSerializer):
    """A body in which nothing is expected."""


class Ticket(StrictSerializer):
    ticket = serializers.CharField()
    expires_in_seconds = serializers.IntegerField()


class WorkspaceBrief(StrictSerializer):
    workspace_id = serializers.UUIDField(source="pk")
    slug = serializers.CharField()
    name = serializers.CharField()
    environment = serializers.ChoiceField(choices=Workspace.Environment.choices)


class Membership(WorkspaceBrief):
    roles = serializers.ListField(child=serializers.ChoiceField(choices=ROLE_CHOICES))


class Me(StrictSerializer):
    username = serializers.CharField()
    is_superuser = serializers.BooleanField()
    workspaces = Membership(many=True)


class WorkspaceList(StrictSerializer):
    workspaces = WorkspaceBrief(many=True)
    total = serializers.IntegerField()


class SecretValue(StrictSerializer):
    # Not trimmed: a space may be part of it.
    value = serializers.CharField(trim_whitespace=False, write_only=True)
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed by members of several workspaces."
    )


class SecretShown(StrictSerializer):
    name = serializers.CharField()
    workspace_id = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class SecretList(StrictSerializer):
    secrets = SecretShown(many=True)
    total = serializers.IntegerField()


class SecretDeleted(StrictSerializer):
    success = serializers.BooleanField()
