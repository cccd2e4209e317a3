"""What is shown otherwise than before.  Pure."""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from agentflow.types import JSONObject, JSONValue

MOST = 200  # changes that are told apart


def between(before: JSONObject, after: JSONObject) -> list[JSONObject]:
    """`[{"pointer": "/facts/amount", "before": 640, "after": 700}]`; what is new or gone has no such side.

    Pointers are of the value as it is now; of what is gone, as it was.
    """
    found: list[JSONObject] = []
    for step in jsonpatch.make_patch(before, after).patch[:MOST]:
        change: JSONObject = {"pointer": step["path"]}
        if step["op"] == "move":
            change["movedFrom"] = step["from"]
        elif step["op"] != "add":
            change["before"] = _at(before, step["path"])
        if step["op"] in ("add", "replace"):
            change["after"] = step["value"]
        found.append(change)
    return found


def _at(document: Any, path: str) -> JSONValue:
    found: JSONValue = jsonpointer.resolve_pointer(document, path, None)
    return found
