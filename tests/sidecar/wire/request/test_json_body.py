"""Decode request bodies: the same values as any JSON reader, at a bounded cost."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.prompt_size import size_of
from policies.testing import make_call
from sidecar.wire.decoding.lone_surrogates import MAX_REPLACED, SEARCHED_BYTES
from sidecar.wire.decoding.repair import MAX_REPAIRED_BYTES
from sidecar.wire.request.json_body import (
    LARGE_BODY_BYTES,
    LIGHT_VALUES,
    MAX_VALUES,
    BadRequest,
    is_light,
    json_object,
    json_steps,
)
from sidecar.wire.request.json_fault import MAX_DIGITS

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
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
    assert "Integer value out of range - at `$[...]`: an integer has at most 640 digits" in refusal(
        b'{"x": %b}' % (b"9" * (MAX_DIGITS + 1))
    )
    assert sys.get_int_max_str_digits() == before


def large(fields: bytes, *, values: int = 2_000) -> bytes:
    """Return a body with *fields*, of more than 1 MB and with more than *values* values."""
    filler = b"x" * (MAX_REPAIRED_BYTES // values)
    return b'{"filler": [%b], %b}' % (b",".join([b'"%b"' % filler] * values), fields)


@pytest.mark.parametrize("digits", [b"9" * 101, b"-" + b"9" * 101, b"1." + b"0" * 101, b"1e" + b"0" * 101, b"9" * 640])
@pytest.mark.parametrize("form", [b'"x": %b', b'"x": [%b]', b'"x": {"a\\\\": "\\"", "y": %b}', b'"x": %b, "y": "a"'])
def test_number_in_large_body_has_at_most_100_digits(digits: bytes, form: bytes) -> None:
    """In a body of more than 1 MB a number has at most 100 digits in a row; in smaller ones it may have more."""
    refused = "The body has a number of more than 100 digits. Send shorter numbers, or a body of at most 1048576 bytes."
    assert refusal(large(form % digits)) == refused
    assert json_object(large(form % b"123")).keys() > {"filler"}
    assert json_object(b"{%b}" % form % digits)


@pytest.mark.parametrize("text", ["9" * 700, '"' + "0" * 700, "\\" + "0" * 700 + "\\", '\\"' + "1" * 700 + '"'])
def test_digits_in_texts_of_large_bodies_are_free(text: str) -> None:
    """Digits in the texts and keys of a large body have no limit, whatever is escaped beside them."""
    fields = json.dumps({"x" + text: text, "y": [text, 1]})
    assert json_object(large(fields[1:-1].encode())).items() > json.loads(fields).items()


@pytest.mark.parametrize("raw", [b'{"x": "' + b'"' * 900_000, b'{"x": "' + b'"0' * 900_000])
def test_quotes_of_a_broken_body_are_not_split(raw: bytes) -> None:
    """A large body with more quotes than its values can have is malformed."""
    assert "malformed" in refusal(large(b'"y": %b' % (b"0" * 101)) + raw)


@pytest.mark.parametrize("part", [b"\\ud83d", b"\\udc00", b"\\ud83d\\u0041"])
def test_lone_surrogate_in_large_body_is_refused(part: bytes) -> None:
    """In a body of more than 1 MB lone surrogates are not replaced, and the refusal names the limit."""
    message = refusal(large(b'"x": "%b"' % part))
    assert message.startswith("The body is not valid JSON: ")
    assert message.endswith("Half of a surrogate pair is replaced only in a body of at most 1048576 bytes.")
    assert json_object(large(b'"x": "\\ud83d\\ude42"'))["x"] == "\U0001f642"


def test_place_of_bad_utf8_is_named_in_small_bodies() -> None:
    """The place of bad UTF-8 is searched in bodies of up to 1 MB; the fault is named in all."""
    assert refusal(large(b'"x": "\xff"')) == "The body is not valid UTF-8."
    assert "The body has NaN at byte" in refusal(large(b'"x": NaN'))


def test_body_of_few_values_is_light() -> None:
    """A body is decoded in one step if it is small, or of medium size with few values."""
    assert is_light(b'{"x": [%b]}' % b",".join([b"0"] * (MAX_VALUES // 2 - 10)))
    assert is_light(b'{"x": "%b"}' % (b"a" * (LARGE_BODY_BYTES - 10)))
    assert not is_light(b'{"x": "%b"}' % (b"a" * LARGE_BODY_BYTES))
    assert not is_light(b'{"x": [%b]}' % b",".join([b'"%b"' % (b"a" * 20)] * (LIGHT_VALUES + 1)))


@pytest.mark.parametrize(
    "value", [b"1", b"1.5", b"[]", b"{}", b'""', b"[[[[[]]]]]", b'{"a":{"a":{}}}', b"null"], ids=bytes.decode
)
def test_values_are_limited(value: bytes) -> None:
    """More than 50,000 values of any type are refused."""
    raw = b'{"x": [%b]}' % b",".join([value] * MAX_VALUES)
    assert refusal(raw) == f"The body has more than {MAX_VALUES} values."


def test_fields_are_limited() -> None:
    """More than 50,000 fields are refused, also at the top level."""
    raw = b"{%b}" % b",".join(b'"%d":1' % at for at in range(MAX_VALUES + 1))
    assert refusal(raw) == f"The body has more than {MAX_VALUES} values."


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
    assert refusal(json.dumps(body).encode()) == f"The body has more than {MAX_VALUES} values."


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "\\\\\\u0000"])
def test_escaped_nul_is_a_character(text: str) -> None:
    """An escaped NUL is a character of a text or a key, as for servers; a bare one is not JSON."""
    for raw in (f'{{"x": "a{text}"}}', f'{{"a{text}": 1}}', f'{{"x": [{{"y": "{text}"}}]}}'):
        assert json_object(raw.encode()) == json.loads(raw)
    assert "invalid character (byte 8)" in refusal(b'{"x": "a\0"}')


ESCAPES = [
    "\\ud83d",
    "\\uDE00",
    "\\uD800",
    "\\udc00",
    "\\\\",
    '\\"',
    "\\n",
    "\\u0041",
    "\\uffff",
    "ud800",
    "\\\\u",
    "é",
    "a",
]


@given(pieces=st.lists(st.sampled_from(ESCAPES), max_size=9), searched=st.sampled_from([13, 16, 24, SEARCHED_BYTES]))
def test_lone_surrogates_are_replaced(pieces: list[str], searched: int) -> None:
    """Each half of a surrogate pair becomes U+FFFD, as in servers in Go, wherever a step of the search ends."""
    raw = f'{{"{"".join(pieces)}": ["{"".join(pieces)}"]}}'
    whole = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(json.loads(raw), ensure_ascii=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.wire.decoding.lone_surrogates.SEARCHED_BYTES", searched)
        assert json_object(raw.encode()) == json.loads(whole)


def test_text_cut_inside_an_emoji_is_read() -> None:
    """A text that a client cut inside an emoji is read with U+FFFD at its end."""
    assert json_object(b'{"x": "wave \\ud83d"}') == {"x": "wave \ufffd"}


def test_lone_surrogates_are_limited() -> None:
    """Up to 10,000 lone surrogates are replaced; more are refused, with the place of the next one."""
    most = b'{"x": "%b"}' % (b"\\ud83d" * MAX_REPLACED)
    assert json_object(most) == {"x": "\ufffd" * MAX_REPLACED}
    assert refusal(most.replace(b'"}', b'\\ud83d"}')) == (
        f"The body has more than {MAX_REPLACED} lone surrogates, the last one at byte {7 + 6 * MAX_REPLACED}."
    )


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b'{"x": NaN}', "The body has NaN at byte 6"),
        (b'{"x": [Infinity]}', "The body has Infinity at byte 7"),
        (b'{"x": -Infinity}', "The body has -Infinity at byte 6"),
        (b'{"x": "a\xff"}', "The body is not valid UTF-8: byte 0xff at place 8."),
        (b'{"\xed\xa0\x80": 1}', "The body is not valid UTF-8: byte 0xed at place 2."),
        (b'{"x": "\\ud83d", "y": NaN}', "The body has NaN at byte 21"),
        (b'{"x": "\\ud83d", "y": "\xff"}', "The body is not valid UTF-8: byte 0xff at place 22."),
        (b'{"x": "\\ud83d"', "The body is not valid JSON: Input data was truncated"),
        (b'{"x": "\\ud8zz"}', "The body is not valid JSON: JSON is malformed: invalid character in unicode escape"),
        (b'{"x": "\\ud83d\\ud8zz"}', "The body is not valid JSON: JSON is malformed"),
        (b'{"x": Nothing}', "The body is not valid JSON: JSON is malformed: invalid character (byte 6)"),
    ],
)
def test_fault_names_its_kind_and_place(raw: bytes, fault: str) -> None:
    """What is not JSON is named with its place: numbers that Python writes, bad UTF-8, a truncated body."""
    assert refusal(raw).startswith(fault)


def test_byte_order_mark_is_skipped() -> None:
    """A byte order mark in front of the body is skipped; the body after it is still required."""
    assert json_object(b'\xef\xbb\xbf{"x": 1}') == {"x": 1}
    assert "no body" in refusal(b"\xef\xbb\xbf ")


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
    assert steps(json_steps(b'{"x": "\\ud83d%b"}' % (b"\\n" * SEARCHED_BYTES))) == 3 + 3
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
