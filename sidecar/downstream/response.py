"""Answers on their way out: Chat Nest's events, OpenAI's stream, or one JSON object.

An answer knows whether its head is out; until then a failure is a plain answer with a true status, from then on the last
event of the stream.  Each writes whole events only, so a ping always falls between two.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import anyio.lowlevel

from policies.api.call import Call
from policies.api.event import Batch
from policies.engine.sink import Sink
from sidecar.wire.limit_headers import Header, limit_headers
from sidecar.wire.sse_writer import DONE_EVENT, OPENAI_DONE_EVENT, OPENAI_PING, PING_EVENT, START_EVENT, token_event

from .client_connection import Head, Outgoing, Straight
from .client_errors import ClientError, chat_body, chat_event, chat_status, openai_body, openai_event

EVENT_STREAM: Sequence[Header] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
JSON: Header = (b"content-type", b"application/json")


class Answer(ABC):
    """One answer to one client.  `quiet_since` and `ping` are the heart's."""

    def __init__(self, out: Outgoing, request_id: str, *, chat_path: bool, clock: Callable[[], float]) -> None:
        self._out, self._request_id, self._chat_path, self._clock = out, request_id, chat_path, clock
        self._straight = out if isinstance(out, Straight) else None
        self.quiet_since = clock()
        self.call: Call | None = None
        self.closing = False
        """The server is going: the connection is not kept."""
        self.lost: Callable[[], object] = _nobody
        """Called when it turns out that the client is gone."""
        self._over = False

    greets: ClassVar[bool] = False
    """Whether it says something when its call is `admitted`."""

    async def admitted(self) -> None:  # noqa: B027  # most forms have nothing to say yet
        """Note that the call holds its reservation.  Once."""

    @abstractmethod
    async def emit(self, batch: Batch) -> None:
        """Send one batch; the last one ends the answer."""

    async def fail(self, fault: ClientError) -> None:
        """End the answer with *fault*, as an answer of its own.  Nothing happens if it has ended."""
        if not self._over:
            self._over = True
            await send_fault(self._out, fault, self._fields(JSON), chat_path=self._chat_path)

    def ping(self) -> None:  # noqa: B027  # one JSON object cannot have one
        """Send a sign of life, where the form of the answer has one."""

    @property
    def sink(self) -> Sink | None:
        """Where batches can be put without waiting; None where they must be awaited."""
        return None

    def _fields(self, *headers: Header) -> list[Header]:
        head = [*headers, (b"x-request-id", self._request_id.encode())]
        if self.call is not None and self.call.standings:
            head += limit_headers(self.call.standings, self.call.services.clock())
        if self.closing:
            head.append((b"connection", b"close"))
        return head


class JSONAnswer(Answer):
    """One JSON object, as it came; nothing is sent before it is whole, so its status is always true."""

    async def emit(self, batch: Batch) -> None:
        """Send the object."""
        self._over = True
        await send_json(self._out, 200, self._fields(JSON), batch.raw)


