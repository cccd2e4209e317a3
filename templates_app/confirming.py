"""What the admin shows before it publishes: all that stands against the versions chosen."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.template.response import TemplateResponse

from agentflow.errors import InvalidInput
from agentflow.governance import access
from agentflow.governance.admin_base import Table
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow.validation import Issue

from .models import TemplateVersion
from .services import checking
from .states import VersionStatus

CONFIRMED = "confirmed"
SHOWN = 50  # issues of one version
_WORDS = {"warning": "Warning", "start": "Would not start", "error": "Cannot be published"}


def asked(
    model_admin: Any, request: HttpRequest, versions: Iterable[TemplateVersion], *, action: str
) -> TemplateResponse | None:
    """A page to confirm; None where nothing stands against it, or that was seen already."""
    if CONFIRMED in request.POST:
        return None
    mine = access.workspaces(request.user, Permission.AUTHOR).values_list("pk", flat=True)
    allowed = frozenset(mine)
    tables = []
    for version in versions:
        if version.status != VersionStatus.PUBLISHED and version.template.workspace_id in allowed:
            with suppress(InvalidInput):  # what cannot be read is refused, and said so, when it is published
                issues = checking.of_version(version)
                tables += [_table(version, issues)] if issues else []
    if not tables:
        return None
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": "Publish all the same?",
        "tables": tables,
        "action": action,
        "rows": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "checkbox": ACTION_CHECKBOX_NAME,
        "confirmed": CONFIRMED,
    }
    return TemplateResponse(request, "admin/templates_app/publish.html", context)


def _table(version: TemplateVersion, issues: list[Issue]) -> Table:
    blocks: list[JSONObject] = version.definition["blocks"]
    rows = [
        (_WORDS[issue.severity], _place(issue.pointer, blocks), issue.message, issue.remedy or "-")
        for issue in issues[:SHOWN]
    ]
    return Table(
        title=str(version),
        columns=("Kind", "Where", "What", "What helps"),
        rows=rows,
        page=Paginator(rows, SHOWN).get_page(1),
        anchor=f"version-{version.pk}",
        empty="Nothing.",
        page_parameter="page",
        labels=True,
    )


def _place(at: str, blocks: list[JSONObject]) -> str:
    """The name of the step that a pointer leads into."""
    parts = at.split("/")
    if parts[1:2] == ["blocks"] and parts[2:3] and parts[2].isdigit() and int(parts[2]) < len(blocks):
        block = blocks[int(parts[2])]
        return str(block.get("name") or block["blockId"])
    return at or "-"
