"""What an API agent's configuration may say beyond an address: authentication, selection, pages, failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from ..types import JSONObject, JSONValue
from ..workflow import secret_references
from ..workflow.expressions import ExpressionError, compile_expression
from ..workflow.failures import FailureKind

Issue: TypeAlias = tuple[str, str, str, str]  # pointer, code, message, remedy

HEADER_NAME = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")
KNOWN = frozenset(
    {
        *("method", "url", "headers", "query", "body", "bodyType", "auth", "parameters", "pagination"),
        *("response", "successStatuses", "failures", "idempotencyHeader", "callback"),
    }
)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
SELECT_NAMES = frozenset({"response", "status"})
PAGES_MOST = 1000
POINTER = re.compile(r"(/([^~/]|~[01])*)*")
_STATUS = re.compile(r"[1-5](\d\d|xx)")
# They belong to the protocol, or to the promise that a repeated call carries the same key.
OUR_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "accept-encoding",
        "idempotency-key",
    }
)

# Of each kind of authentication: its fields, and which of them must be there.
_AUTH: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "header": (frozenset({"name", "value"}), frozenset({"name", "value"})),
    "bearer": (frozenset({"token"}), frozenset({"token"})),
    "basic": (frozenset({"username", "password"}), frozenset({"username", "password"})),
    "oauth2": (
        frozenset({"tokenUrl", "clientId", "clientSecret", "scope", "audience", "clientAuth"}),
        frozenset({"tokenUrl", "clientId", "clientSecret"}),
    ),
}
SECRET_FIELDS = frozenset({"value", "token", "password", "clientSecret"})
_PAGES: dict[str, frozenset[str]] = {
    "page": frozenset({"parameter", "start"}),
    "cursor": frozenset({"parameter", "next"}),
    "link": frozenset(),
}


def issues(configuration: JSONObject) -> Iterator[Issue]:
    method = configuration.get("method", "GET")
    if not isinstance(method, str) or method.upper() not in METHODS:
        yield "/method", "bad_value", f"method is one of {', '.join(METHODS)}.", ""
    if configuration.get("bodyType", "json") not in ("json", "form", "text"):
        yield "/bodyType", "bad_value", "bodyType is json, form or text.", ""
    query = configuration.get("query")
    if query is not None and not isinstance(query, dict):
        yield "/query", "wrong_type", "query is an object.", ""
    statuses = configuration.get("successStatuses")
    if statuses is not None and not _statuses(statuses):
        yield "/successStatuses", "wrong_type", "successStatuses is a list of numbers from 100 to 599.", ""
    name = configuration.get("idempotencyHeader")
    if name is not None and not (isinstance(name, str) and HEADER_NAME.match(name)):
        yield "/idempotencyHeader", "bad_value", "idempotencyHeader is the name of a header.", ""
    yield from _auth(configuration.get("auth"))
    yield from _response(configuration.get("response"))
    yield from _pagination(configuration)
    yield from _failures(configuration.get("failures"))


def _auth(auth: JSONValue) -> Iterator[Issue]:
    if auth is None:
        return
    kind = auth.get("type") if isinstance(auth, dict) else None
    if not isinstance(auth, dict) or kind not in _AUTH:
        yield "/auth/type", "bad_value", f"auth.type is one of {', '.join(_AUTH)}.", ""
        return
    known, needed = _AUTH[str(kind)]
    yield from _fields("/auth", auth, known | {"type"}, needed)
    for field in known & auth.keys():
        yield from _auth_field(field, auth[field])


def _auth_field(field: str, value: Any) -> Iterator[Issue]:
    at = f"/auth/{field}"
    if not isinstance(value, str) or not value:
        yield at, "wrong_type", f"auth.{field} is a text.", ""
    elif field in SECRET_FIELDS and not secret_references.names(value):
        remedy = "PUT /api/v1/secrets/NAME, and write ${secrets.NAME} here."
        yield at, "secret_in_clear", "This would be stored as it is written.", remedy
    elif field == "name" and (not HEADER_NAME.match(value) or value.lower() in OUR_HEADERS):
        yield at, "bad_value", "This is no header that an agent may set.", ""
    elif field == "clientAuth" and value not in ("basic", "body"):
        yield at, "bad_value", "auth.clientAuth is basic or body.", ""
    elif field == "tokenUrl" and not _whole_address(value):
        yield at, "bad_address", "This must be a whole http or https address, without user and password.", ""


def _response(response: JSONValue) -> Iterator[Issue]:
    if response is None:
        return
    if not isinstance(response, dict):
        yield "/response", "wrong_type", "response is an object.", ""
        return
    yield from _fields("/response", response, {"path", "pointer", "select"}, ())
    if len(response) > 1:
        yield "/response", "ambiguous", "response has one of path, pointer and select.", "Remove the others."
    pointer = response.get("pointer")
    if pointer is not None and not (isinstance(pointer, str) and POINTER.fullmatch(pointer)):
        yield "/response/pointer", "bad_pointer", "This is no JSON pointer.", "Write it as /data/items/0."
    if "select" in response:
        try:
            compile_expression(str(response["select"]), SELECT_NAMES)
        except ExpressionError as error:
            yield "/response/select", error.code, error.message, "Known here: response, status."


def _pagination(configuration: JSONObject) -> Iterator[Issue]:
    rule = configuration.get("pagination")
    if rule is None:
        return
    kind = rule.get("type") if isinstance(rule, dict) else None
    if not isinstance(rule, dict) or kind not in _PAGES:
        yield "/pagination/type", "bad_value", f"pagination.type is one of {', '.join(_PAGES)}.", ""
        return
    own = _PAGES[str(kind)]
    yield from _fields(
        "/pagination", rule, own | {"type", "items", "maxPages"}, own - {"start"} | {"items", "maxPages"}
    )
    for field in ("items", "next"):
        if field in rule and not (isinstance(rule[field], str) and POINTER.fullmatch(rule[field])):
            yield (
                f"/pagination/{field}",
                "bad_pointer",
                "This is no JSON pointer.",
                "Write it as /data/items.",
            )
    if "parameter" in rule and not (isinstance(rule["parameter"], str) and rule["parameter"]):
        yield "/pagination/parameter", "wrong_type", "pagination.parameter is a text.", ""
    if "start" in rule and type(rule["start"]) is not int:
        yield "/pagination/start", "wrong_type", "pagination.start is a whole number.", ""
    most = rule.get("maxPages", 1)
    if type(most) is not int or not 1 <= most <= PAGES_MOST:
        yield "/pagination/maxPages", "bad_value", f"pagination.maxPages is from 1 to {PAGES_MOST}.", ""
    if str(configuration.get("method", "GET")).upper() != "GET":
        yield "/method", "bad_value", "Only what is got comes in pages.", "Use GET, or no pagination."
    for other in ("response", "callback"):
        if configuration.get(other) is not None:
            yield f"/{other}", "ambiguous", f"{other} and pagination exclude each other.", "Remove one."


def _failures(table: JSONValue) -> Iterator[Issue]:
    if table is None:
        return
    if not isinstance(table, dict):
        yield "/failures", "wrong_type", "failures is an object of statuses and kinds.", ""
        return
    kinds = [kind.value for kind in FailureKind]
    for status, kind in table.items():
        if not _STATUS.fullmatch(status):
            yield f"/failures/{status}", "bad_name", "A status is written as 409 or 4xx.", ""
        elif kind not in kinds:
            yield f"/failures/{status}", "bad_value", f"A kind is one of {', '.join(kinds)}.", ""


def _fields(at: str, value: JSONObject, known: Any, needed: Any) -> Iterator[Issue]:
    for name in value.keys() - known:
        yield f"{at}/{name}", "unknown_field", f"Known here: {', '.join(sorted(known))}.", "Remove it."
    for name in sorted(needed - value.keys() if needed else ()):
        yield f"{at}/{name}", "required", f"{name} is needed.", ""


def _statuses(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 100 <= each <= 599 for each in value)


def _whole_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
