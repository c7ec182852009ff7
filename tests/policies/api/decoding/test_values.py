"""Numbers in JSON from outside: the values of Python's own conversion, and none that takes long."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hostile_bodies import between_floats
from hypothesis import given
from hypothesis import strategies as st

from policies.api.decoding import values
from policies.api.decoding.values import MAX_EXACT_CHARACTERS, decode_values
from policies.api.event import Event
from sidecar.wire.chunk import decode_json, other_outputs
from sidecar.wire.usage_fields import reports_beside

FINITE = st.floats(allow_nan=False, allow_infinity=False)
LONG = b"0." + b"3" * 700


@given(FINITE, st.integers(0, 90))
def test_number_of_any_length_has_the_value_that_it_states(number: float, zeros: int) -> None:
    """A float keeps its value however many digits follow it."""
    mantissa, _, exponent = repr(number).partition("e")
    text = f"{mantissa if '.' in mantissa else mantissa + '.0'}{'0' * zeros}{'e' + exponent if exponent else ''}"

    assert repr(decode_values(text.encode())) == repr(number)


@pytest.mark.parametrize("number", [0.1, 1e300, 2.5e-300, 5e-324])
@pytest.mark.parametrize("digits", [20, 30, 60, 700])
def test_long_number_is_one_of_its_neighbours(number: float, digits: int) -> None:
    """A number between two floats is decoded as one of them, whatever its length."""
    text = between_floats(digits, number)

    assert decode_values(text) == pytest.approx(json.loads(text), rel=1e-15)


@pytest.mark.parametrize(
    "text", ["1e400", "-1e400", "1." + "0" * 60 + "e400", "1" + "0" * 60 + ".0e99999999999999999999"]
)
def test_number_out_of_range_is_an_error(text: str) -> None:
    """A number that no float can hold is an error, as in msgspec."""
    with pytest.raises(msgspec.ValidationError, match="out of range"):
        decode_values(text.encode())


@pytest.mark.parametrize(
    "read",
    [
        decode_json,
        lambda data: other_outputs(b'{"choices":[{"delta":{"x":%b}}]}' % data, many=False),
        lambda data: reports_beside(b'{"timings":1,"x":%b}' % data, has_usage=True),
        lambda data: Event(payload=b'{"x":%b}' % data).data,
    ],
    ids=["any JSON", "other output", "usage beside", "data of an event"],
)
def test_no_reader_converts_a_long_number_as_it_is(
    read: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All readers of answers round a long number before they convert it."""
    rounded: list[int] = []
    round_it = values._rounded  # what is tested is that it is called

    def noting(text: str) -> Decimal:
        rounded.append(len(text))
        return round_it(text)

    monkeypatch.setattr(values, "_rounded", noting)
    read(LONG)

    assert rounded == [len(LONG)]
    assert len(LONG) > MAX_EXACT_CHARACTERS
