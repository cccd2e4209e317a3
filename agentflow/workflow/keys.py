"""Values that serve as keys: what an expression gives, as the text it is compared by."""

from __future__ import annotations

import json

from agentflow.types import JSONValue

from .expressions import ExpressionError


def key_text(value: JSONValue, *, most: int, code: str, field: str) -> str:
    """Text as it is, a number or truth value as JSON writes it.

    Raises:
        ExpressionError: `code`, for nothing, a list, an object, or more than `most` characters.
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool | int) or (isinstance(value, float) and value == value):
        text = json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    else:
        raise ExpressionError(code, f"{field} gives {value!r:.100}.")
    if len(text) > most:
        raise ExpressionError(code, f"{field} has more than {most} characters.")
    return text
