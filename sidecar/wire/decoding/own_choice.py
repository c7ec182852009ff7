"""Take one choice out of the JSON of several, and change single fields of it, without decoding the rest."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

COPIED_FIELDS = ("id", "object", "created", "model", "system_fingerprint")
"""Fields that all chunks of one answer have in common."""
MAX_COPIED_BYTES = 512
"""Bytes of such a field; a longer one is not copied."""
MAX_REPEATED_BYTES = 262_144
DECODE_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not as expected."""


class _Listed(msgspec.Struct, gc=False):
    choices: list[msgspec.Raw]


_BREAKS_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")
_decode_listed = msgspec.json.Decoder(_Listed).decode
decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Decode the names of an object's fields; the values stay JSON."""
_CopiedFields = msgspec.defstruct("_CopiedFields", [(name, msgspec.Raw, msgspec.Raw()) for name in COPIED_FIELDS])
_decode_copied = msgspec.json.Decoder(_CopiedFields).decode


def is_object(raw: msgspec.Raw) -> bool:
    """Whether the JSON in *raw* is an object."""
    return bytes(memoryview(raw)[:1]) == b"{"


def one_line(data: bytes) -> bytes:
    """Return JSON *data* without line breaks, which may be between its tokens: a line of an event must not end there."""
    return data.translate(_BREAKS_TO_SPACES) if data.find(b"\n") >= 0 or data.find(b"\r") >= 0 else data


def with_index(payload: bytes, index: int) -> bytes:
    """Return the chunk in *payload* with *index* for its only choice; *payload* itself where it cannot be decoded."""
    try:
        fields = decode_fields(payload)
        choices = [with_field(raw, "index", index) for raw in choice_objects(payload)]
    except DECODE_FAULTS:
        return payload
    return msgspec.json.encode({**fields, "choices": choices})


def with_field(raw: msgspec.Raw, name: str, value: object) -> msgspec.Raw:
    """Return the JSON object in *raw* with *value* for its field *name*."""
    return msgspec.Raw(msgspec.json.encode({**decode_fields(raw), name: value}))


def copied_fields(payload: bytes) -> dict[str, msgspec.Raw]:
    """Return the `COPIED_FIELDS` of the JSON object *payload* that are short; none where it cannot be decoded."""
    try:
        found = _decode_copied(payload)
    except DECODE_FAULTS:
        return {}
    fields = {name: getattr(found, name) for name in COPIED_FIELDS}
    return {name: raw for name, raw in fields.items() if 0 < len(raw) <= MAX_COPIED_BYTES}


def choice_objects(payload: bytes) -> list[msgspec.Raw]:
    """Return the choices of the chunk in *payload* that are objects; raises an error of msgspec where it has no list."""
    return [raw for raw in _decode_listed(payload).choices if is_object(raw)]


def own_payloads(indexes: Sequence[int], payload: bytes) -> list[bytes]:
    """Return for each choice of *payload* a JSON object with that choice alone; *indexes* are their numbers.

    A policy that reads each of them then reads each choice once.  The other fields of *payload* are repeated, but only
    `COPIED_FIELDS` where that would make more than `MAX_REPEATED_BYTES`.
    """
    try:
        found = choice_objects(payload)
        head = copied_fields(payload) if len(payload) * len(indexes) > MAX_REPEATED_BYTES else decode_fields(payload)
        made = [
            msgspec.json.encode({**head, "choices": [with_field(raw, "index", index)]})
            for index, raw in zip(indexes, found, strict=True)
        ]
    except (*DECODE_FAULTS, ValueError):  # no decoded answer gives it
        return [b""] * len(indexes)
    return made
