"""One sample of what a server sends: its fields, where they come from, and which text in it the model has generated."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One event, chunk or answer of an API."""

    kind: str
    """Class of the vendor's SDK that reads it, or what distinguishes it from the other samples of this class."""
    source: str
    """`types of …`: fields as the SDK's types define them, values made up; `recorded …`: copied from there."""
    fields: dict[str, Any]
    output: str = ""
    """The part that the model has generated and that this event adds: what a counter of output must count."""

    def __str__(self) -> str:
        return self.kind


def named_event(fields: dict[str, Any]) -> bytes:
    """Return *fields* as a server-sent event whose `event:` line repeats the `type`, as in Responses and Messages."""
    return f"event: {fields['type']}\ndata: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


def data_event(fields: dict[str, Any]) -> bytes:
    """Return *fields* as a server-sent event of `data:` alone, as in completions."""
    return f"data: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()
