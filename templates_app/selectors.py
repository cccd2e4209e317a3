"""Templates and versions that a user may see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.contrib.postgres.search import SearchQuery, SearchRank
from django.db.models import F, Max, QuerySet

from agentflow.errors import NotFound
from agentflow.governance.access import Principal

from .models import SEARCH_CONFIG, Template, TemplateVersion
from .states import VersionStatus


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which templates of a list; what is empty does not narrow it.

    A template must bear all `tags`.  `search` is what people type into a search box: words, "a
    phrase", or, -not.
    """

    workspace_id: UUID | None = None
    category: str = ""
    tags: Sequence[str] = ()
    search: str = ""


def templates(user: Principal, wanted: Wanted | None = None) -> QuerySet[Template]:
    """Those in use, the best match first where something is searched, else the latest change first."""
    wanted = wanted or Wanted()
    rows = Template.objects.visible_to(user).filter(archived_at=None).select_related("created_by")
    rows = rows.defer("search", "search_text")
    if wanted.workspace_id is not None:
        rows = rows.filter(workspace_id=wanted.workspace_id)
    if wanted.category:
        rows = rows.filter(category=wanted.category)
    if wanted.tags:
        rows = rows.filter(tags__contains=list(wanted.tags))
    if not wanted.search:
        return rows.order_by("-updated_at", "id")
    return matching(rows, wanted.search)


def matching(rows: QuerySet[Template], search: str) -> QuerySet[Template]:
    """Those of `rows` that fit what was typed into a search box, the best match first."""
    query = SearchQuery(search, search_type="websearch", config=SEARCH_CONFIG)
    return rows.filter(search=query).order_by(SearchRank(F("search"), query).desc(), "-updated_at", "id")


def template(user: Principal, template_id: UUID) -> Template:
    """One template, archived or not.

    Raises:
        NotFound: it does not exist, or belongs to a workspace the user may not see.
    """
    found = (
        Template.objects.visible_to(user)
        .select_related("created_by")
        .defer("search", "search_text")
        .filter(pk=template_id)
        .first()
    )
    if found is None:
        raise NotFound("There is no such template.", template_id=str(template_id))
    return found


def version(template: Template, number: int | None = None) -> TemplateVersion:
    """One version with its definition; without a number the newest, whatever its status.

    Raises:
        NotFound: the template has no version of that number.
    """
    rows = template.versions.select_related("created_by").order_by("-number")
    found = (rows if number is None else rows.filter(number=number)).first()
    if found is None:
        raise NotFound(
            "The template has no such version.", template_id=str(template.pk), version_number=number
        )
    found.template = template
    return found


def versions(template: Template) -> QuerySet[TemplateVersion]:
    """All versions, the newest first, without their definitions."""
    return template.versions.select_related("created_by").defer("definition", "calls").order_by("-number")


def authors(template_id: UUID, *, up_to: int | None = None) -> frozenset[int]:
    """Who wrote a version of a template, up to one of them: each began with the one before."""
    rows = TemplateVersion.objects.filter(template=template_id)
    if up_to is not None:
        rows = rows.filter(number__lte=up_to)
    return frozenset(rows.values_list("created_by_id", flat=True).distinct())


def newest_versions(
    templates: Iterable[Template], *, definitions: bool = False
) -> dict[UUID, TemplateVersion]:
    """The newest version of each template, whatever its status; one query."""
    rows = (
        TemplateVersion.objects.filter(template__in=[template.pk for template in templates])
        .order_by("template_id", "-number")
        .distinct("template_id")
    )
    return {row.template_id: row for row in (rows if definitions else rows.defer("definition", "calls"))}


def published_numbers(templates: Iterable[Template]) -> dict[UUID, int]:
    """The number of the version that a start takes, for each template that has one; one query."""
    rows = (
        TemplateVersion.objects.filter(
            template__in=[template.pk for template in templates], status=VersionStatus.PUBLISHED
        )
        .values("template_id")
        .annotate(number=Max("number"))
    )
    return {row["template_id"]: row["number"] for row in rows}
