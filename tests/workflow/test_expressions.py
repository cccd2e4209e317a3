from __future__ import annotations

import json
import string
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.conf import LIMITS
from agentflow.workflow.expressions import ExpressionError, compile_expression, compile_mapping, texts_of
from agentflow.workflow.syntax import read
from tests.work import calls

from .strategies import json_values

SCOPE: dict[str, Any] = {
    "input": {
        "int": 5,
        "float": 2.5,
        "whole": 5.0,
        "text": "é",
        "list": [1, 2, 3],
        "none": None,
        "map": {"x y": 1, "a": {"b": "deep"}},
        "yes": True,
        "orders": [{"id": i, "sum": i * 1.5, "lines": [i]} for i in range(5)],
        "max": 2**63 - 1,
        "above": 2**63,
        "huge": 2**70,
    },
    "context": {},
    "blocks": {
        "a b": {"output": {"v": 1}, "status": "completed"},
        "plain": {"output": [1, 2], "status": "completed"},
        "ü/'\"\\": {"output": "odd", "status": "completed"},
    },
}

# What the library makes of an expression: an upgrade that changes one of these is a change of ours.
VALUES: list[tuple[str, Any]] = [
    # numbers: JSON knows one kind, comparisons do too
    ("input.int > 1.5", True),
    ("input.int == 5.0", True),
    ("input.int == input.whole", True),
    ("input.float < 3", True),
    ("1 == 1.0", True),
    ("[1, 2] == [1.0, 2.0]", True),
    ("7 / 2", 3),
    ("-7 / 2", -3),
    ("5 % 3", 2),
    ("7.0 / 2.0", 3.5),
    ("2 * 3 + 4", 10),
    ("2 + 3 * 4", 14),
    ("10 - 3 - 2", 5),
    ("-input.int", -5),
    ("0x1F", 31),
    ("1e3", 1000.0),
    ("input.max", 2**63 - 1),
    ("-9223372036854775808", -(2**63)),
    ("3u", 3),
    # text: sizes are bytes of UTF-8, not characters
    ("size(input.text)", 2),
    ('"é".size()', 2),
    ('size("日本")', 6),
    ('"a" + "b"', "ab"),
    ('"abc".contains("b")', True),
    ('"abc".startsWith("ab")', True),
    ('"abc".endsWith("ab")', False),
    ('"a" < "b"', True),
    (r'"\u00e9" == input.text', True),
    (r'"\U0001F600"', "😀"),
    (r'"\x41\101\n"', "AA\n"),
    (r'r"\n"', "\\n"),
    (r"'\"'", '"'),
    ('"""tri"ple"""', 'tri"ple'),
    ('"a" // a comment', "a"),
    # lists and objects
    ("input.list[0]", 1),
    ("size(input.list)", 3),
    ("input.list + [4]", [1, 2, 3, 4]),
    ("2 in input.list", True),
    ('"x y" in input.map', True),
    ('"zz" in input.map', False),
    ('input.map["x y"]', 1),
    ("input.map.a.b", "deep"),
    ('{"a": 1}.a', 1),
    ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
    ("size(input.map)", 2),
    ("[1, 2,]", [1, 2]),
    # absence
    ("has(input.int)", True),
    ("has(input.zz)", False),
    ("has(input.map.zz)", False),
    ("input.none == null", True),
    ("null", None),
    ("has(input.zz) ? input.zz : 7", 7),
    # logic: an error does not count where the other side decides
    ("true && false", False),
    ("false && input.zz", False),
    ("input.zz || true", True),
    ("!input.yes", False),
    ("!!input.yes", True),
    ('input.yes ? "y" : "n"', "y"),
    ("false ? 1 : false ? 2 : 3", 3),
    ("true ? (false ? 1 : 2) : 3", 2),
    ("1 < 2 && 2 < 3 || false", True),
    # comprehensions
    ("input.list.all(x, x > 0)", True),
    ("input.list.exists(x, x > 2)", True),
    ("input.list.exists_one(x, x > 1)", False),
    ("input.list.map(x, x * 2)", [2, 4, 6]),
    ("input.list.map(x, x > 1, x * 2)", [4, 6]),
    ("input.list.filter(x, x != 2)", [1, 3]),
    ("input.orders.filter(o, o.sum > 4.0).map(o, o.id)", [3, 4]),
    ("input.orders.filter(o, input.list.exists(y, y == o.id)).map(o, o.id)", [1, 2, 3]),
    ("input.orders.map(o, o.lines.map(l, l + 1))", [[1], [2], [3], [4], [5]]),
    # conversions
    ('int("12") + 1', 13),
    ("int(1.9)", 1),
    ('double("1.5")', 1.5),
    ("double(2) * 1.5", 3.0),
    ("string(1)", "1"),
    ("string(1.5)", "1.5"),
    # times
    ('timestamp("2020-01-01T00:00:00Z").getFullYear()', 2020),
    ('timestamp("2020-01-01T00:00:00Z") < timestamp("2021-01-01T00:00:00Z")', True),
    ('duration("90s") > duration("1m")', True),
    # blocks, by any name
    ('blocks["a b"].output.v', 1),
    ("blocks['a b'].output.v + 1", 2),
    ("blocks.plain.output[1]", 2),
    ("blocks.plain.status == 'completed'", True),
    (r"""blocks["ü/'\"\\"].output""", "odd"),
    ('has(blocks["a b"].output.zz)', False),
    ('blocks["a b"]["output"]["v"]', 1),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_an_expression_has_this_value(text: str, value: Any) -> None:
    found = compile_expression(text).evaluate(SCOPE)
    assert found == value
    assert type(found) is type(value)


FAILURES: list[tuple[str, str]] = [
    ("input.zz", "missing_value"),
    ('input["zz"]', "missing_value"),
    ("input.list[3]", "missing_value"),
    ("input.list[-1]", "missing_value"),
    ('blocks["nowhere"].output', "missing_value"),
    ("event.name", "missing_value"),
    ('"a" + 1', "wrong_type"),
    ("input.int + 1.5", "wrong_type"),
    ("input.none < 1", "wrong_type"),
    ("input.int ? 1 : 2", "wrong_type"),
    ('input.list["a"]', "wrong_type"),
    ("1 / 0", "division_by_zero"),
    ("1 % 0", "division_by_zero"),
    ("9223372036854775807 + 1", "out_of_range"),
    ("18446744073709551615u", "out_of_range"),
    ("input.above", "out_of_range"),
    ("1.0 / 0.0", "out_of_range"),
    ("0.0 / 0.0", "out_of_range"),
    ('double("nan")', "out_of_range"),
    ('{"a": [0.0 / 0.0]}', "out_of_range"),
    ("int(1e30)", "out_of_range"),
    ('int("x")', "evaluation_failed"),
    ("string(true)", "evaluation_failed"),
    ("{1: 2}", "not_json"),
    ('timestamp("2020-01-01T00:00:00Z")', "not_json"),
    ('[duration("1h")]', "not_json"),
]


@pytest.mark.parametrize(("text", "code"), FAILURES)
def test_an_evaluation_fails_with_a_code(text: str, code: str) -> None:
    with pytest.raises(ExpressionError) as failed:
        compile_expression(text).evaluate(SCOPE)
    assert failed.value.code == code
    assert failed.value.message


REFUSED: list[tuple[str, str]] = [
    ("", "syntax_error"),
    ("  ", "syntax_error"),
    ("1 +", "syntax_error"),
    ("a b", "syntax_error"),
    ("(1", "syntax_error"),
    ("input.", "syntax_error"),
    ("'a", "syntax_error"),
    ("input.a[", "syntax_error"),
    ("1 = 1", "syntax_error"),
    ("input; 1", "syntax_error"),
    ("b'bytes'", "syntax_error"),
    (r"'\q'", "syntax_error"),
    (r"'\ud800'", "syntax_error"),
    ("9223372036854775808", "syntax_error"),
    ("Foo{a: 1}", "syntax_error"),
    (".input", "syntax_error"),
    ("input.?a", "syntax_error"),
    ("has(input)", "syntax_error"),
    ("true ? false ? 1 : 2 : 3", "syntax_error"),
    ("input.list.map(1, 2)", "syntax_error"),
    ("input.text.contains()", "evaluation_failed"),
    ("size(1, 2)", "syntax_error"),
    ("\ud800", "syntax_error"),
    ("inputs.a", "unknown_name"),
    ("foo", "unknown_name"),
    ("__class__", "unknown_name"),
    ("input.map(x, y)", "unknown_name"),
    ("type(1)", "unknown_function"),
    ("matches('a', 'a')", "unknown_function"),
    ("'a'.matches('(a+)+')", "unknown_function"),
    ("input.__class__()", "unknown_function"),
    ("optional.of(1)", "unknown_function"),
    ("dyn(1)", "unknown_function"),
    ("cel.bind(x, 1, x)", "unknown_function"),
    ("blocks", "computed_block_reference"),
    ("blocks[input.text].output", "computed_block_reference"),
    ("blocks[0]", "computed_block_reference"),
    ("blocks['a' + 'b']", "computed_block_reference"),
    ("size(blocks)", "computed_block_reference"),
    ("'a' in blocks", "computed_block_reference"),
    ("input.list.map(blocks, blocks['a'])", "shadowed_name"),
    ("input.list.map(x, input.list.map(x, x))", "shadowed_name"),
    ("input.list.map(x, [x].map(y, [y].map(z, z)))", "nested_comprehension"),
    ("'" + "x" * LIMITS.expression_bytes + "'", "expression_too_long"),
    ("(" * 500 + "1" + ")" * 500, "too_deep"),
    ("[" * 500 + "]" * 500, "too_deep"),
    ("!" * 3000 + "true", "too_deep"),
    ("1" + "+1" * 1500, "too_deep"),
    ("input" + ".a" * 1500, "too_deep"),
    ("true?1:" * 400 + "1", "too_deep"),
]


@pytest.mark.parametrize(("text", "code"), REFUSED, ids=[f"{t[:30]}-{c}" for t, c in REFUSED])
def test_what_is_not_allowed_never_runs(text: str, code: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        compile_expression(text).evaluate(SCOPE)
    assert refused.value.code == code
    assert refused.value.message


def test_an_expression_tells_what_it_refers_to() -> None:
    expression = compile_expression('blocks["a b"].output.v > 1 && blocks.c.output in input.list')
    assert expression.block_refs == {"a b", "c"}
    assert expression.names == {"blocks", "input"}


def test_a_variable_of_a_comprehension_is_no_name() -> None:
    assert compile_expression("[1].map(x, x + 1)").names == frozenset()
    with pytest.raises(ExpressionError):
        compile_expression("[1].map(x, x) == x")


def test_text_that_looks_like_a_reference_is_none() -> None:
    assert compile_expression("\"blocks['x']\" == 'foo.bar()' // blocks[input]").block_refs == frozenset()


def test_only_the_given_names_are_known() -> None:
    compile_expression("item.id", {"item"})
    with pytest.raises(ExpressionError) as refused:
        compile_expression("item.id", {"input"})
    assert refused.value.code == "unknown_name"


def test_a_misspelt_name_or_function_comes_with_the_one_that_was_meant() -> None:
    for text, meant in (("inptu.a", "input"), ("lenght('a')", ""), ("'a'.startWith('a')", "startsWith")):
        with pytest.raises(ExpressionError) as refused:
            compile_expression(text)
        assert meant in refused.value.remedy_text


def test_only_what_is_referred_to_counts_against_the_input_bound() -> None:
    scope = {
        "input": {},
        "blocks": {"small": {"output": 1}, "large": {"output": "x" * (LIMITS.expression_input_bytes + 1)}},
    }
    assert compile_expression("blocks.small.output").evaluate(scope) == 1
    with pytest.raises(ExpressionError) as failed:
        compile_expression("blocks.large.output == ''").evaluate(scope)
    assert failed.value.code == "input_too_large"


# Each of these would run for minutes, or need more memory than there is, if it were begun.
COSTLY = [
    "input.many.map(x, x)",
    "input.many.filter(x, x > 0)",
    "input.many.all(x, input.many.all(y, x + y >= 0))",
    "input.some.map(x, input.some)",
    "input.some.map(x, input.some.map(y, input.some))",
    "[1,2,3,4,5,6,7,8].map(x, input).map(x, input).map(x, input).map(x, input.some.map(y, input.many))",
    "input.some.map(x, input.some) == input.some.map(x, input.some)",
    "(input.some + input.some + input.some + input.some + input.some + input.some).map(x, x)",
    "input.some.all(x, input == input && input == input)",
    "input.nested.map(x, input.nested.map(y, y.list))",
    "(true ? input.many : input.some).map(x, x)",
    '["many"].map(k, input[k].map(x, x))',
]


@pytest.mark.parametrize("text", COSTLY)
def test_an_evaluation_that_would_take_too_long_is_not_begun(text: str) -> None:
    scope = {
        "input": {
            "many": list(range(30_000)),
            "some": list(range(500)),
            "nested": [{"list": list(range(50))} for _ in range(100)],
        }
    }
    expression = compile_expression(text)

    def refused() -> None:
        with pytest.raises(ExpressionError) as failed:
            expression.evaluate(scope)
        assert failed.value.code == "too_costly"

    assert calls(refused) < 100_000


def test_usual_lists_are_not_too_costly() -> None:
    orders = [{"id": i, "customer": f"c{i % 7}", "sum": i * 1.5} for i in range(200)]
    scope = {"input": {"orders": orders, "large": list(range(20_000)), "vips": ["c1", "c2"]}}
    chosen = compile_expression("input.orders.filter(o, input.vips.exists(v, v == o.customer)).map(o, o.id)")
    assert chosen.evaluate(scope) == [i for i in range(200) if i % 7 in (1, 2)]
    assert compile_expression("input.large.exists(x, x == 19999)").evaluate(scope) is True
    assert compile_expression("size(input.large)").evaluate(scope) == 20_000


def test_an_expression_may_be_used_by_many_threads_at_once() -> None:
    expression = compile_expression("input.list.map(x, x * input.int)")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: expression.evaluate({"input": {"list": [i], "int": 2}}), range(200)))
    assert found == [[i * 2] for i in range(200)]


