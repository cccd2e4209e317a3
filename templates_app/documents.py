"""Definitions as they travel: with the fields that are the server's beside the author's.

    {"templateId": "...", "workspaceId": "...", "versionNumber": 3, "contentHash": "...",
     "status": "published", ..., "name": "Refund", "blocks": [...]}

What a client got it may send back: the server's fields are then ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from agentflow.errors import InvalidInput
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import Definition
from agentflow.workflow.parsing import parse

from .models import Template, TemplateVersion
from .states import VersionStatus

# Written by the server, and not by the definition; a body may hold them.
SERVER_FIELDS = frozenset(
    {
        "templateId",
        "workspaceId",
        "versionNumber",
        "publishedVersion",
        "contentHash",
        "status",
        "blockCount",
        "createdAt",
        "updatedAt",
        "createdBy",
        "archivedAt",
        "versionCreatedAt",
        "versionCreatedBy",
    }
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A body that was read.  `status` is what the new version is to be."""

    definition: Definition
    status: VersionStatus
    workspace_id: UUID | None


def read(body: JSONObject) -> Submission:
    """Take the definition out of a body.

    Raises:
        InvalidInput: it is malformed; with every problem that can be seen at once.
    """
    issues: list[JSONObject] = []
    status = _status(body.get("status"), issues)
    workspace_id = _workspace_id(body.get("workspaceId"), issues)
    try:
        definition = parse({name: value for name, value in body.items() if name not in SERVER_FIELDS})
    except InvalidInput as error:
        if issues:
            error.issues = [*issues, *error.issues]
        raise
    if issues:
        raise InvalidInput("The template has problems.", issues=issues)
    return Submission(definition, status, workspace_id)


def _status(value: JSONValue, issues: list[JSONObject]) -> VersionStatus:
    if value is None:
        return VersionStatus.PUBLISHED
    if isinstance(value, str) and value in VersionStatus.values:
        return VersionStatus(value)
    issues.append(
        {
            "severity": "error",
            "code": "unknown_value",
            "pointer": "/status",
            "message": f"'status' must be one of {', '.join(VersionStatus.values)}.",
            "remedy": 'Leave it out to publish, or send "draft".',
        }
    )
    return VersionStatus.DRAFT


def _workspace_id(value: JSONValue, issues: list[JSONObject]) -> UUID | None:
    if value is None:
        return None
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        issues.append(
            {
                "severity": "error",
                "code": "wrong_format",
                "pointer": "/workspaceId",
                "message": "'workspaceId' must be the UUID of a workspace.",
                "remedy": "Give the workspace's id, or leave it out if you are in one only.",
            }
        )
        return None


def document(template: Template, version: TemplateVersion, *, published: int | None) -> JSONObject:
    """One version in full; times and ids are left to the renderer.

    `published` is the number of the version that a start takes.
    """
    return {
        **_heading(template, version, published),
        "versionCreatedAt": version.created_at,
        "versionCreatedBy": version.created_by.get_username(),
        **version.definition,
    }


def summary(
    template: Template, version: TemplateVersion, *, published: int | None, blocks: bool = False
) -> JSONObject:
    """One line of a list; `blocks` asks for the version's definition to be loaded."""
    return {
        **_heading(template, version, published),
        "name": template.name,
        "description": template.description,
        "version": version.label,
        "tags": template.tags,
        "metadata": template.metadata,
        **({"blocks": version.definition["blocks"]} if blocks else {}),
    }


def _heading(template: Template, version: TemplateVersion, published: int | None) -> JSONObject:
    return {
        "templateId": template.pk,
        "workspaceId": template.workspace_id,
        "versionNumber": version.number,
        "publishedVersion": published,
        "contentHash": version.content_hash,
        "status": version.status,
        "blockCount": version.block_count,
        "createdAt": template.created_at,
        "updatedAt": template.updated_at,
        "createdBy": template.created_by.get_username(),
        "archivedAt": template.archived_at,
    }


def version_summary(version: TemplateVersion) -> JSONObject:
    """One line of a template's history."""
    return {
        "templateId": version.template_id,
        "versionNumber": version.number,
        "version": version.label,
        "status": version.status,
        "contentHash": version.content_hash,
        "blockCount": version.block_count,
        "createdAt": version.created_at,
        "createdBy": version.created_by.get_username(),
    }