class EventStream(Answer):
    """A stream of events.  A subclass says how they are written."""

    ping_event: ClassVar[bytes] = OPENAI_PING
    _busy = False
    _pinging: asyncio.Task[None] | None = None

    @abstractmethod
    def _written(self, batch: Batch) -> bytes:
        """Return a batch's events, and behind the last one the end."""

    @abstractmethod
    def _broken(self, fault: ClientError) -> bytes:
        """Return the events that end a stream which failed."""

    @property
    def sink(self) -> Sink | None:
        """See `Answer.sink`."""
        return None if self._straight is None else self

    def put(self, batch: Batch) -> bool:
        """See `Sink.put`."""
        straight = self._straight
        assert straight is not None  # for the type: else there is no sink
        if body := self._written(batch):
            straight.put(self._head(), body, more=True)
            self.quiet_since = self._clock()
        return not straight.full

    async def drained(self) -> None:
        """See `Sink.drained`."""
        assert self._straight is not None  # for the type: as above
        await self._straight.drained()

    async def emit(self, batch: Batch) -> None:
        """Send one batch; the first brings the head, the last one the end."""
        if self.call is not None and self.call.abandoned and not batch.last:
            # Sending to a client that is gone waits for nothing: the call would run on for ever.
            await anyio.lowlevel.checkpoint()
        body, more = self._written(batch), not batch.last
        straight = self._straight
        if straight is not None and not straight.full and not self._over:
            if body or not more:
                straight.put(self._head(), body, more=more)
                self._over, self.quiet_since = not more, self._clock()
        elif body or not more:
            await self._write(body, more=more)

    async def fail(self, fault: ClientError) -> None:
        """End with *fault*: as an answer of its own if nothing is out yet, else as the last event."""
        if self._out.begun and not self._over:
            await self._write(self._broken(fault), more=False)
        else:
            await super().fail(fault)

    def ping(self) -> None:
        """Send a sign of life, unless something is being sent just now."""
        if self._busy or self._over or self._pinging is not None:
            return
        if self._straight is None:
            self._pinging = asyncio.get_running_loop().create_task(self._ping())
        elif not self._straight.full:
            self._straight.put(self._head(), self.ping_event, more=True)

    async def _ping(self) -> None:
        try:
            await self._write(self.ping_event, more=True)
        except Exception:  # noqa: BLE001  # whatever a server raises: there is nobody at the other end any more
            self.lost()
        finally:
            self._pinging = None

    def _head(self) -> Head | None:
        return None if self._out.begun else Head(200, self._fields(*EVENT_STREAM))

    async def _write(self, body: bytes, *, more: bool) -> None:
        if (pinging := self._pinging) is not None and pinging is not asyncio.current_task():
            await asyncio.wait((pinging,))
        if self._over:
            return
        self._busy = True
        try:
            await self._out.write(self._head(), body, more=more)
            self._over = not more
        finally:
            self._busy = False
        self.quiet_since = self._clock()


class ChatNestAnswer(EventStream):
    """`start` when the call is admitted, then a `token` for each piece of text, then `done` or `error`.

    Its events tell no answers apart: of several that upstream sends unasked, the first that has text is the one.
    """

    ping_event = PING_EVENT
    greets = True
    _index = -1

    async def admitted(self) -> None:
        """Send the head and `start`."""
        await self._write(START_EVENT, more=True)

    def ping(self) -> None:
        """Send a ping, but never before `start`: until then a refusal keeps its status."""
        if self._out.begun:
            super().ping()

    def _written(self, batch: Batch) -> bytes:
        told = []
        for event in batch.events:
            if text := event.text:
                if self._index < 0:
                    self._index = event.index
                if event.index == self._index:
                    told.append(token_event(text))
        body = b"".join(told)
        return body + DONE_EVENT if batch.last else body

    def _broken(self, fault: ClientError) -> bytes:
        return chat_event(fault)


class OpenAIStream(EventStream):
    """The events of upstream, as they came."""

    def _written(self, batch: Batch) -> bytes:
        return batch.raw + OPENAI_DONE_EVENT if batch.last else batch.raw

    def _broken(self, fault: ClientError) -> bytes:
        return openai_event(fault) + OPENAI_DONE_EVENT


def _nobody() -> None:
    """Nobody is to be told."""


async def send_fault(out: Outgoing, fault: ClientError, fields: list[Header], *, chat_path: bool) -> None:
    """Answer with *fault* in the form of its path."""
    status, body = (chat_status(fault), chat_body(fault)) if chat_path else (fault.status, openai_body(fault))
    await send_json(out, status, [*fields, *fault.headers], body)


async def send_json(out: Outgoing, status: int, fields: list[Header], body: bytes) -> None:
    """Answer with one JSON object."""
    await out.write(Head(status, [*fields, (b"content-length", b"%d" % len(body))]), body, more=False)