# -- mappings


MAPPED: list[tuple[Any, Any]] = [
    ("plain", "plain"),
    ("", ""),
    (5, 5),
    (None, None),
    ("${input.int}", 5),
    ("${input.list}", [1, 2, 3]),
    ("${ input.none }", None),
    ("n=${input.int}", "n=5"),
    ("${input.int}${input.text}", "5é"),
    ("t=${input.text} y=${input.yes} n=${input.none} f=${input.float}", "t=é y=true n=null f=2.5"),
    ("${input.list}!", "[1,2,3]!"),
    ("${input.map}!", '{"a":{"b":"deep"},"x y":1}!'),
    ("$${input.int}", "${input.int}"),
    ("$${a} ${input.int}", "${a} 5"),
    ("$$${a}", "$${a}"),
    ("cost: 5$ {x}", "cost: 5$ {x}"),
    ("${'}'}", "}"),
    ("${ {'a': {'b': 1}} }", {"a": {"b": 1}}),
    ("${'${x}'}", "${x}"),
    ({"a": ["${input.int}", {"b": "x${input.int}"}], "${k}": 1}, {"a": [5, {"b": "x5"}], "${k}": 1}),
]


@pytest.mark.parametrize(("value", "expected"), MAPPED)
def test_a_mapping_resolves_to(value: Any, expected: Any) -> None:
    found = compile_mapping(value).resolve(SCOPE)
    assert found == expected
    assert type(found) is type(expected)


