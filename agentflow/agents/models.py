"""Who can do the work: agents and the scripts they may run, each in one workspace."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from agentflow.governance.access import WorkspaceScopedQuerySet

from . import warning_models  # noqa: F401  # models of this app, too


class ToolType(models.TextChoices):
    API = "API", "API"
    SCRIPT = "Script"
    USE_CASE = "UseCase", "UseCase"
    MCP = "MCP", "MCP"
    LLM = "LLM", "LLM"
    A2A = "A2A", "A2A"
    AGENT_SERVICE = "AgentService"


class Effect(models.TextChoices):
    """What a second call with the same idempotency key does to the world."""

    PURE = "pure"  # nothing: the call changes nothing outside
    KEYED = "keyed"  # nothing more: the agent recognises the key
    ONCE = "once"  # perhaps the same again: only a person may repeat it after an unknown outcome


class Health(models.TextChoices):
    UNKNOWN = "unknown"  # not looked at yet
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # so many looks in a row went wrong; one that goes well heals it


class SourceKind(models.TextChoices):
    MCP = "mcp", "MCP server"
    A2A = "a2a", "A2A agent"
    OPENAPI = "openapi", "OpenAPI document"
    AGENT_SERVICE = "agent_service", "Agent Service"


class AgentSource(models.Model):
    """Where agents are found: each look at it adds what is new and switches off what is gone.

    `configuration` by kind: all `{"headers": {...}, "prefix": "crm."}`, OpenAPI also
    `{"operations": ["getOrder"], "baseUrl": ...}`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="agent_sources"
    )
    kind = models.CharField(max_length=16, choices=SourceKind.choices)
    name = models.CharField(max_length=100)
    url = models.CharField(max_length=2000, blank=True)
    server = models.CharField(max_length=200, blank=True)  # of AGENTFLOW_MCP_STDIO, instead of an address
    configuration = models.JSONField(default=dict, blank=True)
    interval_s = models.PositiveIntegerField(default=3600)  # 0: only by hand
    enabled = models.BooleanField(default=True)
    due_at = models.DateTimeField(default=timezone.now)  # when the clock looks next
    synchronised_at = models.DateTimeField(null=True, blank=True)  # the last look, good or bad
    succeeded_at = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)  # looks in a row that went wrong
    result = models.JSONField(null=True, blank=True)  # of the last good look: {"new", "changed", "gone", ...}
    error = models.JSONField(null=True, blank=True)  # of the last look, if it went wrong: {"code", "message"}
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = WorkspaceScopedQuerySet["AgentSource"].as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(
                fields=("workspace", "name"), name="agent_source_name_unique_per_workspace"
            ),
            models.CheckConstraint(
                condition=models.Q(kind__in=SourceKind.values), name="agent_source_kind_known"
            ),
        ]
        indexes = [
            # Of the clock, which asks twice a second for those that are due.
            models.Index(fields=("due_at",), name="agent_source_due", condition=models.Q(enabled=True)),
        ]

    def __str__(self) -> str:
        return self.name


