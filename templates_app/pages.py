"""The page of templates: what there is to run, how it went lately, and a start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from . import selectors
from .models import Template, TemplateVersion

PAGE_ROWS = 50
RUNS_SHOWN = 12


class Run(NamedTuple):
    execution_id: UUID
    status: str


@dataclass(frozen=True, slots=True)
class Row:
    """One template, and what its reader may do with it."""

    template: Template
    version: TemplateVersion
    published: int | None  # the version a real start takes
    runs: list[Run]  # the latest, oldest first
    may_simulate: bool
    may_start: bool

    @property
    def start(self) -> JSONObject:
        """What the start dialog needs."""
        schema = self.version.definition.get("inputSchema") or {}
        return {
            "templateId": str(self.template.pk),
            "workspaceId": str(self.template.workspace_id),
            "name": self.template.name,
            "input": _skeleton(schema),
            "maySimulate": self.may_simulate,
            "mayStart": self.may_start and self.published is not None,
        }


@login_required
@require_GET
def template_list(request: HttpRequest) -> HttpResponse:
    """Templates in use, the latest change first, or the best match of a search."""
    assert isinstance(request.user, User)
    search = request.GET.get("search", "").replace("\0", "").strip()[:200]
    found = selectors.templates(request.user, selectors.Wanted(search=search))
    page = Paginator(found, PAGE_ROWS).get_page(request.GET.get("page"))
    context = {
        "nav": "templates",
        "page": page,
        "rows": _rows(request.user, list(page.object_list)),
        "search": search,
    }
    return render(request, "templates_app/list.html", context)


def _rows(user: User, templates: list[Template]) -> list[Row]:
    newest = selectors.newest_versions(templates, definitions=True)
    published = selectors.published_numbers(templates)
    runs = _latest_runs(templates)
    authored, operated = (
        set(access.workspaces(user, permission).values_list("pk", flat=True))
        for permission in (Permission.AUTHOR, Permission.OPERATE)
    )
    return [
        Row(
            template=template,
            version=newest[template.pk],
            published=published.get(template.pk),
            runs=runs.get(template.pk, []),
            may_simulate=template.workspace_id in authored | operated,
            may_start=template.workspace_id in operated,
        )
        for template in templates
        if template.pk in newest
    ]


def _latest_runs(templates: list[Template]) -> dict[UUID, list[Run]]:
    """The latest runs of each template, by the relation alone: executions are above this app."""
    numbered = (
        TemplateVersion.objects.filter(
            template__in=[template.pk for template in templates], executions__isnull=False
        )
        .annotate(
            place=Window(
                RowNumber(), partition_by=F("template_id"), order_by=F("executions__created_at").desc()
            )
        )
        .filter(place__lte=RUNS_SHOWN)
        .order_by("executions__created_at")
        .values_list("template_id", "executions__pk", "executions__status")
    )
    found: dict[UUID, list[Run]] = {}
    for template_id, execution_id, status in numbered:
        found.setdefault(template_id, []).append(Run(execution_id, status))
    return found


def _skeleton(schema: JSONObject) -> JSONObject:
    """An input to start from: what the schema gives as default or example, else an empty value."""
    empty = {"string": "", "number": 0, "integer": 0, "boolean": False, "array": [], "object": {}}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    skeleton: JSONObject = {}
    for name, about in properties.items():
        if not isinstance(about, dict):
            continue
        examples = about.get("examples") or about.get("enum") or [empty.get(str(about.get("type")))]
        skeleton[name] = about.get("default", examples[0])
    return skeleton
