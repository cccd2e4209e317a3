"""Regular expressions of JSON Schemas, matched in time that grows with the text alone.

Python's own `re` can take for ever over one line that somebody sent.  RE2 cannot; what it does not know
(looking ahead or behind, and back references) is refused where a schema is written.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import re2
from jsonschema.exceptions import ValidationError

from ..types import JSONObject, JSONValue

Path: TypeAlias = tuple[str | int, ...]

PATTERN_CHARS = 1000
MEMORY_BYTES = 2 * 1024 * 1024  # of one compiled pattern: more is refused
REMEDY = "Write it without looking ahead or behind and without back references: patterns are RE2's."

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = MEMORY_BYTES
_FOUR_DIGITS = re.compile(r"((?:^|[^\\])(?:\\\\)*)\\u([0-9A-Fa-f]{4})")  # ECMA's way to write a character
_SURROGATE = re.compile("[\ud800-\udfff]")

# Keywords whose value is no schema: what looks like a pattern in there is a value.
_VALUES = frozenset({"const", "enum", "default", "examples", "required", "pattern"})
# Keywords whose value holds schemas by names that authors choose.
_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


class BadPattern(ValueError):
    """This is no pattern that can be matched in bounded time."""


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """
    Raises:
        BadPattern: too long, no regular expression, or one that RE2 does not know.
    """
    if len(pattern) > PATTERN_CHARS:
        raise BadPattern(f"A pattern has at most {PATTERN_CHARS} characters.")
    text = pattern
    while (rewritten := _FOUR_DIGITS.sub(r"\1\\x{\2}", text)) != text:
        text = rewritten
    try:
        return re2.compile(text, _OPTIONS)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise BadPattern(f"The pattern {pattern[:100]!r} cannot be used: {said[:150]}.") from None


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern is somewhere in the text.

    Raises:
        BadPattern: as `compiled`.
    """
    return compiled(pattern).search(_SURROGATE.sub("\ufffd", text)) is not None


def problems(schema: JSONValue) -> Iterator[tuple[Path, str]]:
    """Each pattern of a schema that cannot be used, and where it stands."""
    todo: list[tuple[Path, JSONValue, bool]] = [((), schema, False)]
    while todo:
        at, here, by_name = todo.pop()
        if isinstance(here, list):
            todo.extend(((*at, index), item, False) for index, item in enumerate(here))
        if not isinstance(here, dict):
            continue
        for key, value in here.items():
            if by_name or key not in _VALUES:
                todo.append(((*at, key), value, not by_name and key in _BY_NAME))
        if not by_name:
            yield from _own_problems(at, here)


def _own_problems(at: Path, schema: JSONObject) -> Iterator[tuple[Path, str]]:
    named = schema.get("patternProperties")
    given = [((*at, "patternProperties", name), name) for name in (named if isinstance(named, dict) else {})]
    if isinstance(schema.get("pattern"), str):
        given.append(((*at, "pattern"), schema["pattern"]))
    for where, pattern in given:
        try:
            compiled(pattern)
        except BadPattern as error:
            yield where, str(error)
    if given and "unevaluatedProperties" in schema and isinstance(named, dict):
        yield (
            (*at, "unevaluatedProperties"),
            "unevaluatedProperties and patternProperties do not go together.",
        )


# -- the keywords of jsonschema that match patterns, on RE2 ---------------------


def pattern(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matches(wanted, instance):
        yield ValidationError(f"{instance!r} does not match {wanted!r}")


def pattern_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for each, subschema in wanted.items():
        for name, value in instance.items():
            if matches(each, name):
                yield from validator.descend(value, subschema, path=name, schema_path=each)


def additional_properties(
    validator: Any, wanted: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known, by_pattern = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [
        name for name in instance if name not in known and not any(matches(each, name) for each in by_pattern)
    ]
    if validator.is_type(wanted, "object"):
        for name in extra:
            yield from validator.descend(instance[name], wanted, path=name)
    elif not wanted and extra:
        shown = ", ".join(repr(name) for name in sorted(extra, key=str)[:20])
        yield ValidationError(f"Additional properties are not allowed ({shown})")