class Agent(models.Model):
    """Something a block can call, as a template names it by `agentId`.

    `configuration` by tool type: API `{"method", "url", "headers", ...}`, Script `{"script": name}`,
    UseCase `{"templateId"}`, MCP `{"server" | "url", "tool"}`, LLM `{"model", "system", "prompt", ...}`,
    A2A `{"url", "protocolVersion"}`, AgentService `{"url", "agent"}`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="agents")
    agent_id = models.CharField(max_length=200)
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    tool_type = models.CharField(max_length=16, choices=ToolType.choices)
    configuration = models.JSONField(default=dict, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)  # the number of its newest AgentVersion
    capabilities = models.JSONField(default=list, blank=True)  # these six: as in profile.py
    cost = models.JSONField(default=dict, blank=True)
    limits = models.JSONField(default=dict, blank=True)
    budget = models.JSONField(default=dict, db_default={}, blank=True)  # of a day, as `workflow.daily`
    health_check = models.JSONField(default=dict, blank=True)
    measures = models.JSONField(default=dict, db_default={}, blank=True)
    environment = models.CharField(max_length=100, blank=True)  # where it may be chosen; "": anywhere
    effect = models.CharField(max_length=8, choices=Effect.choices, null=True, blank=True)
    input_schema = models.JSONField(null=True, blank=True)
    output_schema = models.JSONField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    health = models.CharField(max_length=10, choices=Health.choices, default=Health.UNKNOWN, editable=False)
    health_reason = models.CharField(max_length=500, blank=True, editable=False)
    health_checked_at = models.DateTimeField(null=True, editable=False)
    health_failures = models.PositiveIntegerField(default=0, editable=False)  # in a row
    health_due_at = models.DateTimeField(default=timezone.now, editable=False)  # when the clock looks next
    source = models.ForeignKey(
        AgentSource, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="agents"
    )
    source_key = models.CharField(max_length=300, blank=True, editable=False)  # what the source calls it
    source_sha256 = models.CharField(max_length=64, blank=True, editable=False)  # of what it last said of it
    gone_at = models.DateTimeField(null=True, editable=False)  # when its source no longer listed it
    on_before_gone = models.BooleanField(default=True, editable=False)  # `enabled`, should it come back
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
            models.CheckConstraint(condition=models.Q(health__in=Health.values), name="agent_health_known"),
            models.UniqueConstraint(
                fields=("source", "source_key"),
                name="agent_found_once_per_source",
                condition=models.Q(source__isnull=False),
            ),
        ]
        indexes = [
            # Of the clock, which asks twice a second for those that are due.
            models.Index(
                fields=("health_due_at",), name="agent_health_due", condition=models.Q(enabled=True)
            ),
        ]

    def __str__(self) -> str:
        return self.agent_id


class AgentMeaning(models.Model):
    """What an agent says of itself, as the vector of an embedding model.

    Made anew when its texts, or the model, are others; `of` is their SHA-256.
    """

    agent = models.OneToOneField(Agent, on_delete=models.CASCADE, related_name="meaning")
    model = models.CharField(max_length=200)
    of = models.CharField(max_length=64)
    vector = ArrayField(models.FloatField())
    at = models.DateTimeField()  # up to when the agent is known not to have changed

    workspace_path = "agent__workspace"
    objects = WorkspaceScopedQuerySet["AgentMeaning"].as_manager()

    def __str__(self) -> str:
        return f"{self.agent_id} by {self.model}"


class AgentVersion(models.Model):
    """What a call of an agent meant from one change to the next; never changed.

    Secrets read as `********` here: a secret that was replaced is nowhere any more.
    """

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    tool_type = models.CharField(max_length=16, choices=ToolType.choices)
    configuration = models.JSONField()
    effect = models.CharField(max_length=8, choices=Effect.choices, null=True)
    input_schema = models.JSONField(null=True)
    output_schema = models.JSONField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    workspace_path = "agent__workspace"
    objects = WorkspaceScopedQuerySet["AgentVersion"].as_manager()

    class Meta:
        ordering = ("agent", "-number")
        constraints = [
            models.UniqueConstraint(fields=("agent", "number"), name="agent_version_number_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.agent_id} v{self.number}"


class AgentCheck(models.Model):
    """One look at an agent's health; the newest few are kept."""

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="checks")
    at = models.DateTimeField(auto_now_add=True)
    ok = models.BooleanField()
    ms = models.FloatField()
    reason = models.CharField(max_length=500, blank=True)

    workspace_path = "agent__workspace"
    objects = WorkspaceScopedQuerySet["AgentCheck"].as_manager()

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'not ok'} at {self.at:%Y-%m-%d %H:%M:%S}"


class PolicyKind(models.TextChoices):
    PIN = "pin"  # only this one, or others that are pinned too
    BAN = "ban"
    PREFER = "prefer"  # before those that are not


