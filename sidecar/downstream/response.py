"""Responses to clients: Chat Nest's events, OpenAI's stream, or one JSON object.

A response knows whether its head has been written; until then a failure is a response of its own with a true status, from
then on the last event of the stream. Each write holds whole events, so a ping is always between two events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from sidecar.wire.limit_headers import Header, limit_headers
from sidecar.wire.sse_writer import DONE_EVENT, PING_EVENT, START_EVENT, token_event

from .client_connection import Head
from .client_errors import chat_event, error_for_rejection
from .refusal_form import EVENT_STREAM_HEADERS, JSON_HEADER, named_error
from .upstream_failures import empty_answer, output_exhausted

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.event import Batch, Event
    from policies.api.lease import Lease
    from policies.engine.call_control import CallControl
    from sidecar.wire.operations.operation import Operation

    from .client_connection import ClientConnection
    from .client_errors import ClientError
    from .refusal_form import RefusalForm

CEILING_FINISHES = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
"""Finish reasons, in lower case, of an answer that reached its ceiling: OpenAI, Anthropic and Gemini, Mistral."""
FILTER_FINISHES = frozenset({"content_filter", "safety"})


class ClientResponse(ABC):
    """One response to one client; the chain's `BatchSink` and the heartbeat's `PingTarget`."""

    sends_start_event: ClassVar[bool] = False
    """Whether it writes an event when its call is `admitted`."""

    def __init__(
        self,
        connection: ClientConnection,
        request_id: str,
        *,
        operation: Operation,
        refusals: RefusalForm,
        clock: Callable[[], float],
    ) -> None:
        self._connection, self._request_id = connection, request_id
        self._operation, self._refusals, self._clock = operation, refusals, clock
        self.last_sent_at = clock()
        self.call: Call | None = None
        self.control: CallControl | None = None
        self.last_lease: Lease | None = None
        """Settled before the last batch is written, after the leases of the policies."""
        self.error: ClientError | None = None
        """The error that ended a complete answer, because the client's protocol cannot express it."""
        self.closing = False
        """Whether the server is draining: the connection is not kept."""
        self.ended = False

    def admitted(self) -> None:  # noqa: B027  # most forms have nothing to write yet
        """Note that the call holds its reservation. Called once."""

    @abstractmethod
    def write_nowait(self, batch: Batch) -> bool:
        """Write one batch; the last one ends the response. See `BatchSink.write_nowait`."""

    async def drain(self) -> None:
        """See `BatchSink.drain`."""
        await self._connection.drain()

    def fail(self, error: ClientError) -> None:
        """End the response with *error*, as a response of its own. No effect on one that has ended."""
        if not self.ended:
            self.ended = True
            write_error(self._connection, error, self._headers(), self._refusals)

    def ping(self) -> None:  # noqa: B027  # one JSON object cannot have one
        """Write a ping, if the form of the response has one and the connection has room."""

    def _headers(self, *headers: Header) -> list[Header]:
        head = [*headers, (b"x-request-id", self._request_id.encode())]
        if self._operation.names_request_id:
            head.append((b"request-id", self._request_id.encode()))
        if (call := self.call) is not None:
            head += call.upstream_headers
            if call.standings:
                head += limit_headers(call.standings, call.services.clock())
        if self.closing:
            head.append((b"connection", b"close"))
        return head


class JSONResponse(ClientResponse):
    """One JSON object as upstream sent it. Nothing is written before it is complete, so its status is always true."""

    def write_nowait(self, batch: Batch) -> bool:
        """Write the object."""
        self.ended = True
        write_whole(self._connection, 200, self._headers(JSON_HEADER), batch.raw)
        return True


