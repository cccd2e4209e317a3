"""An issue: what is wrong with a template, where, and what mends it."""

from __future__ import annotations

import difflib

from agentflow.types import JSONObject

_COMPARED_CHARS = 200


def issue(code: str, at: str, message: str, remedy: str) -> JSONObject:
    """An error at `at`, a JSON pointer."""
    # Names come from the body; a lone surrogate in one would break the answer that quotes it.
    return {
        "severity": "error",
        "code": code,
        "pointer": _printable(at),
        "message": _printable(message),
        "remedy": _printable(remedy),
    }


def _printable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def pointer(*path: str | int) -> str:
    """An RFC 6901 JSON pointer: `pointer("blocks", 3, "a/b")` is `/blocks/3/a~1b`."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def closest(name: str, known: list[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    same = [other for other in known if bare(other) == bare(name)]
    if same:
        return same[0]
    near = difflib.get_close_matches(name[:_COMPARED_CHARS], known[:2000], n=1)
    return near[0] if near else None


def bare(name: str) -> str:
    """The name without what people write in different ways."""
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()