def test_a_mapping_tells_which_blocks_it_needs() -> None:
    mapping = compile_mapping(
        {"a": "${blocks['a b'].output}", "b": ["x ${blocks.plain.output}"], "c": "blocks.z"}
    )
    assert mapping.block_refs == {"a b", "plain"}


@pytest.mark.parametrize("text", ["${", "${input", "${'}", "a ${}", "${foo}", "${1 +}"])
def test_a_broken_mapping_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_mapping({"a": [text]})


def test_a_large_value_named_often_does_not_fill_the_memory() -> None:
    mapping = compile_mapping({str(i): "${input.text}" for i in range(1000)})
    with pytest.raises(ExpressionError) as failed:
        mapping.resolve({"input": {"text": "x" * 200_000}})
    assert failed.value.code == "result_too_large"


def test_texts_with_expressions_are_found_where_they_stand() -> None:
    value = {"a": ["${x}", "none"], "b": {"c": "y ${z}"}, "d": 1}
    assert list(texts_of(value)) == [(("a", 0), "${x}"), (("b", "c"), "y ${z}")]


@given(json_values)
@settings(deadline=None)
def test_what_holds_no_expression_is_mapped_to_itself(value: Any) -> None:
    if not list(texts_of(value)):
        assert compile_mapping(value).resolve({}) == value


