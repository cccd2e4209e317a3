"""JSON as Python sees it."""

from __future__ import annotations

from typing import Any, TypeAlias

# None | bool | int | float | str | list | dict; a recursive alias costs more than it tells.
JSONValue: TypeAlias = Any
JSONObject: TypeAlias = dict[str, Any]
