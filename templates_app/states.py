"""What may become of a template's version."""

from __future__ import annotations

from django.db.models import TextChoices

from agentflow.lifecycle import Lifecycle


class VersionStatus(TextChoices):
    DRAFT = "draft"  # runs only simulated; publishing moves it on
    PUBLISHED = "published"  # may be started
    DEPRECATED = "deprecated"  # running executions go on, new ones are refused


S = VersionStatus
VERSION: Lifecycle[VersionStatus] = Lifecycle(
    {
        S.DRAFT: {S.PUBLISHED, S.DEPRECATED},
        S.PUBLISHED: {S.DEPRECATED},
        S.DEPRECATED: {S.PUBLISHED},
    }
)
