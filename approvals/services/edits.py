"""Approving with changes: what was changed, as a JSON Patch (RFC 6902), and what it gives.  Pure.

A question that may be approved with changes shows the value under `editable` of its request.  The answer
brings it back changed as `edited`, or the changes themselves as `edits`:

    {"response": {"edited": {"amount": 700}}}
    {"response": {"edits": [{"op": "replace", "path": "/amount", "value": 700}]}}
"""

from __future__ import annotations

from typing import cast

import jsonpatch
import jsonpointer

from agentflow.errors import InvalidInput
from agentflow.types import JSONObject, JSONValue

EDITABLE, EDITED, EDITS = "editable", "edited", "edits"
MOST_EDITS = 1000


class NotEditable(InvalidInput):
    """This question is answered as it stands; there is nothing in it to change."""

    code = "not_editable"
    remedy = "Leave out `edited` and `edits`."


class BadEdits(InvalidInput):
    """The changes do not fit what was shown."""

    code = "invalid_edits"
    remedy = "Send the whole value as `edited`, or a JSON Patch (RFC 6902) that fits `request.editable`."


def has_edits(response: JSONValue) -> bool:
    return isinstance(response, dict) and (EDITED in response or EDITS in response)


def applied(response: JSONValue, request: JSONObject) -> tuple[JSONValue, list[JSONObject] | None]:
    """The response with the changed value as `edited`, and the changes; None where nothing was changed.

    Raises:
        NotEditable, BadEdits
    """
    if not isinstance(response, dict) or not has_edits(response):
        return response, None
    if EDITABLE not in request:
        raise NotEditable(pointer=f"/response/{EDITED if EDITED in response else EDITS}")
    shown = request[EDITABLE]
    edited = response[EDITED] if EDITED in response else _patched(shown, response[EDITS])
    rest = {name: value for name, value in response.items() if name not in (EDITED, EDITS)}
    changes = jsonpatch.make_patch(shown, edited).patch
    if not changes:
        return rest or None, None
    return {**rest, EDITED: edited}, changes


def _patched(shown: JSONValue, patch: JSONValue) -> JSONValue:
    if not isinstance(patch, list) or len(patch) > MOST_EDITS:
        raise BadEdits(f"Send a list of at most {MOST_EDITS} operations.", pointer=f"/response/{EDITS}")
    if any(isinstance(each, dict) and each.get("op") == "copy" for each in patch):
        # A few of these, each of what the one before gave, fill the memory.
        raise BadEdits("The operation copy is not taken.", pointer=f"/response/{EDITS}")
    try:
        return cast(JSONValue, jsonpatch.apply_patch(shown, patch))
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError) as error:
        raise BadEdits(f"The changes do not fit: {error!s:.200}", pointer=f"/response/{EDITS}") from error


def check_state(response: JSONValue, request: JSONObject) -> None:
    """Of an `edit`: every block that was shown, and no other, has an output still.

    Raises:
        BadEdits
    """
    edited = response[EDITED] if isinstance(response, dict) else None
    if not isinstance(edited, dict) or set(edited) != set(request[EDITABLE]):
        names = ", ".join(sorted(request[EDITABLE]))
        raise BadEdits(f"Give the outputs of {names or 'no block'}, each.", pointer=f"/response/{EDITED}")
