"""JSON as Python sees it."""

from __future__ import annotations

from typing import Any, TypeAlias

JSONValue: TypeAlias = Any  # None | bool | int | float | str | list | dict; recursive aliases cost more than they tell
JSONObject: TypeAlias = dict[str, Any]
