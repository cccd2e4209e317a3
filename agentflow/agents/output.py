"""What an agent may hand back: JSON that PostgreSQL can hold, within limits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from ..conf import LIMITS
from ..types import JSONObject, JSONValue
from ..workflow import json_schema
from ..workflow.failures import Failure, FailureKind


class BadOutput(Exception):
    """The output cannot be stored, or is not what was promised."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


MESSAGE_CHARS = 2000

# jsonb refuses NUL; UTF-8 has no lone surrogates.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def clean_json(value: Any, *, max_bytes: int = LIMITS.blob_bytes) -> JSONValue:
    """As `measured`, without the size."""
    return measured(value, max_bytes=max_bytes)[0]


def measured(value: Any, *, max_bytes: int = LIMITS.blob_bytes) -> tuple[JSONValue, int]:
    """The value as PostgreSQL will give it back, and its bytes: NUL and lone surrogates become U+FFFD.

    Raises:
        BadOutput: no JSON (NaN and Infinity among it), too deep, or too large.  Never worth a retry.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _permanent("output_not_json", f"The output is not JSON: {_said(error)}") from None
    if text.count("[") + text.count("{") > LIMITS.json_depth and _depth_exceeds(value, LIMITS.json_depth):
        raise _permanent("output_too_deep", f"The output is nested deeper than {LIMITS.json_depth} levels.")
    if len(text) > max_bytes:  # a character is at least one byte
        raise _too_large(max_bytes)
    try:
        encoded_bytes = len(text.encode())
    except UnicodeEncodeError:
        return measured(_replaced(json.loads(text)), max_bytes=max_bytes)
    if encoded_bytes > max_bytes:
        raise _too_large(max_bytes)
    cleaned = json.loads(text)  # tuples and number keys as they will be after a trip through the database
    return (_replaced(cleaned) if "\\u0000" in text else cleaned), encoded_bytes


def storable(failure: Failure) -> Failure:
    """The failure as PostgreSQL will take it: a server's own words may be in it."""
    return replace(
        failure,
        message=_replaced(failure.message)[:MESSAGE_CHARS],
        evidence=_replaced(json.loads(json.dumps(failure.evidence, default=str))),
    )


def _permanent(code: str, message: str) -> BadOutput:
    return BadOutput(Failure(FailureKind.CRITICAL, code, message))


def _too_large(max_bytes: int) -> BadOutput:
    return _permanent("output_too_large", f"The output is larger than {max_bytes} bytes.")


def _said(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]


def _depth_exceeds(value: JSONValue, limit: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    if limit == 0:
        return True
    items = value.values() if isinstance(value, dict) else value
    return any(_depth_exceeds(item, limit - 1) for item in items)


def _replaced(value: JSONValue) -> JSONValue:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value


def check_schema(value: JSONValue, schema: JSONObject, *, code: str, kind: FailureKind) -> None:
    """Hold a value against an agent's own JSON Schema.

    Raises:
        BadOutput: it does not fit (five places are named at most), or the schema is none.
    """
    try:
        issues = json_schema.issues(value, schema)
    except json_schema.UnusableSchema as error:
        raise BadOutput(
            Failure(FailureKind.CONFIGURATION, "bad_schema", "The agent's JSON Schema cannot be used.")
        ) from error
    if issues:
        first = issues[0]
        message = f"{first['pointer'] or 'the value'}: {first['message']}"
        raise BadOutput(Failure(kind, code, message, evidence={"issues": issues[:5]}))
