"""JSON bodies, read strictly and within bounds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import IO, Any

from django.utils.http import parse_header_parameters
from rest_framework.exceptions import APIException, UnsupportedMediaType
from rest_framework.parsers import BaseParser

from ..conf import LIMITS
from ..errors import InvalidInput
from ..types import JSONObject, JSONValue
from .text import pointer_token, printable

CHUNK = 64 * 1024
ISSUES_MAX = 20  # enough to see the pattern; a hostile body could hold a million
INTEGER_MAX = 2**63 - 1  # what expressions and columns can hold


class BodyTooLarge(APIException):
    status_code = 413
    default_code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than the {limit} bytes allowed here.")


class MalformedJSON(InvalidInput):
    """The body is not JSON."""

    code = "malformed_json"


class ForbiddenJSON(InvalidInput):
    """The body is JSON, but holds something that is not accepted."""

    code = "invalid_json"


def read_limited(stream: IO[bytes], limit: int, declared: int | None = None) -> bytes:
    """The whole stream, or BodyTooLarge before more than `limit` bytes are in memory."""
    if declared is not None and declared > limit:
        raise BodyTooLarge(limit)
    chunks: list[bytes] = []
    size = 0
    while chunk := stream.read(min(CHUNK, limit - size + 1)):
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
    return b"".join(chunks)


# A string left open runs to the end of the text: every quote starts a match, so the scan stays linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def depth_of(data: bytes) -> int:
    """How deep the arrays and objects of a JSON text nest, found without recursion."""
    if data.count(b"[") + data.count(b"{") <= LIMITS.json_depth:
        return 0  # cannot be deeper than it has brackets
    brackets = _STRING.sub(b"", data).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


class _Suspicious(Exception):
    """Something to be pointed at; the slow, careful reading finds where."""


def _object(pairs: list[tuple[str, JSONValue]]) -> JSONObject:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Suspicious
    return made


def _constant(text: str) -> float:
    raise _Suspicious


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Suspicious
    return value


def _integer(text: str) -> int:
    if len(text) < 19:
        return int(text)
    if len(text) > 20 or abs(value := int(text)) > INTEGER_MAX:
        raise _Suspicious
    return value


_FAST = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
)


def _holds_surrogate(value: JSONValue) -> bool:
    """Whether a lone surrogate is anywhere inside: escaped pairs have become one character by now."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def loads(data: bytes, *, depth: int = LIMITS.json_depth) -> JSONValue:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or infinity, no NUL, no lone surrogates, bounded depth.

    Raises:
        MalformedJSON: not JSON; says line and column.
        ForbiddenJSON: JSON with something refused in it; each issue has its pointer.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJSON(
            f"The body is not UTF-8: byte {error.start} cannot be read.",
            remedy="Send JSON encoded as UTF-8.",
        ) from error
    if depth_of(data) > depth:
        raise ForbiddenJSON(
            f"The body nests deeper than {depth} levels.",
            remedy="Flatten it.",
            issues=[_issue("", "too_deep")],
        )
    try:
        value = _FAST.decode(text)
        if "\\u0000" not in text and not (_SURROGATE_ESCAPE.search(text) and _holds_surrogate(value)):
            return value
    except json.JSONDecodeError as error:
        raise MalformedJSON(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            remedy="Send one JSON value.",
        ) from error
    except _Suspicious:
        value = None
    issues = _find(text)
    if issues:
        raise ForbiddenJSON(issues=issues, remedy="Remove or replace what the issues point at.")
    return value  # the escapes spelt pairs of surrogates, or a backslash followed by text


_MESSAGES = {
    "too_deep": "This nests too deep.",
    "duplicate_key": "This key is given twice.",
    "not_a_number": "NaN and Infinity are not JSON numbers.",
    "number_too_large": "This number is too large: a whole number must fit 64 bits, any other be finite.",
    "nul": "Text must not contain NUL.",
    "lone_surrogate": "Text must not contain half of a surrogate pair.",
}