class AgentPolicy(models.Model):
    """What an operator said about choosing an agent: in a workspace, for a template, or for a block of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(
        "governance.Workspace", on_delete=models.CASCADE, related_name="agent_policies"
    )
    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="policies")
    kind = models.CharField(max_length=6, choices=PolicyKind.choices)
    template_id = models.UUIDField(null=True, blank=True)  # null: whatever it is for
    block_id = models.CharField(max_length=200, blank=True)  # of that template
    reason = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = WorkspaceScopedQuerySet["AgentPolicy"].as_manager()

    class Meta:
        ordering = ("-created_at",)
        verbose_name_plural = "agent policies"
        constraints = [
            models.UniqueConstraint(
                fields=("agent", "template_id", "block_id"),
                name="one_policy_per_agent_and_purpose",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=models.Q(kind__in=PolicyKind.values), name="agent_policy_kind_known"
            ),
            models.CheckConstraint(
                condition=models.Q(block_id="") | models.Q(template_id__isnull=False),
                name="agent_policy_block_of_template",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.agent_id}"


class AgentBucket(models.Model):
    """How the calls of an agent went that ended within some minutes, or an hour.

    `histogram` counts latencies: as `performance.slot` says.  `kinds` are the failures by code, the most
    frequent ones.
    """

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="buckets")
    capability = models.CharField(max_length=200, blank=True)  # that was asked for; "": all calls
    outside = models.BooleanField(default=False)  # measured by others
    seconds = models.PositiveIntegerField()
    at = models.DateTimeField()  # its beginning
    successes = models.BigIntegerField()
    failures = models.BigIntegerField()
    ms = models.FloatField()  # of all calls together, as the next three
    cost = models.FloatField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    histogram = ArrayField(models.BigIntegerField())
    kinds = models.JSONField()

    class Meta:
        constraints = [
            # Also the index of every look-up of an agent's last hours.
            models.UniqueConstraint(
                fields=("agent", "seconds", "at", "outside", "capability"), name="one_bucket_per_time"
            ),
        ]
        indexes = [models.Index(fields=("at",), name="agent_bucket_by_age")]  # what is removed

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} + {self.seconds} s"


class AgentMeasurement(models.Model):
    """The id of a measurement from outside that was counted, so that it is not counted twice."""

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="measurements")
    key = models.CharField(max_length=200)
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=("agent", "key"), name="measurement_counts_once")]
        indexes = [models.Index(fields=("received_at",), name="agent_measurement_by_age")]

    def __str__(self) -> str:
        return self.key


class MeasuredUpTo(models.Model):
    """One row: the attempts that the buckets hold.  Those up to `seen` are all there once `xid` is past."""

    upto = models.BigIntegerField(default=0)
    seen = models.BigIntegerField(default=0)
    xid = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"attempt {self.upto}"


class Language(models.TextChoices):
    PYTHON = "python", "Python"
    SHELL = "shell"  # POSIX: /bin/sh
    NODE = "node", "Node.js"


class Script(models.Model):
    """Code that an operator registered; a template names it and never brings its own.

    What is here is its newest version, which an agent runs that names none.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.CASCADE, related_name="scripts")
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)  # the number of its newest ScriptVersion
    language = models.CharField(max_length=8, choices=Language.choices, default=Language.PYTHON)
    source = models.TextField()
    sha256 = models.CharField(max_length=64, editable=False)
    timeout_s = models.FloatField(default=30.0, validators=[MinValueValidator(0.1), MaxValueValidator(3600)])
    limits = models.JSONField(default=dict, blank=True)  # as ScriptLimits in profile.py
    input_schema = models.JSONField(null=True, blank=True)
    output_schema = models.JSONField(null=True, blank=True)
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
            models.CheckConstraint(
                condition=models.Q(language__in=Language.values), name="script_language_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.sha256 = hashlib.sha256(self.source.encode()).hexdigest()
        super().save(*args, **kwargs)


class ScriptVersion(models.Model):
    """What a script was from one change to the next; never changed."""

    script = models.ForeignKey(Script, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    language = models.CharField(max_length=8, choices=Language.choices)
    source = models.TextField()
    sha256 = models.CharField(max_length=64)  # of the source
    timeout_s = models.FloatField()
    limits = models.JSONField()
    input_schema = models.JSONField(null=True)
    output_schema = models.JSONField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    workspace_path = "script__workspace"
    objects = WorkspaceScopedQuerySet["ScriptVersion"].as_manager()

    class Meta:
        ordering = ("script", "-number")
        constraints = [
            models.UniqueConstraint(fields=("script", "number"), name="script_version_number_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.script_id} v{self.number}"
