from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.auth.models import AbstractUser, Group
from django.db import models
from django.db.models.functions import Now
from guardian.models import GroupObjectPermissionBase, UserObjectPermissionBase

from .budgets import validate_budget
from .egress import validate_allow_list
from .roles import ROLE_CHOICES, Permission


class User(AbstractUser):
    """A person or program that signs in; what they may do comes from their workspaces' roles."""


class Workspace(models.Model):
    """The unit of isolation: every template, execution, agent and approval belongs to one."""

    class Environment(models.TextChoices):
        DEVELOPMENT = "development"
        STAGING = "staging"
        PRODUCTION = "production"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200)
    environment = models.CharField(
        max_length=20, choices=Environment.choices, default=Environment.DEVELOPMENT
    )
    egress_allow = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_allow_list],
        help_text="Hosts inside that agents of this workspace may call; public addresses need no entry.",
    )
    script_network = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Scripts whose limits say so get a network. It knows no allow list: they reach what the"
        " worker's machine reaches.",
    )
    explore_agents = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Where blocks name no agent, now and then try agents of which little is known.",
    )
    budget = models.JSONField(  # of a day, as `workflow.daily` has it
        default=dict, db_default={}, blank=True, validators=[validate_budget]
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name", "id")
        permissions = [
            (Permission.AUTHOR.value, "Write, validate and publish templates"),
            (Permission.OPERATE.value, "Start and steer executions"),
            (Permission.MANAGE_AGENTS.value, "Manage agents, triggers and subscriptions"),
            (Permission.DECIDE.value, "Decide assigned approvals"),
            (Permission.ADMINISTER.value, "Manage members, roles, policies and audit"),
        ]

    def __str__(self) -> str:
        return self.name


class WorkspaceRole(models.Model):
    """Which Django group carries a role of a workspace; its members hold the role."""

    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="roles")
    role = models.CharField(max_length=20, choices=ROLE_CHOICES)
    group = models.OneToOneField(Group, on_delete=models.PROTECT, related_name="workspace_role")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "role"], name="one_group_per_role")]

    def __str__(self) -> str:
        return f"{self.workspace}: {self.role}"


class WorkspaceUserObjectPermission(UserObjectPermissionBase):
    """A permission on one workspace given to one user, beside their roles."""

    content_object = models.ForeignKey(Workspace, on_delete=models.CASCADE)

    class Meta(UserObjectPermissionBase.Meta):
        pass


class WorkspaceGroupObjectPermission(GroupObjectPermissionBase):
    """A permission on one workspace given to a role's group.

    A real foreign key instead of guardian's generic one: access is then one join, indexed.
    """

    content_object = models.ForeignKey(Workspace, on_delete=models.CASCADE)

    class Meta(GroupObjectPermissionBase.Meta):
        pass


class Secret(models.Model):
    """A value that agents' configurations refer to as `${secrets.NAME}`; it is written, and never shown."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="secrets")
    name = models.CharField(max_length=100)
    sealed = models.TextField(editable=False)
    # What it was before: a call made with that may still bring it back, to be taken out of its answer.
    sealed_before = models.TextField(editable=False, default="")
    updated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = models.Manager["Secret"]()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="secret_name_unique_per_workspace")
        ]

    def __str__(self) -> str:
        return self.name


class AuditEntry(models.Model):
    """One state-changing command: who did what to which object, and when.

    Rows are only ever added: a trigger refuses UPDATE and DELETE.  The actor and the workspace are
    therefore values and not foreign keys; the entry outlives both.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=Now(), editable=False)
    actor_id = models.BigIntegerField(null=True)  # null: the system itself
    actor_name = models.CharField(max_length=150)
    action = models.CharField(max_length=100)  # such as execution.pause
    workspace_id = models.UUIDField(null=True)  # null: outside any workspace
    target_type = models.CharField(max_length=50)
    target_id = models.CharField(max_length=200)
    detail = models.JSONField(default=dict)
    request_id = models.CharField(max_length=64, blank=True)
    channel = models.CharField(max_length=20)

    class Meta:
        verbose_name_plural = "audit entries"
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["workspace_id", "-id"], name="audit_of_workspace"),  # the admin's list
            models.Index(fields=["target_type", "target_id"], name="audit_of_target"),  # one object's history
            models.Index(fields=["actor_id", "-id"], name="audit_of_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name} {self.action} {self.target_type} {self.target_id}"


class SpentRefreshToken(models.Model):
    """A refresh token that was exchanged; presented again, it is refused."""

    jti = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    expires_at = models.DateTimeField(db_index=True)  # after this the token is refused anyway; purge

    def __str__(self) -> str:
        return self.jti
