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

from .fields import OrderedJSONField
from .states import VersionStatus

__all__ = ["SEARCH_CONFIG", "Template", "TemplateVersion", "VersionStatus"]

SEARCH_CONFIG = "english"


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
    metadata = models.JSONField(default=dict, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    search_text = models.TextField(blank=True, editable=False)  # description, tags, names of blocks; capped
    search = models.GeneratedField(
        expression=SearchVector("name", config=SEARCH_CONFIG, weight="A")
        + SearchVector("search_text", config=SEARCH_CONFIG, weight="C"),
        output_field=SearchVectorField(),
        db_persist=True,
    )

    objects = WorkspaceScopedQuerySet["Template"].as_manager()

    class Meta:
        indexes = [
            GinIndex(fields=["search"], name="template_search"),  # GET templates?search=
            GinIndex(fields=["tags"], name="template_tags"),  # GET templates?tags=
            models.Index(fields=["workspace", "-updated_at"], name="template_recent"),  # GET templates
        ]

    def __str__(self) -> str:
        return self.name


class TemplateVersion(models.Model):
    """One definition, immutable from the day it is written; an execution pins one.

    Only `status` ever changes: a trigger refuses the rest.
    """

    template = models.ForeignKey(Template, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    label = models.TextField(blank=True)  # the author's `version`
    status = models.CharField(max_length=10, choices=VersionStatus.choices, default=VersionStatus.PUBLISHED)
    definition = OrderedJSONField()
    content_hash = models.CharField(max_length=64)
    # What the definition names of other rows, so that following it needs no definition.
    block_count = models.PositiveIntegerField()
    calls = models.JSONField(default=list)  # [[agent id, template id, version number], ...], each or null
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = WorkspaceScopedQuerySet["TemplateVersion"].as_manager()
    workspace_path = "template__workspace"

    class Meta:
        constraints = [
            # Also the way to a template's newest version.
            models.UniqueConstraint(fields=["template", "number"], name="one_version_per_number"),
            models.CheckConstraint(condition=Q(number__gte=1), name="version_numbers_from_1"),
            models.CheckConstraint(condition=Q(status__in=VersionStatus.values), name="version_status_known"),
        ]

    def __str__(self) -> str:
        return f"{self.template} v{self.number}"
