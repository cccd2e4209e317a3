from __future__ import annotations

from typing import Any

import pytest

from agentflow.workflow import json_schema
from agentflow.workflow.json_schema import UnusableSchema
from tests.work import calls


def codes(value: Any, schema: dict[str, Any]) -> list[tuple[str, str]]:
    return [(issue["pointer"], issue["code"]) for issue in json_schema.issues(value, schema)]


@pytest.mark.parametrize(
    ("pattern", "fits", "not_this"),
    [
        (r"^[A-Z]{3}-\d+$", "ABC-12", "abc-12"),
        (r"caf\u00e9", "un café", "un cafe"),
        (r"\p{Lu}", "É", "é"),
        (r"^\/orders\/", "/orders/1", "orders"),
        ("\ufffd", "\ud800", "x"),  # a lone surrogate is as it will be stored
    ],
)
def test_patterns_are_those_of_json_schema(pattern: str, fits: str, not_this: str) -> None:
    schema = {"pattern": pattern}
    assert (codes(fits, schema), codes(not_this, schema)) == ([], [("", "pattern")])


def test_patterns_of_names_decide_what_is_additional() -> None:
    schema = {
        "properties": {"id": {}},
        "patternProperties": {"^x-": {"type": "string"}},
        "additionalProperties": False,
    }
    assert codes({"id": 1, "x-note": "hi"}, schema) == []
    assert codes({"x-note": 1}, schema) == [("/x-note", "type")]
    assert codes({"other": 1}, schema) == [("", "additionalProperties")]
    typed = {"patternProperties": {"^x-": {}}, "additionalProperties": {"type": "string"}}
    assert codes({"x-note": 1, "other": 1}, typed) == [("/other", "type")]


def test_no_text_takes_a_pattern_long() -> None:
    """`re` would need 2 to the power of 50 000 steps; the test would never end."""
    assert codes("a" * 50_000 + "!", {"pattern": "^(a+)+$"}) == [("", "pattern")]
    assert codes({"a" * 50_000 + "!": 1}, {"patternProperties": {"^(a|a)+$": False}}) == []


@pytest.mark.parametrize(
    ("schema", "at"),
    [
        ({"pattern": "("}, ("pattern",)),
        ({"pattern": "(?=a)b"}, ("pattern",)),
        ({"pattern": r"(a)\1"}, ("pattern",)),
        ({"pattern": "((a{100}){100}){100}"}, ("pattern",)),
        ({"pattern": "a" * 1001}, ("pattern",)),
        ({"properties": {"x": {"items": {"pattern": "("}}}}, ("properties", "x", "items", "pattern")),
        ({"patternProperties": {"(": {}}}, ("patternProperties", "(")),
        ({"$defs": {"pattern": {"pattern": "("}}}, ("$defs", "pattern", "pattern")),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, ("unevaluatedProperties",)),
    ],
)
def test_a_pattern_that_cannot_be_bounded_is_refused_where_it_stands(schema: Any, at: Any) -> None:
    assert [found[0] for found in json_schema.problems(schema)] == [at]
    with pytest.raises(UnusableSchema):
        json_schema.issues("x", schema)


def test_what_only_looks_like_a_pattern_is_none() -> None:
    schema = {
        "properties": {"pattern": {"type": "string"}},
        "const": {"pattern": "("},
        "enum": [{"pattern": "("}],
    }
    assert list(json_schema.problems(schema)) == []


def test_a_schema_whose_parts_refer_to_each_other_comes_to_an_end() -> None:
    twice = {f"s{n}": {"anyOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(40)}
    schema = {"$defs": {**twice, "s40": {"type": "string"}}, "$ref": "#/$defs/s0"}
    with pytest.raises(UnusableSchema):
        json_schema.issues(1, schema)


def test_a_large_value_is_checked_whole() -> None:
    schema = {"items": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}}}
    assert codes([{"n": 1}] * 20_000, schema) == []


def test_a_schema_is_read_once_for_many_values() -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(50)}}
    first = calls(lambda: json_schema.issues({}, schema))
    assert calls(lambda: json_schema.issues({}, schema)) * 20 < first