def _issue(pointer: str, code: str) -> JSONObject:
    return {"pointer": pointer, "code": code, "message": _MESSAGES[code], "remedy": ""}


class _Pairs(list[tuple[str, JSONValue]]):
    """An object as it was written, duplicates included."""


class _Refused(str):
    """A number that is refused; the text is the issue's code."""

    __slots__ = ()


def _careful_float(text: str) -> float | _Refused:
    value = float(text)
    return value if math.isfinite(value) else _Refused("number_too_large")


def _careful_integer(text: str) -> int | _Refused:
    if len(text) > 20 or abs(value := int(text)) > INTEGER_MAX:
        return _Refused("number_too_large")
    return value


_CAREFUL = json.JSONDecoder(
    object_pairs_hook=_Pairs,
    parse_constant=lambda text: _Refused("not_a_number"),
    parse_float=_careful_float,
    parse_int=_careful_integer,
)


def _find(text: str) -> list[JSONObject]:
    """Every refused thing in valid JSON, in reading order, up to ISSUES_MAX."""
    issues: list[JSONObject] = []
    stack: list[tuple[str, JSONValue]] = [("", _CAREFUL.decode(text))]
    while stack and len(issues) < ISSUES_MAX:
        pointer, value = stack.pop()
        if isinstance(value, _Refused):
            issues.append(_issue(pointer, str(value)))
        elif isinstance(value, str):
            issues.extend(_text_issues(pointer, value))
        elif isinstance(value, _Pairs):
            seen: set[str] = set()
            inner = []
            for key, item in value:
                at = f"{pointer}/{pointer_token(key)}"
                if key in seen:
                    issues.append(_issue(at, "duplicate_key"))
                seen.add(key)
                issues.extend(_text_issues(at, key))
                inner.append((at, item))
            stack.extend(reversed(inner))
        elif isinstance(value, list):
            stack.extend((f"{pointer}/{index}", value[index]) for index in reversed(range(len(value))))
    return issues[:ISSUES_MAX]


def _text_issues(pointer: str, text: str) -> list[JSONObject]:
    found = []
    if "\0" in text:
        found.append(_issue(pointer, "nul"))
    if _SURROGATE.search(text):
        found.append(_issue(pointer, "lone_surrogate"))
    return found


class StrictJSONParser(BaseParser):
    """The only body parser.

    A view may set `max_body_bytes` (default 1 MB) and `json_root = "any"` where an array or a bare
    value is welcome.  An empty body is an empty object.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> JSONValue:
        context = parser_context or {}
        view, request = context.get("view"), context.get("request")
        meta = getattr(request, "META", {})
        _check_encoding(media_type or self.media_type, meta.get("HTTP_CONTENT_ENCODING", ""))
        declared = str(meta.get("CONTENT_LENGTH") or "")
        data = read_limited(
            stream,
            getattr(view, "max_body_bytes", LIMITS.body_bytes),
            int(declared) if declared.isdecimal() and len(declared) < 20 else None,
        )
        if not data.strip():
            return {}
        value = loads(data)
        if not isinstance(value, dict) and getattr(view, "json_root", "object") == "object":
            raise ForbiddenJSON(
                f"The body must be a JSON object, not {_kind(value)}.",
                pointer="",
                remedy='Send an object: {"...": ...}.',
            )
        return value


def _check_encoding(media_type: str, content_encoding: str) -> None:
    charset = parse_header_parameters(media_type)[1].get("charset", "utf-8").lower()
    if charset not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType(printable(media_type), f"JSON is UTF-8, not {printable(charset)}.")
    if content_encoding.lower() not in {"", "identity"}:
        raise UnsupportedMediaType(
            printable(media_type), f"A body with Content-Encoding {printable(content_encoding)} is not read."
        )


def _kind(value: JSONValue) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
        list: "an array",
    }
    return names.get(type(value), "an object")
