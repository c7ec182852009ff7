"""Decode the events of Anthropic's streams, and the blocks of its answers: only the fields that are used, of any type.

Sources: `types/raw_message_stream_event.py` and `types/beta` of anthropic 2.14; the servers of llama.cpp, vLLM, SGLang and
Ollama send a part of these events.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from policies.api.decoding.token_counts import is_label, least_tokens, streamed_tokens, value_tokens
from policies.api.decoding.values import decode_values
from sidecar.wire.chunk import decode_object, has_content
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, one_line
from sidecar.wire.decoding.repair import repaired
from sidecar.wire.decoding.value_count import holds_many_values
from sidecar.wire.output_tokens import NO_OUTPUT, CountedOutput
from sidecar.wire.usage_fields import Reported, read_report

from .usage_reports import MessageUsage

MAX_BLOCKS = 1_024
"""A block of an answer with an index from here on is counted as block 0."""
DATA_BYTES_PER_TOKEN = 16
"""Bytes per token of a block that is too large to be read."""
BLOCK_START, BLOCK_DELTA, BLOCK_STOP = "content_block_start", "content_block_delta", "content_block_stop"
MESSAGE_START, MESSAGE_DELTA, MESSAGE_STOP = "message_start", "message_delta", "message_stop"
PING_EVENT_TYPE, ERROR_EVENT = "ping", "error"
KNOWN_TYPES = frozenset(
    {BLOCK_START, BLOCK_DELTA, BLOCK_STOP, MESSAGE_START, MESSAGE_DELTA, MESSAGE_STOP, PING_EVENT_TYPE, ERROR_EVENT}
)
NOT_GENERATED = frozenset({"signature_delta", "citations_delta"})
"""Kinds of deltas that no model writes: a signature of thinking, and quotations of the prompt, which cost nothing."""
RESULT_ENDING = "_tool_result"
"""End of the types of blocks with the result of a tool that the server ran."""
_NO_JSON = msgspec.Raw()

BlockIndex = Annotated[int, msgspec.Meta(ge=0, lt=MAX_BLOCKS)]


class BlockDelta(msgspec.Struct, gc=False):
    """The `delta` of a block, or of the message."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class Block(msgspec.Struct, gc=False):
    """A block of `content`, or the one with which a streamed block starts."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    input: msgspec.Raw = _NO_JSON

    @property
    def is_tool(self) -> bool:
        """Whether it calls a tool: of the client, of the server, or of an MCP server."""
        return self.type.endswith("tool_use")


class Started(msgspec.Struct, gc=False):
    """The `message` of `message_start`."""

    usage: MessageUsage | None = None
    content: msgspec.Raw = _NO_JSON


class StreamEvent(msgspec.Struct, gc=False):
    """One event of a stream."""

    type: str = ""
    index: BlockIndex = 0
    delta: BlockDelta | None = None
    content_block: msgspec.Raw = _NO_JSON
    message: Started | None = None
    usage: MessageUsage | None = None
    error: msgspec.Raw = _NO_JSON


RawEvent: TypeAlias = tuple[StreamEvent, bytes, bytes]
"""An event whose `Event` is not built yet: what was decoded of it, its bytes, its JSON."""


decode_message_event = msgspec.json.Decoder(StreamEvent).decode
"""Decode one event.  A builtin, because it is called for every token; `read_message_event` reads what it refuses."""
_decode_block = msgspec.json.Decoder(Block).decode


def named_event(name: str, payload: bytes) -> bytes:
    """Return *payload* as a server-sent event with the *name* of its type, which Anthropic's SDKs need."""
    return b"event: " + name.encode() + b"\ndata: " + one_line(payload) + b"\n\n"


STOP_EVENT = named_event(MESSAGE_STOP, b'{"type":"message_stop"}')
"""The end of a stream that upstream has not ended itself."""


def read_message_event(payload: bytes) -> tuple[StreamEvent, bytes]:
    """Return the event in *payload*, and *payload* as valid JSON; a field of an unexpected type is read as absent.

    Raises `ValueError` unless *payload* is a JSON object.
    """
    return repaired(payload, _read)


def _read(payload: bytes) -> StreamEvent:
    try:
        return decode_message_event(payload)
    except DECODE_FAULTS:
        data = decode_object(payload)
    message = data.get("message")
    started = None
    if isinstance(message, dict):
        started = Started(_usage(message.get("usage")), _raw(message.get("content")))
    return StreamEvent(
        type=_text(data.get("type")) or "",
        index=block_index(data.get("index")),
        delta=delta_of(data.get("delta")),
        content_block=_raw(data.get("content_block")),
        message=started,
        usage=_usage(data.get("usage")),
        error=_raw(data.get("error")),
    )


