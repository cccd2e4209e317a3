"""The inbox's list: what waits for a person, ranked by what waiting costs, narrowed, in pieces.

A piece is bounded by the place (rank and id) of its last row instead of an offset, so rows that come
and go above it move nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce

from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from templates_app.models import Template

from . import selectors
from .models import CLAIM, Approval, ApprovalKind, SavedView, Seen
from .states import ApprovalStatus

PIECE_ROWS = 50
ROWS_MAX = 500  # in one page; who wants more narrows the list
COUNT_MAX = 1000  # beyond that a number says no more than "1000+"
FACETS_MAX = 200
SEARCH_CHARS = 200
SOON = timedelta(minutes=30)  # ranked within this from now: act now


@dataclass(frozen=True, slots=True)
class Wish:
    """What the list is narrowed to; empty is any.  As in the page's address, and in saved views."""

    workspace: str = ""
    kind: str = ""
    level: str = ""
    template: str = ""
    who: str = ""  # mine: taken by oneself; others: by somebody else; free: by nobody
    late: str = ""  # "1": past their time
    new: str = ""  # "1": not opened yet
    q: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Wish:
        """What can be read of an address; a value that means nothing is left out."""
        texts = {one.name: str(given.get(one.name, "")).strip()[:SEARCH_CHARS] for one in fields(cls)}
        if texts["kind"] not in ApprovalKind.values:
            texts["kind"] = ""
        if texts["who"] not in {"mine", "others", "free"}:
            texts["who"] = ""
        texts |= {name: "" for name in ("workspace", "template") if not _is_uuid(texts[name])}
        texts |= {name: "1" if texts[name] else "" for name in ("late", "new")}
        return cls(**texts)

    def as_query(self) -> dict[str, str]:
        chosen = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in chosen.items() if value}

    def __str__(self) -> str:
        return urlencode(self.as_query())


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a row stands; its text is `<rank>~<id>`."""

    rank: float
    id: str

    @classmethod
    def parse(cls, text: str) -> Place | None:
        rank, _, id_ = text.partition("~")
        try:
            place = cls(float(rank), str(UUID(id_)))
        except ValueError:
            return None
        return place if abs(place.rank) < 1e12 else None  # neither is infinity a place

    @classmethod
    def of(cls, approval: Approval) -> Place:
        return cls(float(approval.rank), str(approval.pk))

    def __str__(self) -> str:
        return f"{self.rank!r}~{self.id}"


@dataclass(frozen=True, slots=True)
class Piece:
    """The first rows of the list; `more` says whether others follow."""

    approvals: list[Approval]
    more: bool

    @property
    def end(self) -> str:
        return str(Place.of(self.approvals[-1])) if self.approvals else ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all that waits for a person, whatever the list is narrowed to; none is above COUNT_MAX."""

    total: int
    urgent: int
    unread: int

    @property
    def total_words(self) -> str:
        return str(self.total) if self.total < COUNT_MAX else f"{COUNT_MAX}+"


