"""Decode request bodies: the same values as any JSON reader, at a bounded cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.prompt_size import size_of
from policies.testing import make_call
from sidecar.wire.json_body import MAX_DIGITS, MAX_VALUES, BadRequest, json_object, json_steps

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def refusal(raw: bytes) -> str:
    with pytest.raises(BadRequest) as refused:
        json_object(raw)
    return refused.value.message


@given(st.dictionaries(TEXTS, VALUES), st.booleans())
def test_values_are_decoded_exactly(body: dict[str, Any], ascii_only: bool) -> None:  # noqa: FBT001  # hypothesis gives it by place
    """Every string and number is decoded exactly."""
    assert json_object(json.dumps(body, ensure_ascii=ascii_only).encode()) == body


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_keeps_value_and_sign(number: float) -> None:
    """A float keeps its value and its sign."""
    read = json_object(b'{"x": %b}' % repr(number).encode())["x"]
    assert (repr(read), type(read)) == (repr(number), float)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400 + ".0"])
def test_number_out_of_range_is_refused(number: str) -> None:
    """A number that no float can hold is refused."""
    assert "Number out of range" in refusal(b'{"x": %b}' % number.encode())


def test_integer_has_at_most_640_digits() -> None:
    """An integer has at most 640 digits; the interpreter's own limit is unchanged afterwards."""
    before = sys.get_int_max_str_digits()
    assert json_object(b'{"x": %b}' % (b"9" * MAX_DIGITS)) == {"x": 10**MAX_DIGITS - 1}
    assert "Integer value out of range" in refusal(b'{"x": %b}' % (b"9" * (MAX_DIGITS + 1)))
    assert sys.get_int_max_str_digits() == before


@pytest.mark.parametrize(
    "value", [b"1", b"1.5", b"[]", b"{}", b'""', b"[[[[[]]]]]", b'{"a":{"a":{}}}', b"null"], ids=bytes.decode
)
def test_values_are_limited(value: bytes) -> None:
    """More than 250,000 values of any type are refused."""
    raw = b'{"x": [%b]}' % b",".join([value] * MAX_VALUES)
    assert refusal(raw) == "The body has more than 250000 values."


def test_fields_are_limited() -> None:
    """More than 250,000 fields are refused, also at the top level."""
    raw = b"{%b}" % b",".join(b'"%d":1' % at for at in range(MAX_VALUES + 1))
    assert refusal(raw) == "The body has more than 250000 values."


@pytest.mark.parametrize("text", ["{[,", '"{,', "\\{", '\\"[,', "\\\\[,", "[{\n,}]", "ü{,"])
def test_strings_do_not_count_as_values(text: str) -> None:
    """Structure characters inside strings do not count as values, whatever is escaped beside them."""
    long = text * (2 * MAX_VALUES // len(text.encode()))
    body = {"a": long, "b\\": [long, {}], long + "{": "x\\"}
    assert json_object(json.dumps(body, ensure_ascii=False).encode()) == body


@pytest.mark.parametrize("text", [",[{", '",', "\\"])
def test_values_beside_strings_count(text: str) -> None:
    """Values outside strings count, whatever the strings around them contain."""
    body = {"a" + text: text, "x": [[]] * MAX_VALUES, "y": text}
    assert refusal(json.dumps(body).encode()) == "The body has more than 250000 values."


@pytest.mark.parametrize(
    ("escaped", "nul"), [("\\u0000", True), ("\\\\u0000", False), ("\\\\\\u0000", True), ('\\"\\\\\\\\u0000', False)]
)
def test_nul_is_refused(escaped: str, nul: bool) -> None:  # noqa: FBT001  # a column of the table
    """A NUL is refused, also in keys; an escaped backslash before `u0000` is not one."""
    for raw in (f'{{"x": "a{escaped}"}}', f'{{"a{escaped}": 1}}', f'{{"x": [{{"y": "{escaped}"}}]}}'):
        if nul:
            assert "NUL" in refusal(raw.encode())
        else:
            assert json_object(raw.encode()) == json.loads(raw)


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[1, {"b": [], "a":', "}]")])
def test_body_has_at_most_100_levels(opened: str, closed: str) -> None:
    """A body may have 100 levels, itself included."""
    times = 98 // len(closed)
    fits, deeper = (f'{{"x": {opened * times}{inner}{closed * times}}}' for inner in ("[1]", "[[1]]"))
    assert json_object(fits.encode()) == json.loads(fits)
    assert refusal(deeper.encode()) == "The body is nested more than 100 levels deep."


def test_large_body_is_decoded_in_steps() -> None:
    """A large body or one with many values is decoded in several steps, also if it is refused."""
    plain = json.dumps({"messages": [{"role": "user", "content": "hi"}] * 1000}).encode()
    assert steps(json_steps(plain)) == 3
    assert steps(json_steps(b'{"x": "%b"}' % (b'[\\",' * MAX_VALUES))) == 7
    assert steps(json_steps(b'{"x": [%b]}' % b",".join([b'""'] * MAX_VALUES))) == 2


def steps(reading: Iterator[None]) -> int:
    taken = 0
    try:
        for _ in reading:
            taken += 1
    except BadRequest:
        return taken
    return taken


@given(st.lists(TEXTS, min_size=1))
def test_prompt_size_is_its_utf8_bytes(texts: list[str]) -> None:
    """A prompt's size is the UTF-8 bytes of its texts, and its characters, in messages and in their parts."""
    parts = [{"type": "text", "text": text} for text in texts]
    for messages in ([{"role": "user", "content": text} for text in texts], [{"role": "user", "content": parts}]):
        call = make_call(body={"messages": messages})
        assert size_of(call).bytes == sum(len(text.encode()) for text in texts)
        assert call.characters == len(call.text)