# -- fuzz


def outcome(text: str, scope: dict[str, Any]) -> Any:
    """The value, or the refusal's code.  Anything else that is raised fails the test."""
    try:
        value = compile_expression(text).evaluate(scope)
    except ExpressionError as refused:
        return refused.code
    json.dumps(value, allow_nan=False)
    return value


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_evaluated_or_refused(text: str) -> None:
    outcome(text, SCOPE)


WORDS = [
    *("input", "context", "blocks", "x", "y", "int", "size", "has", "map", "filter", "all", "exists", "in"),
    *("true", "false", "null", "list", "orders", "string", "double", "matches", "'a'", '"\\u00e9"', "r'\\'"),
    *("0", "1", "-1", "2.5", "1e308", "9223372036854775807", "3u", "'2020-01-01T00:00:00Z'", "timestamp"),
    *"+-*/%!?:.,()[]{}<>=&|;\\'\"`$#@~^ \n\t",
    *("==", "!=", "<=", ">=", "&&", "||", ".map(x, ", ".filter(y, ", ".output", "['a b']", "//", "/*"),
]


@given(st.lists(st.sampled_from(WORDS), max_size=25))
@settings(max_examples=500, deadline=None)
def test_any_heap_of_words_is_evaluated_or_refused(words: list[str]) -> None:
    outcome("".join(words), SCOPE)
    outcome(" ".join(words), SCOPE)