def block_index(value: object) -> int:
    """Return the index of a block that upstream sent as *value*; 0 for an impossible one."""
    return value if type(value) is int and 0 <= value < MAX_BLOCKS else 0


def delta_of(data: object) -> BlockDelta | None:
    """Return the delta in decoded JSON; None where it is no object."""
    if not isinstance(data, dict):
        return None
    return BlockDelta(
        **{name: _text(data.get(name)) for name in BlockDelta.__struct_fields__[1:]}, type=_text(data.get("type")) or ""
    )


def block_of(raw: msgspec.Raw) -> Block:
    """Return the block in *raw*, which may be of any shape."""
    try:
        return _decode_block(raw)
    except DECODE_FAULTS:
        pass
    try:
        data: Any = {} if holds_many_values(bytes(raw)) else decode_values(raw)
    except DECODE_FAULTS:
        data = {}
    if isinstance(data, str):
        return Block(type="text", text=data)
    if not isinstance(data, dict):
        return Block()
    texts = {name: _text(data.get(name)) for name in ("text", "thinking", "name")}
    return Block(type=_text(data.get("type")) or "", input=_raw(data.get("input")), **texts)


def usage_in(raw: msgspec.Raw) -> MessageUsage | None:
    """Return the usage in *raw*; None where it is none."""
    try:
        return _usage(decode_values(raw)) if len(raw) else None
    except DECODE_FAULTS:
        return None


def _usage(value: object) -> MessageUsage | None:
    if not isinstance(value, dict) or (own := read_report(value)) is None:
        return None
    listed = value.get("iterations")
    parts = [read_report(each) for each in listed] if isinstance(listed, list) else []
    fields = {name: getattr(own, name) for name in Reported.__struct_fields__}
    return MessageUsage(**fields, iterations=[part for part in parts if part is not None] or None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value)) if value else _NO_JSON


def output_of_delta(event: StreamEvent, payload: bytes) -> CountedOutput:
    """Return the output of a delta of a block. Called for each piece that is not short text."""
    delta = event.delta
    texts = [] if delta is None else [each for each in (delta.text, delta.thinking, delta.partial_json) if each]
    if texts:
        return CountedOutput(sum(map(streamed_tokens, texts)), sum(map(least_tokens, texts)))
    if (
        delta is None
        or delta.type in NOT_GENERATED
        or delta.type in ("text_delta", "thinking_delta", "input_json_delta")
    ):
        return NO_OUTPUT
    return output_of_unknown(payload, "delta")


def output_of_block(raw: msgspec.Raw, *, whole: bool) -> CountedOutput:
    """Return the output in a block: of a *whole* answer, or at the start of a streamed one, where it is often empty."""
    block = block_of(raw)
    texts = [each for each in (block.text, block.thinking) if each]
    tokens = sum(streamed_tokens(each, whole=whole) for each in texts)
    least = sum(least_tokens(each, whole=whole) for each in texts)
    if block.is_tool:
        size = len(block.input) if has_content(block.input) else 0
        return CountedOutput(tokens + 1 + (len(block.name or "") + size) // 4, least + 1)
    if tokens or block.type in ("text", "thinking"):
        return CountedOutput(tokens, least)
    if holds_many_values(bytes(raw)):
        return CountedOutput(len(raw) // DATA_BYTES_PER_TOKEN, 1)
    return CountedOutput(_tokens_beside_labels(raw), 0 if block.type.endswith(RESULT_ENDING) else 1)


def output_of_unknown(payload: bytes, field: str = "") -> CountedOutput:
    """Return the output in an event of an unknown type, or in its *field*: what is not understood counts by its values."""
    try:
        data: Any = decode_values(payload)
    except DECODE_FAULTS:
        return CountedOutput(len(payload) // DATA_BYTES_PER_TOKEN, 1)
    tokens = value_tokens(data.get(field) if field else {key: each for key, each in data.items() if not is_label(key)})
    return CountedOutput(tokens, min(tokens, 1))


def _tokens_beside_labels(raw: msgspec.Raw) -> int:
    try:
        return value_tokens(decode_values(raw))
    except DECODE_FAULTS:
        return len(raw) // DATA_BYTES_PER_TOKEN
