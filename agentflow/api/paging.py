"""Lists in pages, and query parameters read strictly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from rest_framework.request import Request

from ..conf import LIMITS
from ..errors import InvalidInput
from .text import printable

M = TypeVar("M", bound=Model)
OFFSET_MAX = 1_000_000
_NUMBER = re.compile(r"[0-9]{1,9}")
TEXT_CHARS_MAX = 500


class BadParameter(InvalidInput):
    """A query parameter cannot be used."""

    code = "invalid_parameter"

    def __init__(self, name: str, message: str, remedy: str = "") -> None:
        super().__init__(
            f"{name}: {message}",
            issues=[{"pointer": f"?{name}", "code": self.code, "message": message, "remedy": remedy}],
            remedy=remedy,
        )


@dataclass(frozen=True, slots=True)
class Page:
    limit: int
    offset: int

    def of(
        self,
        rows: QuerySet[M, Any],
        dressed: Callable[[QuerySet[M, Any]], QuerySet[M, Any]] = lambda rows: rows,
    ) -> tuple[list[M], int]:
        """This page of `rows`, and how many there are in all; `dressed` joins what only the page needs."""
        return list(dressed(rows)[self.offset : self.offset + self.limit]), rows.count()


def page(request: Request) -> Page:
    """`?limit=` (1-500, default 50) and `?offset=` (from 0)."""
    return Page(
        limit=number(request, "limit", default=LIMITS.page_size, low=1, high=LIMITS.page_size_max),
        offset=number(request, "offset", default=0, low=0, high=OFFSET_MAX),
    )


def number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    given = text(request, name)
    if given is None:
        return default
    if not _NUMBER.fullmatch(given) or not low <= int(given) <= high:
        raise BadParameter(
            name, f"must be a whole number from {low} to {high}, not {printable(given, 50)!r}."
        )
    return int(given)


def text(request: Request, name: str) -> str | None:
    """The parameter's one value; absent or empty is None."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise BadParameter(name, "is given more than once.")
    if not values or not values[0]:
        return None
    if len(values[0]) > TEXT_CHARS_MAX:
        raise BadParameter(name, f"is longer than {TEXT_CHARS_MAX} characters.")
    return values[0]


def texts(request: Request, name: str) -> list[str]:
    """Several values: `?tags=a,b` or `?tags=a&tags=b`."""
    joined = ",".join(request.query_params.getlist(name))
    if len(joined) > 4 * TEXT_CHARS_MAX:
        raise BadParameter(name, f"is longer than {4 * TEXT_CHARS_MAX} characters.")
    return [part for part in (part.strip() for part in joined.split(",")) if part]


def uuid(request: Request, name: str) -> UUID | None:
    given = text(request, name)
    if given is None:
        return None
    try:
        return UUID(given)
    except ValueError:
        raise BadParameter(name, "must be a UUID.") from None


def choice(request: Request, name: str, allowed: Iterable[str]) -> str | None:
    given = text(request, name)
    names = sorted(allowed)
    if given is not None and given not in names:
        raise BadParameter(name, f"must be one of {', '.join(names)}, not {printable(given, 50)!r}.")
    return given


def boolean(request: Request, name: str) -> bool | None:
    given = choice(request, name, ("true", "false"))
    return None if given is None else given == "true"
