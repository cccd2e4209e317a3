"""Small conversions between rows and Python."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agentflow.types import JSONValue


def loads(value: Any) -> JSONValue:
    """Django loads jsonb as text on its connections; SQL's NULL stays None."""
    return json.loads(value) if isinstance(value, str | bytes) else value


def int_array(values: Iterable[int | None]) -> str:
    """Whole numbers as one parameter that is cast to an array: of the same type whatever they are, and
    however many, so that its statement is planned once."""
    return f"{{{','.join('NULL' if value is None else str(value) for value in values)}}}"
