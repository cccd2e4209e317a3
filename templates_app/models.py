"""Templates and their immutable versions."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models
from django.db.models import Q

from agentflow.governance.access import WorkspaceScopedQuerySet


class Template(models.Model):
    """A workflow people know by name.  What runs is always one of its versions.

    The columns beside the versions repeat the newest version's descriptive fields, so that lists and
    searches need no JSON.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey("governance.Workspace", on_delete=models.PROTECT, related_name="templates")
    name = models.TextField()
    description = models.TextField(blank=True)
    category = models.TextField(blank=True)
    tags = ArrayField(models.TextField(), default=list, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    search_text = models.TextField(blank=True, editable=False)  # name, description, tags, block names
    search = models.GeneratedField(
        expression=SearchVector("search_text", config="english"),
        output_field=SearchVectorField(),
        db_persist=True,
    )

    objects = WorkspaceScopedQuerySet.as_manager()

    class Meta:
        indexes = [
            GinIndex(fields=["search"], name="template_search"),  # GET templates?search=
            GinIndex(fields=["tags"], name="template_tags"),  # GET templates?tags=
            models.Index(fields=["workspace", "-updated_at"], name="template_recent"),  # GET templates
        ]

    def __str__(self) -> str:
        return self.name


class VersionStatus(models.TextChoices):
    DRAFT = "draft"  # runs only simulated; publishing moves it on
    PUBLISHED = "published"  # may be started
    DEPRECATED = "deprecated"  # running executions go on, new ones are refused


class TemplateVersion(models.Model):
    """One definition, immutable from the day it is written; an execution pins one.

    Only `status` ever changes.
    """

    template = models.ForeignKey(Template, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    label = models.TextField(blank=True)  # the author's `version`
    status = models.CharField(max_length=10, choices=VersionStatus.choices, default=VersionStatus.PUBLISHED)
    definition = models.JSONField()
    content_hash = models.CharField(max_length=64)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["template", "number"], name="one_version_per_number"),
            models.CheckConstraint(condition=Q(number__gte=1), name="version_numbers_from_1"),
        ]

    def __str__(self) -> str:
        return f"{self.template} v{self.number}"
