"""Write the name that a client asked for into the `model` fields of an answer, where the upstream knows the model by another."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from .own_choice import DECODE_FAULTS, decode_fields, is_object

MAX_ECHOED_BYTES = 4_194_304
"""Bytes of an answer, or of one event, up to which its names are replaced.  Measured: 12 ms for as many."""
MAX_HEAD_BYTES = 1_024
"""Bytes of an event up to the end of its name that are remembered, so that the next one need not be decoded."""
NESTED_FIELDS = ("response", "message")
"""Fields of an event with an object that has a `model` too: the Responses API's, and the Messages API's `message_start`."""
_MODEL_FIELD = re.compile(rb'("model"\s*:\s*)("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
"""A key `model` and a string behind it.  Its quotation marks would be escaped within a string."""

_ESCAPED_LETTER = b"\\u006"
"""Begins each letter of `model` that is written as an escape: a key that the expression does not find."""


class _Named(msgspec.Struct, gc=False):
    model: msgspec.Raw = msgspec.Raw()


class _Places(msgspec.Struct, gc=False):
    model: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()


_decode_places = msgspec.json.Decoder(_Places).decode
_decode_named = msgspec.json.Decoder(_Named).decode


class ModelEcho:
    """Replaces the upstream's name of a model by *asked*, the client's.

    With *names*, the client's names by the upstream's, only these are replaced: several models may serve the call.
    """

    __slots__ = ("_asked", "_by_name", "_echoed_head", "_head")

    def __init__(self, asked: str, names: Mapping[str, str] | None = None) -> None:
        self._asked = _written(asked)
        self._head = self._echoed_head = b""
        """The last event up to its only `model`, before and after: the events of one answer begin with the same bytes."""
        self._by_name = None if names is None else {each: _written(name) for each, name in names.items()}

    def payload(self, payload: bytes) -> bytes:
        """Return the JSON of an event or of a whole answer with the client's name; *payload* itself where it has none.

        Only `model` of the object itself and of its `NESTED_FIELDS` is replaced, never one in a message or in arguments.
        All other bytes stay as they are, unless an unusual spelling of the field requires to write its object anew.
        """
        if (head := self._head) and payload.startswith(head) and payload.find(b'"model"', len(head)) < 0:
            return self._echoed_head + payload[len(head) :]
        if len(payload) > MAX_ECHOED_BYTES:
            return payload
        if b'"model"' not in payload:  # an escape can spell the key, too
            return self._rewritten(payload) if b"\\u" in payload else payload
        try:
            places = _decode_places(payload)
            nested = [raw for raw in (places.response, places.message) if len(raw) and is_object(raw)]
            values = [places.model, *(_decode_named(raw).model for raw in nested)]
        except DECODE_FAULTS:
            return payload
        values = [value for value in values if len(value)]
        found = list(_MODEL_FIELD.finditer(payload))
        is_plain = _ESCAPED_LETTER not in payload
        if is_plain and len(found) == len(values) == 1 and found[0][2] == bytes(values[0]):
            start, end = found[0].span(2)
            echoed_head = payload[:start] + self._name_for(payload[start:end])
            if end <= MAX_HEAD_BYTES:
                self._head, self._echoed_head = payload[:end], echoed_head
            return echoed_head + payload[end:]
        return self._rewritten(payload) if values else payload

    def _rewritten(self, payload: bytes) -> bytes:
        """Return *payload* written anew, field by field; the values of other fields keep their bytes."""
        try:
            fields = decode_fields(payload)
            changed = self._changed(fields)
            for name in NESTED_FIELDS:
                if name in fields and is_object(fields[name]):
                    inner = decode_fields(fields[name])
                    if self._changed(inner):
                        fields[name], changed = msgspec.Raw(msgspec.json.encode(inner)), True
        except DECODE_FAULTS:
            return payload
        return msgspec.json.encode(fields) if changed else payload

    def _changed(self, fields: dict[str, msgspec.Raw]) -> bool:
        """Replace `model` in *fields* where it is a string; return whether there was one."""
        value = bytes(fields.get("model", b""))
        if not value.startswith(b'"'):
            return False
        fields["model"] = msgspec.Raw(self._name_for(value))
        return True

    def _name_for(self, written: bytes) -> bytes:
        """Return the name to write in place of *written*, both JSON strings."""
        if self._by_name is None:
            return self._asked
        return self._by_name.get(msgspec.json.decode(written, type=str), written)


def _written(name: str) -> bytes:
    return msgspec.json.encode(name)
