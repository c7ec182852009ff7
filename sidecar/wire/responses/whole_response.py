"""Read a whole answer of the Responses API in steps, and write it as a stream."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from policies.api.decoding.values import decode_forwarded
from sidecar.wire.decoding.repair import repaired
from sidecar.wire.decoding.steps import utf8_steps, values_steps
from sidecar.wire.decoding.value_count import LARGE_EVENT_BYTES, MAX_EVENT_VALUES
from sidecar.wire.whole_answer import MAX_ANSWER_VALUES, AnswerTooComplex

from .events.closing_events import encoded_event, streamed_response
from .events.response_event import ReadItem, event_of_object
from .events.response_object import ResponseObject, error_in, read_response

if TYPE_CHECKING:
    from sidecar.wire.error_object import MalformedAnswer


class WholeResponse(NamedTuple):
    """An answer: what is used of it, its JSON, its bytes for clients, and the error that it is instead."""

    response: ResponseObject
    payload: bytes
    body: bytes
    failure: dict[str, Any] | MalformedAnswer | None


def whole_response_steps(body: bytes) -> Generator[None, None, WholeResponse]:
    """Read *body*, with U+FFFD for bad UTF-8.  Raises `AnswerTooComplex`, or `ValueError` unless it is a JSON object."""
    if not body.isascii():
        body = yield from utf8_steps(body)
    if len(body) > LARGE_EVENT_BYTES:
        values = yield from values_steps(body, MAX_ANSWER_VALUES)
        if values > MAX_ANSWER_VALUES:
            msg = f"the answer has more than {MAX_ANSWER_VALUES} values"
            raise AnswerTooComplex(msg)
        yield
    response, payload = repaired(body, read_response)
    return WholeResponse(response, payload, body, error_in(response, payload))


def streamed_items(answer: WholeResponse) -> Generator[None, None, list[ReadItem]]:
    """Return the events of a stream with *answer*, in steps; raises `AnswerTooComplex` where it has too many values."""
    values = yield from values_steps(answer.payload, MAX_EVENT_VALUES)
    if values > MAX_EVENT_VALUES:
        msg = f"the answer, which came as one object instead of a stream, has more than {MAX_EVENT_VALUES} values"
        raise AnswerTooComplex(msg)
    items: list[ReadItem] = []
    size = 0
    for fields in streamed_response(decode_forwarded(answer.payload)):
        raw, payload = encoded_event(fields)
        items.append((event_of_object(fields), raw, payload))
        size += len(raw)
        if size > LARGE_EVENT_BYTES:
            size = 0
            yield
    return items
