"""Read and replace the model in the JSON body of a relayed request, whose other fields stay as they were sent."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.wire.decoding.own_choice import DECODE_FAULTS, decode_fields
from sidecar.wire.request.routing_fields import RoutingField, is_routing_name

MAX_TOP_LEVEL_FIELDS = 1_000
MAX_NAME_BYTES = 4_096
NAME_FIELDS = ("model", "user")
"""Fields of text that limits read."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonFields:
    """The fields of one JSON object; the values stay JSON. Decoded from *raw* once.

    Of several fields with one name the last counts, and `encoded` has only that one: servers differ in which they read.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, msgspec.Raw]) -> None:
        self._fields = fields

    @classmethod
    def of(cls, raw: bytes) -> JsonFields | None:
        """Return the fields of the object in *raw*; None for anything else."""
        try:
            return cls(decode_fields(raw.removeprefix(_BYTE_ORDER_MARK)))
        except DECODE_FAULTS:
            return None

    def texts(self) -> dict[str, Any]:
        """Return those of `NAME_FIELDS` that are text, for the body of a call."""
        return {name: value for name in NAME_FIELDS if (value := self._text(name)) is not None}

    def _text(self, name: str) -> str | None:
        raw = self._fields.get(name)
        if raw is None or len(raw) > MAX_NAME_BYTES:
            return None
        try:
            return msgspec.json.decode(raw, type=str)
        except DECODE_FAULTS:
            return None

    def check(self) -> None:
        """Raise `RoutingField` for a field that could choose another model or a server than `model` does.

        Another case of `model` is one: servers in Go ignore it. Fields of objects in the body are not read.
        """
        if len(self._fields) > MAX_TOP_LEVEL_FIELDS:
            raise RoutingField("body", f"has more than {MAX_TOP_LEVEL_FIELDS} fields")
        for name, raw in self._fields.items():
            if name != "model" and is_routing_name(name) and bytes(memoryview(raw)[:4]) not in (b"null", b"[]"):
                raise RoutingField(name, "may choose a model, a server or a key")
        if "model" in self._fields and self._text("model") is None:
            raise RoutingField("model", "is not the name of a model")

    def encoded(self, model: str | None = None) -> bytes:
        """Return the object as JSON, with *model* in place of its own."""
        fields: dict[str, Any] = self._fields if model is None else {**self._fields, "model": model}
        return msgspec.json.encode(fields)
