"""Who can do the work: agents and the scripts they may run, each in one workspace."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from agentflow.governance.access import WorkspaceScopedQuerySet


class ToolType(models.TextChoices):
    API = "API", "API"
    SCRIPT = "Script"
    USE_CASE = "UseCase", "UseCase"
    MCP = "MCP", "MCP"
    LLM = "LLM", "LLM"


class Effect(models.TextChoices):
    """What a second call with the same idempotency key does to the world."""

    PURE = "pure"  # nothing: the call changes nothing outside
    KEYED = "keyed"  # nothing more: the agent recognises the key
    ONCE = "once"  # perhaps the same again: only a person may repeat it after an unknown outcome


class Agent(models.Model):
    """Something a block can call, as a template names it by `agentId`.

    `configuration` by tool type: API `{"method", "url", "headers", ...}`, Script `{"script": name}`,
    UseCase `{"templateId"}`, MCP `{"server" | "url", "tool"}`, LLM `{"model", "system", "prompt", ...}`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="agents")
    agent_id = models.CharField(max_length=200)
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    tool_type = models.CharField(max_length=16, choices=ToolType.choices)
    configuration = models.JSONField(default=dict, blank=True)
    capabilities = models.JSONField(default=list, blank=True)
    effect = models.CharField(max_length=8, choices=Effect.choices, null=True, blank=True)
    input_schema = models.JSONField(null=True, blank=True)
    output_schema = models.JSONField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = WorkspaceScopedQuerySet["Agent"].as_manager()

    class Meta:
        ordering = ("agent_id",)
        constraints = [
            # Also the index of every look-up by the name a template uses.
            models.UniqueConstraint(fields=("workspace", "agent_id"), name="agent_id_unique_per_workspace"),
            models.CheckConstraint(
                condition=models.Q(tool_type__in=ToolType.values), name="agent_tool_type_known"
            ),
            models.CheckConstraint(
                condition=models.Q(effect__isnull=True) | models.Q(effect__in=Effect.values),
                name="agent_effect_known",
            ),
        ]

    def __str__(self) -> str:
        return self.agent_id


class Script(models.Model):
    """Code that an operator registered; a template names it and never brings its own."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="scripts")
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    source = models.TextField()
    sha256 = models.CharField(max_length=64, editable=False)
    timeout_s = models.FloatField(default=30.0, validators=[MinValueValidator(0.1), MaxValueValidator(3600)])
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = WorkspaceScopedQuerySet["Script"].as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(fields=("workspace", "name"), name="script_name_unique_per_workspace"),
            models.CheckConstraint(
                condition=models.Q(timeout_s__gt=0) & models.Q(timeout_s__lte=3600),
                name="script_timeout_in_bounds",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.sha256 = hashlib.sha256(self.source.encode()).hexdigest()
        super().save(*args, **kwargs)
