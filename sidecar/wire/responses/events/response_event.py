"""Decode one event of a Responses stream: only the fields that are used, of any type.

Facts: `types/responses/response_stream_event.py` of openai 3.54.0 (59 classes), and llama.cpp's server, whose events have neither
`output_index` nor `sequence_number`. Servers add types, so kinds are derived from the name of a type where it is not known.
"""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from policies.api.decoding.token_counts import names_reasoning, value_tokens
from sidecar.wire.chunk import decode_object
from sidecar.wire.decoding.repair import repaired

if TYPE_CHECKING:
    from collections.abc import Mapping

DELTA_ENDING, DONE_ENDING = ".delta", ".done"
TYPE_PREFIX = "response."
ADDED_ITEM, DONE_ITEM = "response.output_item.added", "response.output_item.done"
TEXT_NAME, REFUSAL_NAME = "response.output_text", "response.refusal"
REASONING_NAME, SUMMARY_NAME = "response.reasoning_text", "response.reasoning_summary_text"
ARGUMENTS_NAME, INPUT_NAME = "response.function_call_arguments", "response.custom_tool_call_input"
MCP_ARGUMENTS_NAME, CODE_NAME = "response.mcp_call_arguments", "response.code_interpreter_call_code"
"""Types of events without `.delta` or `.done`."""
TERMINAL_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed"})
ERROR_TYPE = "error"
TEXT_TYPES = frozenset(f"{name}.delta" for name in (TEXT_NAME, REFUSAL_NAME, "response.audio.transcript"))
"""Types of deltas whose text policies read."""
REPEATED_FIELDS = ("text", "refusal", "arguments", "input", "code", "command")
"""Fields in which a `.done` event repeats the deltas of its part."""
SILENT_ENDINGS: tuple[str, ...] = (
    ".added",
    ".created",
    ".queued",
    ".in_progress",
    ".completed",
    ".failed",
    ".incomplete",
    ".cancelled",
    ".searching",
    ".generating",
    ".interpreting",
    ".compacting",
    DONE_ENDING,
)
"""Endings of types that report a state."""
FRAME_FIELDS = frozenset({"type", "sequence_number", "obfuscation", "response", "item", "part", "partial_image_index"})
"""Fields that contain no output of their own. `obfuscation` is padding."""
INDEX_LIMIT = 2**31


class PartKind(Enum):
    """What a delta contains."""

    TEXT = auto()
    REASONING = auto()
    OTHER = auto()


Key: TypeAlias = "int | str | None"
"""An output item: its place in the output, or its id where the server sends no places."""


class ResponseEvent(msgspec.Struct, gc=False):
    """One event."""

    type: str = ""
    delta: str | dict[str, Any] | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    sequence_number: int | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    code: str | None = None
    command: str | None = None
    item: msgspec.Raw | None = None
    part: msgspec.Raw | None = None
    response: msgspec.Raw | None = None
    error: msgspec.Raw | None = None

    @property
    def item_key(self) -> Key:
        """The output item that it belongs to."""
        return self.item_id if self.output_index is None else self.output_index

    @property
    def place(self) -> int:
        """The number of its part in the item."""
        index = self.content_index if self.summary_index is None else self.summary_index
        return index or 0

    @property
    def repeated(self) -> str:
        """The text that a `.done` event repeats; empty without one."""
        found = (getattr(self, field) for field in REPEATED_FIELDS)
        return next((text for text in found if text), "")


ReadItem: TypeAlias = "tuple[ResponseEvent, bytes, bytes]"
"""An event that is not built yet: what is used of it, its bytes, and its JSON."""

decode_event = msgspec.json.Decoder(ResponseEvent).decode
"""Decode one event.  A builtin, because it is called for every token; `read_event` reads what it refuses."""
_RAW_FIELDS = frozenset({"item", "part", "response", "error"})
_NUMBER_FIELDS = frozenset({"output_index", "content_index", "summary_index", "sequence_number"})
_KIND_BY_TYPE: Mapping[str, PartKind] = MappingProxyType(
    {
        **dict.fromkeys(TEXT_TYPES, PartKind.TEXT),
        f"{REASONING_NAME}.delta": PartKind.REASONING,
        f"{SUMMARY_NAME}.delta": PartKind.REASONING,
    }
)


def read_event(payload: bytes) -> tuple[ResponseEvent, bytes]:
    """Return the event in *payload*, and *payload* as valid JSON; a field of an unexpected type is read as absent.

    Raises `ValueError` unless it is a JSON object that can be repaired.
    """
    return repaired(payload, _read)


def _read(payload: bytes) -> ResponseEvent:
    try:
        return decode_event(payload)
    except msgspec.ValidationError:
        data = decode_object(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = "not JSON"
        raise ValueError(msg) from error
    return event_of_object(data)


def event_of_object(data: Mapping[str, Any]) -> ResponseEvent:
    """Return the event in decoded JSON."""
    event = ResponseEvent()
    for field in ResponseEvent.__struct_fields__:
        value = data.get(field)
        if field in _RAW_FIELDS:
            if value is not None:
                setattr(event, field, msgspec.Raw(msgspec.json.encode(value)))
        elif field in _NUMBER_FIELDS:
            if type(value) is int and 0 <= value < INDEX_LIMIT:
                setattr(event, field, value)
        elif isinstance(value, str) or (field == "delta" and isinstance(value, dict)):
            setattr(event, field, value)
    return event


def kind_of(type_name: str) -> PartKind:
    """Return what deltas of the type *type_name* contain."""
    kind = _KIND_BY_TYPE.get(type_name)
    if kind is None:
        kind = PartKind.REASONING if names_reasoning(type_name) else PartKind.OTHER
    return kind


def is_silent(type_name: str) -> bool:
    """Whether events of this type only report a state, or repeat what was sent."""
    return type_name.endswith(SILENT_ENDINGS)


def other_output(payload: bytes) -> int:
    """Estimate the tokens in the fields of an event of an unknown type, or of one with an image; 0 for none."""
    try:
        data = decode_object(payload)
    except ValueError:
        return 0
    return value_tokens({name: value for name, value in data.items() if name not in FRAME_FIELDS})
