from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.workflow.conditions import NoBranchMatched, choose, compile_conditions, matches
from agentflow.workflow.definition import Branch, Conditions
from agentflow.workflow.expressions import ExpressionError, compile_expression

from .strategies import json_values


def taken(
    kind: Any, branches: list[str], value: Any = None, *, expression: str | None = None
) -> tuple[int, ...]:
    conditions = Conditions(
        type=kind, expression=expression, branches=tuple(Branch(condition=text) for text in branches)
    )
    return choose(compile_conditions(conditions), {"input": value}).taken


def test_if_takes_the_first_branch_that_is_true() -> None:
    assert taken("if", ["input > 9", "input > 3", "input > 1", "default"], 5) == (1,)


def test_if_does_not_evaluate_what_comes_after_the_first_true_branch() -> None:
    assert taken("if", ["input > 3", "input.missing"], 5) == (0,)


def test_inclusive_takes_every_branch_that_is_true() -> None:
    assert taken("inclusive", ["input > 9", "input > 3", "input > 1", "default"], 5) == (1, 2)


@pytest.mark.parametrize("kind", ["if", "inclusive"])
def test_default_is_taken_only_when_nothing_else_is(kind: str) -> None:
    assert taken(kind, ["default", "input > 3"], 5) == (1,)
    assert taken(kind, ["default", "input > 3"], 1) == (0,)


def test_a_switch_takes_the_branch_that_its_value_names() -> None:
    assert taken("switch", ["a", "b", "default"], "b", expression="input") == (1,)
    assert taken("switch", ["a", "b", "default"], "c", expression="input") == (2,)


def test_a_value_that_is_the_text_default_takes_the_default_branch() -> None:
    assert taken("switch", ["a", "default"], "default", expression="input") == (1,)


def test_no_match_and_no_default_names_the_value() -> None:
    with pytest.raises(NoBranchMatched) as refused:
        taken("switch", ["a"], {"sum": 3}, expression="input")
    assert '{"sum": 3}' in refused.value.message
    assert refused.value.value == {"sum": 3}


@pytest.mark.parametrize("kind", ["if", "inclusive"])
def test_no_true_branch_and_no_default_is_refused(kind: str) -> None:
    with pytest.raises(NoBranchMatched):
        taken(kind, ["input > 3"], 1)


@pytest.mark.parametrize("value", [1, "true", None, [], {}])
def test_a_condition_must_be_true_or_false(value: Any) -> None:
    with pytest.raises(ExpressionError) as refused:
        taken("if", ["input"], value)
    assert refused.value.code == "not_boolean"


def test_compiled_conditions_name_the_blocks_they_read() -> None:
    conditions = Conditions(
        type="if", branches=(Branch(condition="blocks.a.output"), Branch(condition="blocks['b c'].output"))
    )
    assert compile_conditions(conditions).block_refs == {"a", "b c"}


def test_a_switch_without_an_expression_cannot_be_compiled() -> None:
    with pytest.raises(ExpressionError):
        compile_conditions(Conditions(type="switch", branches=(Branch(condition="a"),)))


@pytest.mark.parametrize(
    ("value", "literal", "fits"),
    [
        ("a", "a", True),
        ("a", "A", False),
        ("true", "true", True),
        (True, "true", True),
        (True, "false", False),
        (True, "1", False),
        (None, "null", True),
        (3, "3", True),
        (3.0, "3", True),
        (3, "3.0", True),
        (3, "03", False),
        (3, "true", False),
        (1, "true", False),
        ("3", "3", True),
        (2.5, "2.5", True),
        (1e3, "1000", True),
        ([1], "[1]", False),
        ({}, "{}", False),
        (3, "three", False),
        (0, "", False),
        (1, "NaN", False),
    ],
)
def test_a_switch_compares_values_as_what_they_are(value: Any, literal: str, fits: bool) -> None:
    assert matches(value, literal) is fits


@given(json_values, st.text(max_size=10))
def test_comparing_never_fails(value: Any, literal: str) -> None:
    assert matches(value, literal) in (True, False)


def test_equal_expressions_are_compiled_once() -> None:
    assert compile_expression("input.a > 1") is compile_expression("input.a > 1")
