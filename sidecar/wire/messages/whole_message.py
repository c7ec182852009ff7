"""Read an answer of the Messages API that came as one JSON object, and turn it into events for a client that streams."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.wire.chunk import Chunk, has_content
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, decode_fields, is_object, one_line
from sidecar.wire.decoding.repair import repaired
from sidecar.wire.decoding.steps import utf8_steps, values_steps
from sidecar.wire.decoding.value_count import LARGE_EVENT_BYTES, holds_many_values
from sidecar.wire.error_object import MalformedAnswer, decode_error, find_error
from sidecar.wire.whole_answer import MAX_ANSWER_VALUES, AnswerTooComplex, first_items

from .stream_event import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    MESSAGE_DELTA,
    MESSAGE_START,
    MESSAGE_STOP,
    Block,
    BlockDelta,
    RawEvent,
    StreamEvent,
    block_of,
    delta_of,
    named_event,
    usage_in,
)
from .usage_reports import MessageUsage

MAX_REPORT_BYTES = 65_536
_NO_JSON = msgspec.Raw()
EMPTY_VALUES = {"text": b'""', "thinking": b'""', "signature": b'""', "input": b"{}"}
"""Fields of a block that its start has empty, with their empty values: deltas follow."""


class _Fields(msgspec.Struct, gc=False):
    """The fields of a message that are used."""

    id: msgspec.Raw = _NO_JSON
    role: msgspec.Raw = _NO_JSON
    model: msgspec.Raw = _NO_JSON
    type: msgspec.Raw = _NO_JSON
    content: msgspec.Raw = _NO_JSON
    stop_reason: msgspec.Raw = _NO_JSON
    stop_sequence: msgspec.Raw = _NO_JSON
    usage: msgspec.Raw = _NO_JSON
    error: msgspec.Raw = _NO_JSON


class WholeMessage(NamedTuple):
    """A message: its blocks, its JSON, its bytes for clients, which may have `NaN`, and its error instead of a message."""

    payload: bytes
    body: bytes
    blocks: Sequence[msgspec.Raw] = ()
    stop_reason: str = ""
    usage: MessageUsage | None = None
    error: dict[str, Any] | MalformedAnswer | None = None

    @property
    def is_large(self) -> bool:
        """Whether each of its blocks is read in a step of its own."""
        return len(self.payload) > LARGE_EVENT_BYTES


_decode_message = msgspec.json.Decoder(_Fields).decode


def whole_message_steps(body: bytes) -> Generator[None, None, WholeMessage]:
    """Read *body*, with U+FFFD for bad UTF-8. Raises `AnswerTooComplex`, or `ValueError` unless it is a message or an error."""
    if not body.isascii():
        body = yield from utf8_steps(body)
    if len(body) > LARGE_EVENT_BYTES:
        if (yield from values_steps(body, MAX_ANSWER_VALUES)) > MAX_ANSWER_VALUES:
            msg = f"the answer has more than {MAX_ANSWER_VALUES} values"
            raise AnswerTooComplex(msg)
        yield
    found, payload = repaired(body, _read)
    yield
    if has_content(found.error):
        return WholeMessage(payload, body, error=decode_error(payload) or {"message": ""})
    if not len(found.content):
        if (error := find_error(Chunk(), payload)) is not None:
            return WholeMessage(payload, body, error=error)
        return WholeMessage(payload, body, error=MalformedAnswer("the answer has no content"))
    is_list = bytes(memoryview(found.content)[:1]) == b"["
    blocks = first_items(found.content) if is_list else [found.content]
    usage = usage_in(found.usage) if is_object(found.usage) and len(found.usage) <= MAX_REPORT_BYTES else None
    return WholeMessage(payload, body, blocks, _word(found.stop_reason), usage)


def _read(payload: bytes) -> _Fields:
    try:
        return _decode_message(payload)
    except DECODE_FAULTS as error:
        msg = "not a JSON object"
        raise ValueError(msg) from error


def _word(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except DECODE_FAULTS:
        return ""


def stream_items(message: WholeMessage) -> Generator[None, None, list[RawEvent]]:
    """Return the events of *message*."""
    fields = message_fields(message.payload)
    yield
    usage = fields.get("usage", msgspec.Raw(b'{"input_tokens":0,"output_tokens":0}'))
    null, reason = msgspec.Raw(b"null"), fields.get("stop_reason", msgspec.Raw(b'"end_turn"'))
    sequence = fields.get("stop_sequence", null)
    start = {**fields, "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}
    items = [_item(StreamEvent(MESSAGE_START), {"message": start})]
    for at, raw in enumerate(message.blocks):
        items += _block_items(raw, at)
        if message.is_large:
            yield
    delta = BlockDelta(stop_reason=message.stop_reason or "end_turn")
    ending = {"delta": {"stop_reason": reason, "stop_sequence": sequence}, "usage": usage}
    items.append(_item(StreamEvent(MESSAGE_DELTA, delta=delta), ending))
    return [*items, _item(StreamEvent(MESSAGE_STOP), {})]


def message_fields(payload: bytes) -> dict[str, Any]:
    """Return the fields of the message in *payload* as JSON: all, or those of `_Fields` where it may have a million others."""
    if not holds_many_values(payload):
        return dict(decode_fields(payload))
    found = msgspec.structs.asdict(_decode_message(payload))
    return {name: raw for name, raw in found.items() if len(raw)}


def _block_items(raw: msgspec.Raw, at: int) -> list[RawEvent]:
    block = block_of(raw)
    deltas = _deltas(block, raw)
    shown: object = raw
    if not is_object(raw):
        shown = {"type": "text", "text": ""}
    elif deltas:
        emptied = {name: msgspec.Raw(EMPTY_VALUES[name]) for name in EMPTY_VALUES if block.is_tool or name != "input"}
        fields = decode_fields(raw)
        shown = {**fields, **{name: value for name, value in emptied.items() if name in fields}}
    begin = StreamEvent(BLOCK_START, at, content_block=msgspec.Raw(msgspec.json.encode(shown)))
    items = [_item(begin, {"index": at, "content_block": shown})]
    items += [_item(StreamEvent(BLOCK_DELTA, at, delta_of(each)), {"index": at, "delta": each}) for each in deltas]
    return [*items, _item(StreamEvent(BLOCK_STOP, at), {"index": at})]


def _deltas(block: Block, raw: msgspec.Raw) -> list[dict[str, str]]:
    """Return the deltas of a block that is text, thinking or a call of a tool; none for another one."""
    if block.type == "text" and block.text:
        return [{"type": "text_delta", "text": block.text}]
    if block.type == "thinking" and is_object(raw):
        signature = _word(decode_fields(raw).get("signature", _NO_JSON))
        return [
            {"type": "thinking_delta", "thinking": block.thinking or ""},
            {"type": "signature_delta", "signature": signature},
        ]
    if block.is_tool and len(block.input):
        return [{"type": "input_json_delta", "partial_json": bytes(block.input).decode()}]
    return []


def _item(event: StreamEvent, fields: dict[str, object]) -> RawEvent:
    payload = one_line(msgspec.json.encode({"type": event.type, **fields}))
    return event, named_event(event.type, payload), payload
