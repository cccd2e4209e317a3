"""Small conversions between rows and Python."""

from __future__ import annotations

import json
from typing import Any

from agentflow.types import JSONValue


def loads(value: Any) -> JSONValue:
    """Django loads jsonb as text on its connections; SQL's NULL stays None."""
    return json.loads(value) if isinstance(value, str | bytes) else value
