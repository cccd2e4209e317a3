"""Making what a client sent safe to quote back."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def printable(text: str, limit: int = 300) -> str:
    """`text` without control characters and lone surrogates, cut to `limit` characters."""
    shown = _UNPRINTABLE.sub("\ufffd", text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def pointer_token(key: str) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return printable(key, 100).replace("~", "~0").replace("/", "~1")


def camelize(name: str) -> str:
    """`workspace_id` as it is spelt on the wire: `workspaceId`."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)
