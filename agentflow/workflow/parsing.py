"""From JSON to a definition, or to everything that is malformed in it, each with its place and a remedy."""

from __future__ import annotations

import math
import sys
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agentflow.conf import KB, LIMITS
from agentflow.errors import InvalidInput
from agentflow.types import JSONObject, JSONValue

from .definition import (
    Assignees,
    AtLeast,
    Block,
    Branch,
    Budget,
    Compensation,
    Conditions,
    Definition,
    ForEach,
    GlobalSettings,
    HumanInLoop,
    HumanLevel,
    Metadata,
    Part,
    Recovery,
    Repeat,
    RetryPolicy,
    RunConcurrency,
    Wait,
)
from .issues import bare, closest, issue, pointer

MAX_ISSUES = 1000


def parse(body: JSONValue) -> Definition:
    """Read a definition.

    Raises:
        InvalidInput: with one issue for each structural problem, all of them at once.
    """
    if not isinstance(body, dict):
        raise _refused([issue("wrong_type", "", "A definition is a JSON object.", "Send an object.")])
    issues = _json_issues(body)
    if not any(issue["code"] == "too_deep" for issue in issues):  # deeper than the model's walk may go
        try:
            definition = Definition.model_validate(body, by_alias=True, by_name=False)
        except ValidationError as error:
            known = {issue["pointer"] for issue in issues}
            for detail in error.errors(include_url=False):
                found = _explain(detail, body)
                if found["pointer"] not in known and not _is_echo(detail):
                    issues.append(found)
            issues = _once_each(issues)
        else:
            if not issues:
                return definition
    raise _refused(issues)


def _refused(issues: list[JSONObject]) -> InvalidInput:
    if len(issues) > MAX_ISSUES:
        left = len(issues) - MAX_ISSUES
        more = issue("more_issues", "", f"There are {left} more issues.", "Mend these first.")
        issues = [*issues[:MAX_ISSUES], more]
    count = len(issues)
    return InvalidInput(
        f"The definition has {count} problem{'s' if count != 1 else ''}.",
        issues=issues,
        remedy="Mend what the issues name and send it again.",
    )


def _json_issues(body: JSONObject) -> list[JSONObject]:
    """What no JSON value may hold, wherever it stands: the open objects are checked here too."""
    issues: list[JSONObject] = []
    todo: list[tuple[Any, tuple[Any, ...], int]] = [(body, (), 1)]
    while todo and len(issues) <= MAX_ISSUES:
        value, path, depth = todo.pop()
        kind = type(value)
        if kind is dict or kind is list:
            if depth > LIMITS.json_depth:
                message = f"Objects and lists are nested more than {LIMITS.json_depth} deep."
                issues.append(issue("too_deep", _where(path), message, "Flatten the value."))
            elif kind is dict:
                for key, item in value.items():
                    if type(key) is not str:
                        message = "The key of an object is not text."
                        issues.append(issue("wrong_type", _where(path), message, "Use text as key."))
                        continue
                    if not key.isascii() or "\x00" in key or len(key) > KB:
                        _check_text(key, path, issues)
                    todo.append((item, (path, key), depth + 1))
            else:
                todo.extend((item, (path, index), depth + 1) for index, item in enumerate(value))
        elif kind is str:
            if not value.isascii() or "\x00" in value or len(value) > LIMITS.text_bytes:
                _check_text(value, path, issues)
        elif kind is float or kind is int:
            # Beyond a double's range a number cannot be stored and read back by every JSON client.
            if not (math.isfinite(value) if kind is float else abs(value) <= sys.float_info.max):
                message = "The number is NaN, infinite, or too large."
                issues.append(issue("out_of_range", _where(path), message, "Use a finite number."))
        elif value is not None and kind is not bool:
            message = f"A {kind.__name__} is no JSON value."
            issues.append(issue("wrong_type", _where(path), message, "Use a JSON value."))
    issues.reverse()
    return issues


def _where(path: tuple[Any, ...]) -> str:
    """Paths are linked pairs while the walk goes on, for a tuple per value would cost too much."""
    steps: list[str | int] = []
    while path:
        path, step = path
        steps.append(step)
    return pointer(*reversed(steps))


def _check_text(text: str, path: tuple[Any, ...], issues: list[JSONObject]) -> None:
    if "\x00" in text:
        message = "The text holds a NUL character, which cannot be stored."
        issues.append(issue("invalid_text", _where(path), message, "Remove the NUL character."))
        return
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        message = "The text holds half of a surrogate pair, which is no character."
        issues.append(issue("invalid_text", _where(path), message, "Send valid Unicode."))
        return
    if size > LIMITS.text_bytes:
        message = f"The text has {size} bytes; {LIMITS.text_bytes} are allowed."
        issues.append(issue("too_long", _where(path), message, "Shorten it, or store it elsewhere."))


