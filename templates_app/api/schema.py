"""How templates look in the OpenAPI document; the definition's own model is the schema."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from agentflow.workflow.definition import Block, Definition, Metadata

Status = Literal["draft", "published", "deprecated"]


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Heading(_Answer):
    template_id: UUID
    workspace_id: UUID
    version_number: int
    published_version: int | None = Field(description="The version that a start takes.")
    content_hash: str
    status: Status
    block_count: int
    created_at: datetime
    updated_at: datetime
    created_by: str
    archived_at: datetime | None


class WorkflowTemplate(Definition, _Heading):
    """A version of a template: the author's definition and the server's fields."""

    model_config = ConfigDict(extra="allow")

    version_created_at: datetime
    version_created_by: str


class TemplateBody(Definition):
    """A definition.  What a GET adds to one is accepted and ignored, so an answer can be sent back."""

    model_config = ConfigDict(extra="allow")

    workspace_id: UUID | None = Field(None, description="Needed by members of several workspaces; POST only.")
    status: Status | None = Field(None, description="`draft` keeps the new version from being started.")


class CheckBody(TemplateBody):
    """A definition to be checked in place of the stored one; an empty object checks the stored one."""


class TemplateSummary(_Heading):
    name: str
    description: str
    version: str
    tags: list[str]
    metadata: Metadata
    blocks: list[Block] | None = Field(None, description="Only with `expand=blocks`.")


class TemplateList(_Answer):
    templates: list[TemplateSummary]
    total: int


class VersionSummary(_Answer):
    template_id: UUID
    version_number: int
    version: str
    status: Status
    content_hash: str
    block_count: int
    created_at: datetime
    created_by: str


class VersionList(_Answer):
    versions: list[VersionSummary]
    total: int


class ValidationIssue(_Answer):
    severity: Literal["error", "warning", "start"] = Field(
        description="`error` cannot be stored, `start` cannot be started except simulated."
    )
    code: str
    pointer: str = Field(description="JSON pointer (RFC 6901) into the definition.")
    message: str
    remedy: str


class ValidationReport(_Answer):
    valid: bool = Field(description="Nothing stands against storing and starting it.")
    issues: list[ValidationIssue]


class PublishedVersion(VersionSummary):
    issues: list[ValidationIssue] = Field(description="What stands against it at this moment, warnings too.")


class TemplateDeleted(_Answer):
    success: bool


_REFUND: dict[str, Any] = {
    "name": "Refund",
    "tags": ["support"],
    "metadata": {"category": "customer"},
    "blocks": [
        {"blockId": "score", "agentId": "risk", "input": {"amount": "${input.amount}"}},
        {
            "blockId": "pay",
            "agentId": "bank",
            "dependencies": ["score"],
            "humanInLoop": {"type": "approval", "approvalLevel": "user"},
        },
    ],
}
BODY_EXAMPLE = OpenApiExample("A refund that a person approves", value=_REFUND, request_only=True)
REPORT_EXAMPLE = OpenApiExample(
    "An agent that is not registered",
    value={
        "valid": False,
        "issues": [
            {
                "severity": "start",
                "code": "unknown_agent",
                "pointer": "/blocks/0/agentId",
                "message": "There is no agent 'risk' in this workspace.",
                "remedy": "Register it, or start the template simulated.",
            }
        ],
    },
    response_only=True,
    status_codes=["200"],
)


def _query(name: str, kind: Any, description: str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, description=description, **more)


_TEXT = {"type": "string", "maxLength": 500}
PAGE = [
    _query("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "Lines per page."),
    _query("offset", {"type": "integer", "minimum": 0, "maximum": 1_000_000}, "Lines to skip."),
]
FILTERS = [
    _query("workspaceId", UUID, "Only this workspace's."),
    _query("category", _TEXT, "Exactly this `metadata.category`."),
    _query("tags", str, "All of these; repeated or with commas.", many=True),
    _query("search", _TEXT, 'Words in name, description, tags and blocks; "a phrase", or, -not.'),
    _query("expand", str, "Give each template's `blocks`, too.", enum=["blocks"]),
]
VERSION = _query(
    "version",
    {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "A version's number; the newest without.",
)
IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The ETag or version number you started from; 412 if there is a newer one.",
)