class Desk:
    """What waits for one person, at one moment."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.rows = selectors.decidable_by(user).filter(status=ApprovalStatus.PENDING)


def piece(desk: Desk, wish: Wish, *, size: int = PIECE_ROWS, through: Place | None = None) -> Piece:
    """The first `size` rows, or as many as stand up to `through`: what a page shows already."""
    size = min(max(size, 1), ROWS_MAX)
    rows = _narrowed(_with_words(desk), desk.user, wish).order_by("rank", "id")
    if through is not None:
        size = ROWS_MAX
        upto = Q(rank__lt=through.rank) | Q(rank=through.rank, id__lte=through.id)
        found = list(rows.filter(upto)[: size + 1])
        after = rows.exclude(upto).values("pk").exists()
        return Piece(found[:size], more=after or len(found) > size)
    found = list(rows[: size + 1])
    return Piece(found[:size], more=len(found) > size)


# Kinds that a yes or a no answers; the others have each their own form.
PLAIN = (ApprovalKind.APPROVAL, ApprovalKind.REVIEW, ApprovalKind.TOOL)


def alike(desk: Desk, approval: Approval) -> QuerySet[Approval]:
    """What waits of the same kind at the same step of the same version, the most urgent first."""
    same = desk.rows.filter(
        workspace=approval.workspace_id,
        block_id=approval.block_id,
        kind=approval.kind,
        execution__template_version=approval.execution.template_version_id,
    )
    return same.filter(kind__in=PLAIN).order_by("-inspected", "rank", "id").defer("input_schema")


def counts(desk: Desk) -> Counts:
    soon = (_now() + SOON).timestamp()
    first = _with_seen(desk).order_by("rank", "id").only("pk")[:COUNT_MAX]
    found = first.aggregate(
        total=Count("pk"),
        urgent=Count("pk", filter=Q(rank__lte=soon)),
        unread=Count("pk", filter=Q(seen=False)),
    )
    return Counts(**found)


@dataclass(frozen=True, slots=True)
class Facets:
    """What there is to choose from, as value and word."""

    workspaces: list[tuple[str, str]]
    kinds: list[str]
    levels: list[str]
    templates: list[tuple[str, str]]


def facets(desk: Desk) -> Facets:
    """The workspaces, kinds, levels and templates of what waits; one query."""
    template = "execution__template_version__template"
    rows = list(
        desk.rows.order_by()
        .values_list("workspace", "workspace__name", "kind", "level", f"{template}_id", f"{template}__name")
        .distinct()[:FACETS_MAX]
    )
    return Facets(
        workspaces=_by_word({(str(row[0]), row[1]) for row in rows}),
        kinds=sorted({row[2] for row in rows}),
        levels=sorted({row[3] for row in rows}),
        templates=_by_word({(str(row[4]), row[5]) for row in rows}),
    )


def _by_word(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: pair[1].casefold())


def views(user: User) -> list[SavedView]:
    return list(SavedView.objects.filter(user=user))


def _narrowed(rows: QuerySet[Approval], user: User, wish: Wish) -> QuerySet[Approval]:
    if wish.workspace:
        rows = rows.filter(workspace=UUID(wish.workspace))
    if wish.kind:
        rows = rows.filter(kind=wish.kind)
    if wish.level:
        rows = rows.filter(level=wish.level)
    if wish.template:
        rows = rows.filter(execution__template_version__template=UUID(wish.template))
    taken = Q(claimed_by__isnull=False, claimed_at__gt=_now() - CLAIM)
    if wish.who == "free":
        rows = rows.exclude(taken)
    elif wish.who == "mine":
        rows = rows.filter(taken, claimed_by=user)
    elif wish.who == "others":
        rows = rows.filter(taken).exclude(claimed_by=user)
    if wish.late:
        rows = rows.filter(respond_by__lte=_now())
    if wish.q:
        named = Q(title__icontains=wish.q) | Q(block_name__icontains=wish.q)
        # By a subquery: joined, each row was compared with each template's name.
        called = Template.objects.visible_to(user, Permission.DECIDE).filter(name__icontains=wish.q)
        named |= Q(execution__template_version__template__in=called.values("pk"))
        rows = rows.filter(named)
    return rows.exclude(seen_by__user=user.pk) if wish.new else rows


def _with_words(desk: Desk) -> QuerySet[Approval]:
    """With all that a row says, and without what it does not."""
    return (
        _with_seen(desk)
        .annotate(title=Coalesce(KeyTextTransform("title", "request"), "block_name"))
        .select_related("execution__template_version__template", "claimed_by")
        .only(
            "id",
            "kind",
            "level",
            "status",
            "block_name",
            "respond_by",
            "requested_at",
            "rank",
            "holds",
            "spent",
            "version",
            "execution__template_version__template__name",
            "claimed_by",
            "claimed_at",
            "quorum",
        )
    )


def _with_seen(desk: Desk) -> QuerySet[Approval]:
    return desk.rows.annotate(seen=Exists(Seen.objects.filter(approval=OuterRef("pk"), user=desk.user.pk)))


def _now() -> datetime:
    return datetime.now(tz=UTC)
