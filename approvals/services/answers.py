"""Whether an answer fits what was asked.  Pure: no row is read here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from agentflow.conf import KB, LIMITS
from agentflow.errors import Conflict, InvalidInput
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import pointer

from ..models import ApprovalKind

ISSUES_MAX = 50
MESSAGE_CHARS = 300  # jsonschema quotes the value, which may be large
RESPONSE = "response"


class BadResponse(InvalidInput):
    """The response does not fit what was asked for."""

    code = "invalid_response"
    remedy = "Mend what the issues name; `inputSchema` of the approval says what is expected."


class UnusableSchema(Conflict):
    """The template's inputSchema is broken, so no answer can be checked against it."""

    code = "unusable_schema"
    remedy = "Refuse this question and mend the inputSchema in the template."


def check(*, kind: str, approved: bool, response: JSONValue, input_schema: JSONObject) -> None:
    """Pass if the answer can be taken.

    A refusal needs no response; what is given is checked all the same, because it may become the
    block's output.  `input` and `fix` need one to approve.

    Raises:
        BadResponse: with every issue, pointers under `/response`.
        UnusableSchema: the schema itself cannot be used.
    """
    _check_bounds(response)
    if response is None:
        if not approved:
            return
        if kind in {ApprovalKind.INPUT, ApprovalKind.FIX}:
            raise BadResponse(issues=[_issue("required", pointer(RESPONSE), "A response is required.")])
    issues = _misfits({} if response is None else response, input_schema)
    if kind == ApprovalKind.FIX and not issues:
        issues = _fix_issues(response)
    if issues:
        raise BadResponse(issues=issues)


def _check_bounds(response: JSONValue) -> None:
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


def _misfits(response: JSONValue, input_schema: JSONObject) -> list[JSONObject]:
    if not input_schema:
        return []
    # An empty registry: the default one fetches an unknown $ref over the network.
    validator = Draft202012Validator(input_schema, registry=Registry())
    try:
        Draft202012Validator.check_schema(input_schema)
        found = list(islice(validator.iter_errors(response), ISSUES_MAX))
    except (SchemaError, Unresolvable, RecursionError) as error:
        raise UnusableSchema from error
    return [issue for error in found for issue in _explained(error)]


def _explained(error: ValidationError) -> Iterable[JSONObject]:
    at = (RESPONSE, *error.absolute_path)
    if error.validator == "required" and isinstance(error.instance, dict):
        # One issue per missing field, at the field: jsonschema points at the object that lacks it.
        wanted = error.validator_value if isinstance(error.validator_value, list) else []
        name = next((each for each in wanted if error.message.startswith(f"{each!r} is a ")), None)
        if name is not None:
            yield _issue("required", pointer(*at, name), f"{name} is required.")
            return
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        patterns = error.schema.get("patternProperties") if isinstance(error.schema, dict) else None
        if error.validator_value is False and not patterns:
            for name in sorted(set(error.instance) - set(known)):
                message = f"There is no field {name} here."
                yield _issue("additionalProperties", pointer(*at, name), message)
            return
    yield _issue(str(error.validator), pointer(*at), error.message)


def _fix_issues(response: JSONValue) -> list[JSONObject]:
    """What the schema of a fix cannot say: which action needs what."""
    action = response.get("action") if isinstance(response, dict) else None
    if action == "complete" and "output" not in response:
        message = "Completing a step by hand needs its output."
        return [_issue("required", pointer(RESPONSE, "output"), message)]
    return []


def _issue(code: str, at: str, message: str) -> JSONObject:
    shown = message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…"
    return {"pointer": at, "code": code, "message": shown, "remedy": ""}
