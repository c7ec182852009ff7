"""The forms in which a client gets an error before its response has started."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS

from .client_errors import (
    CLIENT_ERROR_STATUSES,
    METHOD_NOT_ALLOWED,
    chat_body,
    chat_refusal_event,
    chat_status,
    openai_error,
)

if TYPE_CHECKING:
    from sidecar.wire.limit_headers import Header
    from sidecar.wire.operations.operation import Operation

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


class RefusalForm(ABC):
    """How the errors of one route are sent before the response has started."""

    @abstractmethod
    def encoded(self, error: ClientError, request_id: str = "") -> EncodedError:
        """Return *error* of the request *request_id* in this form."""


class OperationRefusals(RefusalForm):
    """A true status, and the error object of the route's API."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def encoded(self, error: ClientError, request_id: str = "") -> EncodedError:
        """See `RefusalForm.encoded`."""
        body = self._operation.error_body(error.status, named_error(error, self._operation, request_id))
        return EncodedError(error.status, (JSON_HEADER, *error.headers), body)


class ChatNestRefusals(RefusalForm):
    """Chat Nest's form.

    *as_events* sends a 4xx as one `error` event under status 200, because Chat Nest's client shows only "HTTP 429" for a
    status. A 5xx keeps its status, because an event is final. The client sends a call with a 5xx again after 1 s and 2 s, when
    the process or the store may be back. A 405 keeps it too, because it answers no call.
    """

    def __init__(self, *, as_events: bool) -> None:
        self._as_events = as_events

    def encoded(self, error: ClientError, request_id: str = "") -> EncodedError:
        """See `RefusalForm.encoded`."""
        status = chat_status(error)
        if self._as_events and status in CLIENT_ERROR_STATUSES and status != METHOD_NOT_ALLOWED:
            return EncodedError(200, EVENT_STREAM_HEADERS, chat_refusal_event(error))
        return EncodedError(status, (JSON_HEADER, *error.headers), chat_body(error))


def named_error(error: ClientError, operation: Operation, request_id: str) -> dict[str, Any]:
    """Return OpenAI's object of *error*, with the request id where errors of the *operation* have it."""
    fields = openai_error(error)
    if operation.names_request_id and request_id:
        fields["request_id"] = request_id
    return fields


OPENAI_REFUSALS = OperationRefusals(CHAT_COMPLETIONS)
"""OpenAI's form: also that of paths that are not served."""
