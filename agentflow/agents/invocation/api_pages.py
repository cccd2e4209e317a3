"""Gets what comes in pages: follows the agent's rule, and never further than its bounds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from ...conf import LIMITS
from ...integrations.http import HttpResponse
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from ..builtin import BuiltinFailure

Get = Callable[[str, float], tuple[JSONValue, HttpResponse]]  # (url, seconds) -> what was parsed, and all

_LINK = re.compile(r"<([^<>]{1,8192})>((?:\s*;\s*[^,;\"]+(?:\"[^\"]*\")?)*)")
_REL_NEXT = re.compile(r"rel\s*=\s*\"?(?:[^\"]*\s)?next(?:\s|\"|$)", re.IGNORECASE)


def collect(rule: JSONObject, url: str, get: Get, *, timeout_s: float) -> list[JSONValue]:
    """The items of all pages, in their order.

    Raises:
        BuiltinFailure: the pages do not end, are too large, or lead elsewhere: part of a list is no list.
        EgressError: as `get`.
    """
    until = time.monotonic() + timeout_s
    most, number = int(rule["maxPages"]), int(rule.get("start", 1))
    items: list[JSONValue] = []
    seen: set[str] = set()
    size = 0
    address = _with(url, str(rule["parameter"]), str(number)) if rule["type"] == "page" else url
    for _ in range(most):
        seen.add(address)
        value, response = get(address, max(until - time.monotonic(), 0.001))
        size += len(response.body)
        if size > LIMITS.blob_bytes:
            raise _failed(
                "response_too_large", f"The pages together are larger than {LIMITS.blob_bytes} bytes."
            )
        found = point(value, str(rule["items"]))
        if not isinstance(found, list):
            raise _failed("response_path_missing", f"A page has no list at {rule['items']!r}.")
        items.extend(found)
        number += 1
        following = _next(rule, url, address, value, response, number=number if found else None)
        if following is None:
            return items
        if following in seen:
            raise _failed("pages_repeat", "A page leads back to one that was got before.")
        address = following
    raise _failed("too_many_pages", f"There are more than {most} pages.")


def _next(
    rule: JSONObject, url: str, here: str, value: JSONValue, response: HttpResponse, *, number: int | None
) -> str | None:
    match rule["type"]:
        case "page":
            return None if number is None else _with(url, str(rule["parameter"]), str(number))
        case "cursor":
            cursor = point(value, str(rule["next"]))
            if cursor is None or cursor == "" or isinstance(cursor, dict | list | bool):
                return None
            return _with(url, str(rule["parameter"]), str(cursor))
        case _:
            return _linked(here, str(response.headers.get("link", "")))


def _linked(here: str, header: str) -> str | None:
    for target, parameters in _LINK.findall(header[:16_384]):
        if _REL_NEXT.search(parameters):
            following = str(urljoin(here, target))
            if urlsplit(following)[:2] != urlsplit(here)[:2]:
                raise _failed("pages_lead_elsewhere", "The next page is on another server.")
            return following
    return None


def _with(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != name]
    return urlunsplit(parts._replace(query=urlencode([*query, (name, value)])))


def point(value: JSONValue, pointer: str) -> JSONValue:
    """What a JSON pointer leads to; None where it leads nowhere."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _failed(code: str, message: str) -> BuiltinFailure:
    return BuiltinFailure(Failure(FailureKind.AGENT, code, message))
