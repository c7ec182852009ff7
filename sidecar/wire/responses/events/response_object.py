"""Read response objects: of terminal events, and of whole answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.wire.chunk import Chunk, decode_json, decode_object
from sidecar.wire.decoding.own_choice import DECODE_FAULTS
from sidecar.wire.error_object import MAX_ERROR_BYTES, MODEL_FAILED, error_object, error_of_event, find_error
from sidecar.wire.output_tokens import NO_OUTPUT, CountedOutput
from sidecar.wire.usage_fields import Reported, read_report
from sidecar.wire.whole_answer import first_items

from .output_items import counted_item

if TYPE_CHECKING:
    from collections.abc import Generator

LARGE_ITEM_BYTES = 65_536
FAILED_STATUSES = frozenset({"failed", "cancelled"})
_NO_JSON = msgspec.Raw()


class ResponseObject(msgspec.Struct, gc=False):
    """What is used of a response object."""

    status: str = ""
    usage: Reported | None = None
    output: msgspec.Raw = _NO_JSON
    error: msgspec.Raw | None = None
    response: msgspec.Raw | None = None


class _Details(msgspec.Struct, gc=False):
    reason: str | None = None


class _Ended(msgspec.Struct, gc=False):
    incomplete_details: _Details | None = None


_decode_ended = msgspec.json.Decoder(_Ended).decode
_decode_response = msgspec.json.Decoder(ResponseObject).decode


def read_response(raw: bytes | msgspec.Raw) -> ResponseObject:
    """Return the response object in *raw*; a field of an unexpected type is read as absent.

    Raises `ValueError` unless it is a JSON object.
    """
    try:
        return _decode_response(raw)
    except msgspec.ValidationError:
        data = decode_object(bytes(raw))
    except DECODE_FAULTS as error:
        msg = "not a JSON object"
        raise ValueError(msg) from error
    output, failure = data.get("output"), data.get("error")
    status = data.get("status")
    return ResponseObject(
        status=status if isinstance(status, str) else "",
        usage=read_report(data.get("usage")),
        output=msgspec.Raw(msgspec.json.encode(output)) if isinstance(output, list) else _NO_JSON,
        error=None if failure is None else msgspec.Raw(msgspec.json.encode(failure)),
    )


def failure_of(response: ResponseObject) -> dict[str, Any]:
    """Return the error object of a failed response."""
    raw = response.error
    if raw is None:
        return MODEL_FAILED
    if len(raw) > MAX_ERROR_BYTES:
        return error_of_event(bytes(raw))
    try:
        value = decode_json(bytes(raw))
    except ValueError:
        return MODEL_FAILED
    found = error_object(value) if isinstance(value, str | dict | list) and value else None
    return found or MODEL_FAILED


def incomplete_reason(raw: msgspec.Raw | None) -> str:
    """Return why the response in *raw* is incomplete; empty where it is not."""
    try:
        details = None if raw is None else _decode_ended(raw).incomplete_details
    except DECODE_FAULTS:
        return ""
    return "" if details is None else details.reason or ""


def error_in(response: ResponseObject, payload: bytes) -> dict[str, Any] | None:
    """Return the error object of a whole answer, or of an event without a type; None where it is none."""
    if response.status in FAILED_STATUSES:
        return failure_of(response)
    if len(response.output):
        return None
    return find_error(Chunk(usage=response.usage, error=response.error), payload)


def without_envelope(error: dict[str, Any]) -> dict[str, Any]:
    """Return the *error* of an `error` event without the fields of the event."""
    fields = {name: value for name, value in error.items() if name not in ("sequence_number", "event_id")}
    if fields.get("type") == "error":
        del fields["type"]
    return fields


def counted_output(response: ResponseObject) -> Generator[None, None, CountedOutput]:
    """Count the items of *response*, in steps of some milliseconds; raises `AnswerTooComplex` for too many."""
    counted = NO_OUTPUT
    for raw in first_items(response.output) if len(response.output) else ():
        counted = counted.plus(counted_item(raw))
        if len(raw) > LARGE_ITEM_BYTES:
            yield
    return counted
