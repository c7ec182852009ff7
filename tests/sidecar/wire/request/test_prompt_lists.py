"""Token ids of large bodies: which values stay JSON, and how they are counted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.api.requests.request_form import Prompt
from sidecar.wire.operations.completions import COMPLETION_REQUEST
from sidecar.wire.operations.embeddings import EMBEDDING_REQUEST
from sidecar.wire.request.json_body import BYTE_ORDER_MARK, MAX_VALUES
from sidecar.wire.request.openai_request import MAX_ITEMS
from sidecar.wire.request.prompt_lists import MAX_ID_DIGITS, token_id_steps

MANY = b"1," * MAX_VALUES + b"1"
"""More ids than a body may have values."""
FIELDS = ("input", "prompt")


def split(raw: bytes) -> tuple[bytes, dict[str, Any]]:
    steps = token_id_steps(raw, FIELDS)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            rest, ids = end.value
            return rest, {name: bytes(value) for name, value in ids.items()}


@pytest.mark.parametrize(
    "value", [b"[%b]" % MANY, b"[[%b], [ 7\t]\n]" % MANY, b"[1, [%b]]" % MANY.replace(b",", b" , ")]
)
def test_many_token_ids_stay_json(value: bytes) -> None:
    """Ids alone, and lists of them, are left out of the body, whose other fields keep their order."""
    raw = b'{"model": "m", "input": %b, "user": "u"}' % value
    assert split(raw) == (b'{"model":"m","input":null,"user":"u"}', {"input": value})


@pytest.mark.parametrize(
    "value",
    [
        b"[%b, -1]" % MANY,
        b"[%b, 1.0]" % MANY,
        b"[%b, 1e2]" % MANY,
        b"[%b, true]" % MANY,
        b'[%b, "1"]' % MANY,
        b"[[[%b]]]" % MANY,
        b"[ [ [%b] ] ]" % MANY,
        b"[[1], [%b, [1]]]" % MANY,
        b"[%b, %b]" % (MANY, b"1" * (MAX_ID_DIGITS + 1)),
        b"[%b[]]" % (b"[]," * MAX_ITEMS + b"[1],"),
        b'"%b"' % MANY,
        b'{"a": [%b]}' % MANY,
    ],
    ids=lambda value: repr(value[:4] + value[-6:]),
)
def test_all_else_is_read(value: bytes) -> None:
    """A value with anything but plain ids, in lists of one level, is decoded with the body, so that limits hold for it."""
    raw = b'{"input":%b}' % value
    assert split(raw) == (raw, {})


@pytest.mark.parametrize(
    "raw",
    [
        b'{"input":[1,2,3]}',
        b'{"input":[1],"x":[%b]}' % MANY,
        b'{"x":{"input":[%b]}}' % MANY,
        b'{"input":[%b],"x":[%b]}' % (MANY, MANY),
        b'[{"input":[%b]}]' % MANY,
        b'{"input":[%b}' % MANY,
        b'{"input":[%b],"input":"a"}' % MANY,
    ],
    ids=lambda raw: repr(raw[:12] + raw[-6:]),
)
def test_body_that_stays_as_it_is(raw: bytes) -> None:
    """A body of few values, with many in other fields, without ids at its top, or that is not JSON, stays as it is."""
    assert split(raw) == (raw, {})


def test_escaped_and_repeated_names_are_the_same_field() -> None:
    """The last of several values counts, as in all JSON readers, also under an escaped name, and one is sent."""
    raw = BYTE_ORDER_MARK + b'{"input":"a","x":1,"\\u0069nput":[%b]}' % MANY
    assert split(raw) == (b'{"input":null,"x":1}', {"input": b"[%b]" % MANY})


@pytest.mark.parametrize("lists", [[[1, 2, 3]], [[1], [2, 3], [4, 5, 6, 7]], [[5] * 300] * 20])
def test_ids_that_are_not_decoded_are_counted_exactly(lists: list[list[int]]) -> None:
    """Ids, the longest list and the prompts are counted as in decoded lists."""
    raw = msgspec.Raw(msgspec.json.encode(lists))
    assert EMBEDDING_REQUEST.prompt({"input": raw}) == EMBEDDING_REQUEST.prompt({"input": lists})
    assert COMPLETION_REQUEST.prompt({"prompt": raw}) == COMPLETION_REQUEST.prompt({"prompt": lists})
    flat = msgspec.Raw(msgspec.json.encode(lists[-1]))
    assert EMBEDDING_REQUEST.prompt({"input": flat}) == Prompt([], len(lists[-1]), 1, len(lists[-1]))