# The parts by the field they stand in, to know which fields a wrong one may have meant.
_PARTS: dict[str, type[Part]] = {
    "": Definition,
    "metadata": Metadata,
    "globalSettings": GlobalSettings,
    "blocks": Block,
    "conditions": Conditions,
    "branches": Branch,
    "humanInLoop": HumanInLoop,
    "humanInLoopDefaults": HumanInLoop,
    "levels": HumanLevel,
    "assignees": Assignees,
    "recovery": Recovery,
    "retryPolicy": RetryPolicy,
    "defaultRetryPolicy": RetryPolicy,
    "join": AtLeast,
    "forEach": ForEach,
    "concurrency": RunConcurrency,
    "budget": Budget,
    "repeat": Repeat,
    "wait": Wait,
    "compensation": Compensation,
}
_ALIASES = {
    part: [cast(str, field.alias) for field in part.model_fields.values()] for part in _PARTS.values()
}
_NOUNS = {"": "a definition", "blocks": "a block", "branches": "a branch"}
_OFTEN_MEANT = {
    "id": "blockId",
    "dependson": "dependencies",
    "needs": "dependencies",
    "after": "dependencies",
    "config": "configuration",
    "if": "when",
    "agent": "agentId",
    "tool": "toolType",
    "retries": "maxRetries",
    "retry": "retryPolicy",
    "steps": "blocks",
    "tasks": "blocks",
    "approval": "humanInLoop",
}
_TYPE_NAMES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
    "union_tag_not_found": 'one of "merge", "all" and "any", or {"atLeast": n}',
    "union_tag_of_quorum": '"any", "all" or a number of people',
}
_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "literal_error": "unknown_value",
    "string_pattern_mismatch": "wrong_format",
    "string_unicode": "invalid_text",
    "string_too_short": "too_short",
    "too_short": "too_short",
    "string_too_long": "too_long",
    "too_long": "too_long",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "int_parsing_size": "out_of_range",
    "one_of": "one_of",
    **dict.fromkeys(_TYPE_NAMES, "wrong_type"),
}


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether the model only repeats another finding: a list whose items were all refused is "too short"
    to it, and bad Unicode was found by the walk over the JSON."""
    return detail["type"] == "string_unicode" or (detail["type"] == "too_short" and bool(detail["input"]))


def _once_each(issues: list[JSONObject]) -> list[JSONObject]:
    """A union tries each of its types and reports the same for all of them."""
    first: dict[tuple[str, str], JSONObject] = {}
    for found in issues:
        first.setdefault((found["pointer"], found["code"]), found)
    return list(first.values())


def _explain(detail: ErrorDetails, body: JSONObject) -> JSONObject:
    """One finding of the model in our words, at its place in the body."""
    kind, value = detail["type"], detail["input"]
    path = _path_in(body, detail["loc"], missing=kind == "missing")
    code, field = _CODES.get(kind, "invalid_value"), _named(path)
    context = detail.get("ctx", {})
    if code == "unknown_field":
        message, remedy = _unknown_field(path)
    elif code == "missing_field":
        message, remedy = f"The field {field} is missing.", f"Add {field}."
    elif code == "wrong_type":
        wanted = _TYPE_NAMES["union_tag_of_quorum" if field == "'quorum'" else kind]
        message = f"{field} must be {wanted}, not {_type_name(value)}."
        remedy = f"Give {wanted}."
    elif code == "unknown_value":
        message = f"{field} cannot be {_short(value)}."
        remedy = f"Use {context.get('expected', 'an allowed value')}."
    elif code == "wrong_format":
        message = f"{field} may hold letters, digits, '_', '.' and '-' only."
        remedy = "Use a name such as finance.lead."
    elif code in ("too_short", "too_long"):
        message, remedy = _wrong_length(field, code, context)
    elif code == "out_of_range":
        message = f"{field} is out of range: {_short(value)}."
        remedy = detail["msg"].replace("Input should be", "It must be") + "."
    else:
        message, remedy = f"{field} is not valid: {detail['msg']}.", "See the definition's reference."
    return issue(code, pointer(*path), message, remedy)


def _named(path: list[str | int]) -> str:
    if not path:
        return "The definition"
    if isinstance(path[-1], int):
        return f"Item {path[-1]} of {_named(path[:-1])}"
    return repr(path[-1])


def _path_in(body: JSONObject, loc: tuple[Any, ...], *, missing: bool) -> list[str | int]:
    """The steps of `loc` that lead through the body: a union's tag is a step, but no place in it."""
    path: list[str | int] = []
    here: Any = body
    for step in loc:
        if (isinstance(here, dict) and step in here) or (
            isinstance(here, list) and isinstance(step, int) and step < len(here)
        ):
            here = here[step]
        elif missing and step == loc[-1]:
            here = None
        else:
            continue
        path.append(step)
    return path


def _unknown_field(path: list[str | int]) -> tuple[str, str]:
    field = str(path[-1])
    holder = next((step for step in reversed(path[:-1]) if isinstance(step, str)), "")
    known = _ALIASES[_PARTS[holder]]
    place = f"in {_NOUNS.get(holder, repr(holder))}"
    meant = closest(field, known)
    if meant is None and _OFTEN_MEANT.get(bare(field)) in known:
        meant = _OFTEN_MEANT[bare(field)]
    remedy = f"Did you mean {meant!r}?" if meant else f"Remove it. Known here: {', '.join(known)}."
    return f"There is no field {_short(field)} {place}.", remedy


def _wrong_length(field: str, code: str, context: dict[str, Any]) -> tuple[str, str]:
    if code == "too_short":
        if field == "'blocks'":
            return "A template needs at least one block.", "Add a block."
        return f"{field} may not be empty.", "Give a value, or leave the field out."
    most = context.get("max_length", "")
    return f"{field} is too long: at most {most} are allowed.", f"Keep to {most}."


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), _short(value))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