class EventStreamResponse(ClientResponse):
    """A stream of events. A subclass encodes them."""

    @property
    def ping_event(self) -> bytes:
        """The heartbeat."""
        return self._operation.ping

    @abstractmethod
    def _encoded(self, batch: Batch) -> bytes:
        """Return the events of a batch, and the end of the stream behind the last one."""

    @abstractmethod
    def _error_events(self, error: ClientError) -> bytes:
        """Return the events that end a stream which failed."""

    def write_nowait(self, batch: Batch) -> bool:
        """Write one batch; the first brings the head, the last one the end."""
        body, last = self._encoded(batch), batch.last
        if (body or last) and not self.ended:
            self._write(body, more=not last)
        return not self._connection.full

    def fail(self, error: ClientError) -> None:
        """End with *error*: as a response of its own if nothing was written yet, else as the last event."""
        if self._connection.status and not self.ended:
            self._write(self._error_events(error), more=False)
        else:
            super().fail(error)

    def ping(self) -> None:
        """Write a ping."""
        if not self.ended and not self._connection.full:
            self._write(self.ping_event, more=True)

    def _write(self, body: bytes, *, more: bool) -> None:
        connection = self._connection
        head = None if connection.status else Head(200, self._headers(*EVENT_STREAM_HEADERS))
        self.ended = not more
        connection.write_nowait(head, body, more=more)
        self.last_sent_at = self._clock()


class ChatNestResponse(EventStreamResponse):
    """`start` when the call is admitted, then a `token` for each piece of text, then `done` or `error`.

    Chat Nest's events have no choice index: of several choices that upstream sends unasked, the first with text is shown.
    A complete answer without text ends with `error`, unless it has other output than reasoning, such as a tool call.
    """

    ping_event = PING_EVENT
    sends_start_event = True
    _index = -1
    _has_answer = False
    """Whether there was other output than text and reasoning."""
    _has_reasoning = False
    _finish = ""

    def admitted(self) -> None:
        """Write the head and `start`."""
        self._write(START_EVENT, more=True)

    def ping(self) -> None:
        """Write a ping, but never before `start`: until then a refusal keeps its status."""
        if self._connection.status:
            super().ping()

    def _encoded(self, batch: Batch) -> bytes:
        tokens = []
        for event in batch.events:
            if text := event.text:
                if self._index < 0:
                    self._index = event.index
                if event.index == self._index:
                    tokens.append(token_event(text))
            elif self._index < 0:
                self._note_without_text(event)
        body = b"".join(tokens)
        if not batch.last:
            return body
        return body + (self._end() if batch.refusal is None else chat_event(error_for_rejection(batch.refusal)))

    def _note_without_text(self, event: Event) -> None:
        """Note the reasoning, the finish and other output of *event*, while no text has been sent."""
        if event.reasoning:
            self._has_reasoning = True
        self._finish = event.finish or self._finish
        self._has_answer = self._has_answer or event.tool or (not event.reasoning and event.has_answer)

    def _end(self) -> bytes:
        """Return the event that ends a complete answer."""
        if self._index >= 0 or self._has_answer:
            return DONE_EVENT
        finish = self._finish.lower()
        if finish in CEILING_FINISHES:
            outcome = None if self.control is None else self.control.outcome
            self.error = output_exhausted(0 if outcome is None else outcome.usage.each[-1].output)
        elif finish in FILTER_FINISHES:
            self.error = empty_answer("The answer was withheld by a content filter.")
        elif self._has_reasoning:
            self.error = empty_answer("The model ended its answer after reasoning, without any text.")
        else:
            self.error = empty_answer()
        return chat_event(self.error)

    def _error_events(self, error: ClientError) -> bytes:
        return chat_event(error)


class OpenAIResponse(EventStreamResponse):
    """The events of upstream, as they came, in the form of the API."""

    _written = b""
    """The last batch with output."""

    def _encoded(self, batch: Batch) -> bytes:
        raw = batch.raw
        self._written = raw or self._written
        return raw + self._operation.stream_end if batch.last else raw

    def _error_events(self, error: ClientError) -> bytes:
        fields = named_error(error, self._operation, self._request_id)
        return self._operation.error_events(fields, error.status, self._written)


def write_error(connection: ClientConnection, error: ClientError, headers: list[Header], form: RefusalForm) -> None:
    """Write *error* as a response of its own, in the *form* of its path."""
    encoded = form.encoded(error, dict(headers).get(b"x-request-id", b"").decode())
    write_whole(connection, encoded.status, [*headers, *encoded.headers], encoded.body)


def write_whole(connection: ClientConnection, status: int, headers: list[Header], body: bytes) -> None:
    """Write a response whose body is complete."""
    connection.write_nowait(Head(status, [*headers, (b"content-length", b"%d" % len(body))]), body, more=False)
