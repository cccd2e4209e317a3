from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from agentflow.agents.output import BadOutput, clean_json
from agentflow.conf import LIMITS

TEXT = st.text(st.characters(codec=None)) | st.sampled_from(
    ["\x00", "\\u0000", "\ud800", "a\udfffb", "\\\x00"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_text_an_agent_sends_can_be_stored(value: Any) -> None:
    cleaned = clean_json(value)
    text = json.dumps(cleaned, ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in text.replace("\\\\", "")
    assert clean_json(cleaned) == cleaned


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["a\x00b", "\\u0000", "\ud83d", "\ude00\ud83d", "😀", "\\\x00"])
def test_postgresql_takes_what_was_cleaned(text: str) -> None:
    cleaned = clean_json({text: text})
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb", [json.dumps(cleaned)])
        assert json.loads(cursor.fetchone()[0]) == cleaned


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\\u0000", "\\u0000"),  # six characters that only look like NUL
        ("\ud800", "\ufffd"),
        ({"k\x00": ["\udfff"]}, {"k\ufffd": ["\ufffd"]}),
        ((1, 2), [1, 2]),
        ({1: 2}, {"1": 2}),
    ],
)
def test_how_output_is_cleaned(value: Any, expected: Any) -> None:
    assert clean_json(value) == expected


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "output_not_json"),
        ({"a": [float("inf")]}, "output_not_json"),
        ({"a": {1, 2}}, "output_not_json"),
        (object(), "output_not_json"),
        (b"bytes", "output_not_json"),
        (nested(65), "output_too_deep"),
        (nested(100_000), "output_not_json"),
        ("x" * (LIMITS.blob_bytes + 1), "output_too_large"),
        ("é" * (LIMITS.blob_bytes // 2), "output_too_large"),
    ],
)
def test_what_cannot_be_stored_is_a_failure_no_retry_mends(value: Any, code: str) -> None:
    with pytest.raises(BadOutput) as caught:
        clean_json(value)
    assert (caught.value.failure.kind, caught.value.failure.code) == ("critical", code)


def test_the_limits_themselves_are_allowed() -> None:
    assert clean_json(nested(64)) == nested(64)
    assert clean_json("x" * (LIMITS.blob_bytes - 2)) == "x" * (LIMITS.blob_bytes - 2)


def test_a_value_that_holds_itself_is_no_json() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BadOutput):
        clean_json(value)
