"""The forms in which a client gets an error before its response has started."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from .client_errors import (
    CLIENT_ERROR_STATUSES,
    METHOD_NOT_ALLOWED,
    chat_body,
    chat_refusal_event,
    chat_status,
    openai_body,
)

if TYPE_CHECKING:
    from sidecar.wire.limit_headers import Header

    from .client_errors import ClientError

EVENT_STREAM_HEADERS: Sequence[Header] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
JSON_HEADER: Header = (b"content-type", b"application/json")


class EncodedError(NamedTuple):
    """The parts of a response that is an error: its status, the headers that depend on it, its body."""

    status: int
    headers: Sequence[Header]
    body: bytes


class RefusalForm(Enum):
    """How a path's errors are sent before the response has started.

    `CHAT_EVENT` sends a 4xx as one `error` event under status 200, because Chat Nest's client shows only "HTTP 429" for a
    status. A 5xx keeps its status, because an event is final: the client sends such a call again after 1 s and 2 s, when the
    process or the store may be back. A 405 keeps it too, because it answers no call.
    """

    OPENAI = auto()
    CHAT_STATUS = auto()
    CHAT_EVENT = auto()

    def encoded(self, error: ClientError) -> EncodedError:
        """Return *error* in this form."""
        if self is RefusalForm.OPENAI:
            return EncodedError(error.status, (JSON_HEADER, *error.headers), openai_body(error))
        status = chat_status(error)
        if self is RefusalForm.CHAT_EVENT and status in CLIENT_ERROR_STATUSES and status != METHOD_NOT_ALLOWED:
            return EncodedError(200, EVENT_STREAM_HEADERS, chat_refusal_event(error))
        return EncodedError(status, (JSON_HEADER, *error.headers), chat_body(error))
