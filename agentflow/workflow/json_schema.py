"""Values held against a template's JSON Schema (2020-12), with a pointer for everything that does not fit."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from ..errors import Unprocessable
from ..types import JSONObject, JSONValue
from . import schema_patterns
from .issues import pointer

ISSUES_MAX = 50
STEPS = 20_000  # rules looked at for one value; and so many more for each of its parts
STEPS_PER_PART = 50
MESSAGE_CHARS = 300  # jsonschema quotes the value, which may be large


class UnusableSchema(Unprocessable):
    """The template's inputSchema is broken, so nothing can be checked against it."""

    code = "unusable_schema"
    remedy = "Mend the inputSchema in the template."


_NO_FORMATS = FormatChecker(formats=())  # patterns are looked at below, as RE2 has them


class _TooCostly(Exception):
    """The schema asks for more steps than any value of this size deserves."""


# What is left of the present check's steps: a schema whose parts refer to each other can ask for 2 to the
# power of its size.
_left: ContextVar[list[int] | None] = ContextVar("agentflow_schema_steps", default=None)


def _counted(rule: Callable[..., Any]) -> Callable[..., Any]:
    def looked_at(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
        left = _left.get()
        if left is not None:
            left[0] -= 1
            if left[0] < 0:
                raise _TooCostly
        return rule(validator, wanted, instance, schema)

    return looked_at


_Validator: Any = extend(  # type: ignore[no-untyped-call]  # it has no types
    Draft202012Validator,
    {
        name: _counted(rule)
        for name, rule in {
            **Draft202012Validator.VALIDATORS,
            "pattern": schema_patterns.pattern,
            "patternProperties": schema_patterns.pattern_properties,
            "additionalProperties": schema_patterns.additional_properties,
        }.items()
    },
)


def problems(schema: JSONValue) -> Iterator[tuple[schema_patterns.Path, str, str]]:
    """Why this is no JSON Schema that can be used: where, what, and what helps."""
    try:
        Draft202012Validator.check_schema(schema, format_checker=_NO_FORMATS)
    except SchemaError as error:
        yield tuple(error.absolute_path), f"This is no JSON Schema: {error.message[:MESSAGE_CHARS]}.", ""
        return
    except (RecursionError, ValueError, TypeError, OverflowError):
        yield (), "This is no usable JSON Schema.", ""
        return
    for at, message in schema_patterns.problems(schema):
        yield at, message, schema_patterns.REMEDY


@functools.lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """One for each schema, by its text: checking the schema itself costs more than most values do.

    Raises:
        UnusableSchema: it is none.
    """
    schema = json.loads(text)
    if next(problems(schema), None) is not None:
        raise UnusableSchema
    # A registry of our own: the default one fetches unknown $refs over the network.
    return _Validator(schema, registry=REGISTRY)


def issues(value: JSONValue, schema: JSONObject, *, at: str = "") -> list[JSONObject]:
    """What does not fit, at most 50 places; `at` is the pointer of the value itself.

    Raises:
        UnusableSchema: the schema is none, refers to what is not there, or would take for ever.
    """
    token = _left.set([STEPS + STEPS_PER_PART * _parts(value)])
    try:
        found = list(islice(_validator(json.dumps(schema)).iter_errors(value), ISSUES_MAX))
        return [issue for error in found for issue in _explained(error, at)]
    except (_TooCostly, schema_patterns.BadPattern, Unresolvable, RecursionError) as error:
        raise UnusableSchema from error
    finally:
        _left.reset(token)


def _parts(value: JSONValue) -> int:
    """How many values there are in a value."""
    count, todo = 0, [value]
    while todo:
        here = todo.pop()
        count += 1
        if isinstance(here, dict):
            todo.extend(here.values())
        elif isinstance(here, list):
            todo.extend(here)
    return count


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
