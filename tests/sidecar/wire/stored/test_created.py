"""The ids that an answer names: of one object, and of the events of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.wire.stored.created import MAX_CREATED_ITEMS, CreatedIds


def test_stream_names_its_response_twice() -> None:
    """The first event names the response and its conversation, the terminal one the items too; nothing is lost between."""
    created = CreatedIds()
    first = {"id": "resp_1", "conversation": {"id": "conv_1"}, "output": []}
    created.note_event(json.dumps({"type": "response.created", "response": first, "sequence_number": 0}).encode())
    assert (created.response, created.conversation, created.items) == ("resp_1", "conv_1", ())
    last = {"id": "resp_1", "output": [{"id": "rs_1", "type": "reasoning"}, {"id": "msg_1"}], "usage": {}}
    created.note_event(json.dumps({"type": "response.completed", "response": last}).encode())
    assert (created.response, created.conversation, created.items) == ("resp_1", "conv_1", ("rs_1", "msg_1"))


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1", "more": 1}])
def test_whole_answer_names_its_ids(conversation: Any) -> None:
    """A whole answer has the same fields at its top; a conversation may be a string or an object."""
    created = CreatedIds()
    created.note_answer(json.dumps({"id": "resp_1", "conversation": conversation, "output": [{"id": "m"}]}).encode())
    assert (created.response, created.conversation, created.items) == ("resp_1", "conv_1", ("m",))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"id":7}', b'{"id":"a/b"}', b'{"id":"' + b"x" * 600 + b'"}', b"[" * 100_000, b'{"id":null}'],
)  # fmt: skip
def test_faulty_answers_name_nothing(body: bytes) -> None:
    """Faulty JSON, other types and ids that no request can name are left out."""
    created = CreatedIds()
    created.note_answer(body)
    created.note_event(b'{"response":' + body + b"}")
    assert (created.response, created.conversation, created.items) == ("", "", ())


def test_items_are_bounded() -> None:
    """The first 200 items are kept, up to a faulty one; those without an id are left out."""
    created = CreatedIds()
    output: list[Any] = [{"type": "x"}, *({"id": f"i{at}"} for at in range(1_000))]
    created.note_answer(json.dumps({"id": "r", "output": output}).encode())
    assert len(created.items) == MAX_CREATED_ITEMS - 1
    created.note_answer(b'{"id":"r","output":[{"id":"a"},7,{"id":"b"}]}')
    assert created.items == ("a",)
