"""Whether an answer fits what was asked.  Pure: no row is read here."""

from __future__ import annotations

import json

from agentflow.conf import KB, LIMITS
from agentflow.errors import InvalidInput
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow import json_schema
from agentflow.workflow.issues import pointer
from executions.incidents.fixes import RETRY
from executions.recovery.patching import PATCHED

from ..models import ApprovalKind
from .edits import EDITED

RESPONSE = "response"
_EDITING = frozenset(
    {ApprovalKind.REVIEW, ApprovalKind.EDIT, ApprovalKind.TOOL}
)  # the schema is for the edit


class BadResponse(InvalidInput):
    """The response does not fit what was asked for."""

    code = "invalid_response"
    remedy = "Mend what the issues name; `inputSchema` of the approval says what is expected."


def check(*, kind: str, approved: bool, response: JSONValue, input_schema: JSONObject) -> None:
    """Pass if the answer can be taken.

    A refusal needs no response; what is given is checked all the same, because it may become the
    block's output.  `input` and `fix` need one to approve.  Where a value was changed, that is what the
    schema is for.

    Raises:
        BadResponse: with every issue, pointers under `/response`.
        json_schema.UnusableSchema: the schema itself cannot be used.
    """
    if response is None:
        if not approved:
            return
        if kind in {ApprovalKind.INPUT, ApprovalKind.FIX}:
            raise BadResponse(issues=[_issue("required", pointer(RESPONSE), "A response is required.")])
    if isinstance(response, dict) and EDITED in response:
        issues = json_schema.issues(response[EDITED], input_schema, at=pointer(RESPONSE, EDITED))
        if issues:
            raise BadResponse(issues=issues)
        return
    if kind in _EDITING:
        return
    # An approval may leave the response out; its schema then decides whether nothing is enough.
    issues = json_schema.issues({} if response is None else response, input_schema, at=pointer(RESPONSE))
    if kind == ApprovalKind.FIX and not issues:
        issues = _fix_issues(response)
    if issues:
        raise BadResponse(issues=issues)


def check_bounds(response: JSONValue) -> None:
    size = len(json.dumps(response, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    if size > LIMITS.output_bytes:
        limit = f"{LIMITS.output_bytes // KB} KB"
        message = f"The response has {size} bytes; {limit} are allowed."
        raise BadResponse(issues=[_issue("too_large", pointer(RESPONSE), message)])
    level = [response]
    for _ in range(LIMITS.json_depth):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    message = f"The response nests deeper than {LIMITS.json_depth} levels."
    raise BadResponse(issues=[_issue("too_deep", pointer(RESPONSE), message)])


def _fix_issues(response: JSONValue) -> list[JSONObject]:
    """What the schema of a fix cannot say: which action needs what."""
    action = response.get("action") if isinstance(response, dict) else None
    if action == "complete" and "output" not in response:
        message = "Completing a step by hand needs its output."
        return [_issue("required", pointer(RESPONSE, "output"), message)]
    if isinstance(response, dict) and action != RETRY:
        message = "Only a step that is run again is changed."
        return [
            _issue("not_with_action", pointer(RESPONSE, name), message)
            for name in PATCHED
            if name in response
        ]
    return []


def _issue(code: str, at: str, message: str) -> JSONObject:
    return {"pointer": at, "code": code, "message": message, "remedy": ""}
