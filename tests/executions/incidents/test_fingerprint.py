"""Which failures are the same."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.incidents.fingerprint import FINGERPRINT_CHARS, MESSAGE_CHARS, fingerprint, normalised

NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12), st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False)
).map(str)
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.tuples(st.ip_addresses(v=4), st.integers(1, 65535)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
    st.ip_addresses(v=6).map(str).filter(lambda each: any(map(str.isdigit, each)) and "." not in each),
)
MOMENTS = st.one_of(
    st.datetimes().map(lambda at: at.isoformat()),
    st.datetimes().map(lambda at: f"{at.isoformat()}Z"),
    st.datetimes().map(lambda at: at.isoformat(sep=" ", timespec="seconds")),
    st.times().map(lambda at: f"{at:%H:%M:%S}"),
)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NUMBERS, "Order {} is not there"),
        (st.uuids().map(str), "Order {} is not there"),
        (ADDRESSES, "No answer from {} yet"),
        (MOMENTS, "Not before {} at least"),
        (st.from_regex("[a-z0-9][a-z0-9.+_-]{0,20}@shop[.]example", fullmatch=True), "No mail for {} yet"),
        (st.binary(min_size=4, max_size=32).map(lambda each: "0a" + each.hex()), "No blob {} any more"),
    ],
)
@given(data=st.data())
def test_what_differs_each_time_makes_no_difference(kind: Any, message: str, data: Any) -> None:
    one, other = (message.format(data.draw(kind)) for _ in range(2))
    assert normalised(one) == normalised(other)
    assert fingerprint("t", "b", "c", one) == fingerprint("t", "b", "c", other)
    words = [word for word in normalised(one).split() if "<" not in word]
    assert words == [word for word in message.split() if "{" not in word]


@given(st.text(), st.text(max_size=300), st.text(max_size=50))
def test_a_fingerprint_is_bounded_and_stable(message: str, block_id: str, code: str) -> None:
    short = normalised(message)
    assert len(short) <= MESSAGE_CHARS
    assert not any(each.isdecimal() for each in short)
    assert normalised(short) == short
    template_id = uuid4()
    made = fingerprint(template_id, block_id, code, message)
    assert len(made) == FINGERPRINT_CHARS
    assert made == fingerprint(str(template_id), block_id, code, message)


def test_other_words_blocks_codes_and_templates_are_other_failures() -> None:
    said = ("t", "b", "c", "KeyError: 'name' of row 7")
    made = {
        fingerprint(*said),
        fingerprint("u", *said[1:]),
        fingerprint("t", "other", "c", said[3]),
        fingerprint("t", "b", "other", said[3]),
        fingerprint("t", "b", "c", "KeyError: 'id' of row 7"),
        fingerprint("t", "bc", "", said[3]),
    }
    assert len(made) == 6
    assert fingerprint("t", "b", "c", "KeyError: 'name' of row 8") in made


@pytest.mark.parametrize(
    "evil", ["1:", "a.", "a-", "0", ":", "a@", "a.b@", "1.1.", "ab1-", "a:a:", "aa://", "\ud800"]
)
def test_no_message_takes_long(evil: str) -> None:
    assert len(normalised(evil * 500_000)) <= MESSAGE_CHARS  # a quadratic look would not come back
    assert fingerprint("t", "b", "c", evil)
