from __future__ import annotations

import gc
import io
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.api import parsers
from agentflow.api.parsers import BodyTooLarge, ForbiddenJSON, MalformedJSON, loads, read_limited
from agentflow.errors import InvalidInput


def refusal(text: str | bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        loads(text if isinstance(text, bytes) else text.encode())
    return caught.value


@pytest.mark.parametrize(
    ("text", "code", "pointer"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate_key", "/b/c"),
        ('{"a": [1, {"x": NaN}]}', "not_a_number", "/a/1/x"),
        ('{"a": -Infinity}', "not_a_number", "/a"),
        ('{"a": 1e400}', "number_too_large", "/a"),
        ('{"a": [0, -1E999]}', "number_too_large", "/a/1"),
        ('{"a": 9223372036854775808}', "number_too_large", "/a"),
        ('{"a": ' + "9" * 100_000 + "}", "number_too_large", "/a"),
        ('{"a": "x\\u0000y"}', "nul", "/a"),
        ('{"a\\u0000": 1}', "nul", "/a\ufffd"),
        ('["\\ud800"]', "lone_surrogate", "/0"),
        ('["ok", "\\uDC00\\uD800"]', "lone_surrogate", "/1"),
        ('{"a/b~c": {"\\ud834": 1}}', "lone_surrogate", "/a~1b~0c/\ufffd"),
        ('"\\u0000"', "nul", ""),
    ],
)
def test_what_is_refused_is_pointed_at(text: str, code: str, pointer: str) -> None:
    error = refusal(text)
    assert isinstance(error, ForbiddenJSON)
    assert [(issue["code"], issue["pointer"]) for issue in error.issues] == [(code, pointer)]


def test_all_that_is_refused_is_told_at_once_but_not_without_end() -> None:
    error = refusal('{"a": NaN, "b": ["\\u0000", 1e999], "c": {"d": 1, "d": 1}}')
    assert [issue["pointer"] for issue in error.issues] == ["/a", "/b/0", "/b/1", "/c/d"]
    assert len(refusal("[" + "NaN," * 100_000 + "1]").issues) == parsers.ISSUES_MAX


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a": }',
        "{'a': 1}",
        '{"a": 1,}',
        "[1 2]",
        "nope",
        '"\t"',
        "{} {}",
        "\ufeff{}",
        '{"a": 01}',
        '"\\x"',
    ],
)
def test_what_is_not_json_is_told_by_line_and_column(text: str) -> None:
    error = refusal("\n" + text if not text.startswith("\ufeff") else text)
    assert isinstance(error, MalformedJSON)
    assert "line " in error.message
    assert "column " in error.message


@pytest.mark.parametrize("data", [b'{"a": "\xff"}', b'"\xed\xa0\x80"', b'{"a": "\xc3', "{}".encode("utf-16")])
def test_what_is_not_utf8_is_told(data: bytes) -> None:
    assert "UTF-8" in refusal(data).message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 65 + "]" * 65,
        '{"a":' * 65 + "1" + "}" * 65,
        "[" * 100_000,
        '{"a":[' * 500_000,
        '["' + "\\" * 8 + '"' + "[" * 100_000,
    ],
)
def test_deep_nesting_is_refused_without_recursion(text: str) -> None:
    assert "levels" in refusal(text).message


@pytest.mark.parametrize(
    "text", ["[" * 64 + "]" * 64, json.dumps(["[" * 1000, "]", '"[{' * 1000, "\\[" * 500])]
)
def test_the_limit_itself_and_brackets_in_text_are_fine(text: str) -> None:
    assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud83d\\ude00"',
        '"\\\\u0000"',
        '"\\\\ud800"',
        '{"a": 9223372036854775807, "b": -1e308, "c": 0.1}',
        "0",
    ],
)
def test_what_only_looks_suspicious_is_accepted(text: str) -> None:
    assert loads(text.encode()) == json.loads(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.booleans())
def test_what_is_read_is_what_was_written_or_a_refusal(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    try:
        read = loads(text.encode(errors="surrogatepass"))
    except (ForbiddenJSON, MalformedJSON) as error:
        refused: InvalidInput | None = error
    else:
        refused = None
        assert read == value
    if isinstance(refused, ForbiddenJSON):
        assert json.dumps(refused.issues).encode()
    elif refused is not None:
        assert not ascii_only  # a lone surrogate, written raw, is not UTF-8


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with suppress(InvalidInput):
        loads(data)


@pytest.mark.parametrize("tail", ["", '"' + '\\"' * 700_000, '"' + "\\" * 1_400_001, '"' * 700_001])
def test_three_megabytes_are_read_in_a_blink(tail: str) -> None:
    block = {
        "blockId": "b",
        "name": "näme [x] {y}",
        "configuration": {"a": [1, 2.5, True]},
        "dependencies": ["a"],
    }
    body = json.dumps({"blocks": [block] * 24_000}).encode() if not tail else ("[" * 65 + tail).encode()
    assert len(body) > 690_000
    gc.freeze()  # else all that other tests left is gone through for what is read here
    worked = time.thread_time()
    with suppress(InvalidInput):
        loads(body)
    took = time.thread_time() - worked
    gc.unfreeze()
    assert took < 1.0  # 0.1 s here, where a pattern that goes back takes minutes


class Endless(io.RawIOBase):
    """A body without end that counts what was taken of it."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        assert 0 < size <= parsers.CHUNK, "the reader asked for everything at once"
        self.taken += size
        return b"x" * size


def test_no_more_is_read_than_is_allowed() -> None:
    stream = Endless()
    with pytest.raises(BodyTooLarge):
        read_limited(stream, 100_000)  # type: ignore[arg-type]  # RawIOBase reads bytes too
    assert stream.taken == 100_001
    with pytest.raises(BodyTooLarge):
        read_limited(stream, 100_000, declared=100_001)  # type: ignore[arg-type]
    assert stream.taken == 100_001
    assert read_limited(io.BytesIO(b"x" * 100_000), 100_000) == b"x" * 100_000
