"""Values held against a template's JSON Schema (2020-12), with a pointer for everything that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from ..errors import Unprocessable
from ..types import JSONObject, JSONValue
from .definition import pointer

ISSUES_MAX = 50
MESSAGE_CHARS = 300  # jsonschema quotes the value, which may be large


class UnusableSchema(Unprocessable):
    """The template's inputSchema is broken, so nothing can be checked against it."""

    code = "unusable_schema"
    remedy = "Mend the inputSchema in the template."


def issues(value: JSONValue, schema: JSONObject, *, at: str = "") -> list[JSONObject]:
    """What does not fit, at most 50 places; `at` is the pointer of the value itself.

    Raises:
        UnusableSchema: the schema is none, or refers to what is not there.
    """
    try:
        Draft202012Validator.check_schema(schema)
        # A registry of our own: the default one fetches unknown $refs over the network.
        validator = Draft202012Validator(schema, registry=REGISTRY)
        found = list(islice(validator.iter_errors(value), ISSUES_MAX))
    except (SchemaError, Unresolvable, RecursionError) as error:
        raise UnusableSchema from error
    return [issue for error in found for issue in _explained(error, at)]


def _explained(error: ValidationError, at: str) -> Iterator[JSONObject]:
    here = at + pointer(*error.absolute_path)
    rule: Any = error.validator_value
    if error.validator == "required" and isinstance(error.instance, dict):
        # jsonschema points at the object that lacks the field, and says it once for each.
        missing = [name for name in rule if error.message.startswith(f"{name!r} is a ")]
        for name in missing[:1]:
            yield _issue("required", here + pointer(name), f"{name} is required.")
        return
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        schema = error.schema if isinstance(error.schema, dict) else {}
        if rule is False and not schema.get("patternProperties"):
            known = schema.get("properties", {})
            for name in [name for name in error.instance if name not in known][:ISSUES_MAX]:
                yield _issue("unknown_field", here + pointer(name), f"There is no field {name!r} here.")
            return
    yield _issue(str(error.validator), here, error.message)


def _issue(code: str, at: str, message: str) -> JSONObject:
    shown = message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…"
    return {"pointer": at, "code": code, "message": shown, "remedy": ""}