leaves = st.sampled_from(
    [
        *("input.int", "input.list", "input.text", "input.orders", "input.map", "input", "input.huge"),
        *("blocks.plain.output", "x", "input.zz", "1", "-1", "3u", "2.5", "'a'", "''", "null", "true"),
        *("[]", "{}"),
    ]
)
OPERATORS = ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"]
generated = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, st.sampled_from(["map", "filter", "all", "exists", "exists_one"]), inner).map(
            lambda p: f"{p[0]}.{p[1]}(x, {p[2]})"
        ),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
        st.tuples(st.sampled_from(["size", "int", "double", "string", "!", "-"]), inner).map(
            lambda p: f"{p[0]}({p[1]})"
        ),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}[{p[1]}]"),
        st.lists(inner, max_size=3).map(lambda p: f"[{', '.join(p)}]"),
        st.tuples(inner, inner).map(lambda p: f"{{'a': {p[0]}, 'b': {p[1]}}}"),
    ),
    max_leaves=12,
)


@given(generated)
@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_well_formed_expression_is_evaluated_or_refused_soon(text: str) -> None:
    started = time.thread_time()
    outcome(text, SCOPE)
    assert time.thread_time() - started < 10  # else it hangs: no claim on speed


@given(st.text(string.printable + "é\u2028😀", max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_quoted_block_id_is_read_as_the_library_reads_it(name: str) -> None:
    quoted = json.dumps(name)  # JSON's escapes are CEL's too, but for surrogate pairs
    try:
        expression = compile_expression(f"blocks[{quoted}].output")
    except ExpressionError:
        assert any(ord(character) > 0xFFFF for character in name)
        return
    assert expression.block_refs == {name}
    assert expression.evaluate({"blocks": {name: {"output": 7}}}) == 7


@given(generated)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_reader_takes_whatever_is_well_formed(text: str) -> None:
    read(text)
