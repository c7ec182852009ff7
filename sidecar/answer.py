"""Answers on their way out: Chat Nest's events, OpenAI's stream, or one JSON object.

An answer knows whether its head is out; until then a failure is a plain answer with a true status, from then on the last
event of the stream.  Each writes whole events only, so a ping always falls between two.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import anyio.lowlevel

from policies.call import Call
from policies.event import Batch

from .errors import Fault, chat_body, chat_event, chat_status, openai_body, openai_event
from .limits import Header, limit_headers
from .sse import DONE, OPENAI_DONE, OPENAI_PING, PING, START, token_event

Send: TypeAlias = Callable[[Any], Awaitable[None]]

EVENT_STREAM: Sequence[Header] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
JSON: Header = (b"content-type", b"application/json")


class Answer(ABC):
    """One answer to one client.  `quiet_since` and `ping` are the heart's."""

    def __init__(self, send: Send, request_id: str, *, chat_path: bool, clock: Callable[[], float]) -> None:
        self._send, self._request_id, self._chat_path, self._clock = send, request_id, chat_path, clock
        self.quiet_since = clock()
        self.call: Call | None = None
        self.closing = False
        """The server is going: the connection is not kept."""
        self.lost: Callable[[], None] = _nobody
        """Called when it turns out that the client is gone."""
        self._over = False

    async def admitted(self) -> None:  # noqa: B027  # most forms have nothing to say yet
        """Note that the call holds its reservation.  Once."""

    @abstractmethod
    async def emit(self, batch: Batch) -> None:
        """Send one batch; the last one ends the answer."""

    async def fail(self, fault: Fault) -> None:
        """End the answer with *fault*, as an answer of its own.  Nothing happens if it has ended."""
        if not self._over:
            self._over = True
            await send_fault(self._send, fault, self._head(JSON), chat_path=self._chat_path)

    def ping(self) -> None:  # noqa: B027  # one JSON object cannot have one
        """Send a sign of life, where the form of the answer has one."""

    def _head(self, *headers: Header) -> list[Header]:
        head = [*headers, (b"x-request-id", self._request_id.encode())]
        if self.call is not None and self.call.standings:
            head += limit_headers(self.call.standings, self.call.process.clock())
        if self.closing:
            head.append((b"connection", b"close"))
        return head


class JSONAnswer(Answer):
    """One JSON object, as it came; nothing is sent before it is whole, so its status is always true."""

    async def emit(self, batch: Batch) -> None:
        """Send the object."""
        self._over = True
        await send_json(self._send, 200, self._head(JSON), batch.raw)


class EventStream(Answer):
    """A stream of events.  A subclass says how they are written."""

    ping_event: ClassVar[bytes] = OPENAI_PING

    def __init__(self, send: Send, request_id: str, *, chat_path: bool, clock: Callable[[], float]) -> None:
        super().__init__(send, request_id, chat_path=chat_path, clock=clock)
        self._started = self._busy = False
        self._pinging: asyncio.Task[None] | None = None

    @abstractmethod
    def _written(self, batch: Batch) -> bytes:
        """Return a batch's events, and behind the last one the end."""

    @abstractmethod
    def _broken(self, fault: Fault) -> bytes:
        """Return the events that end a stream which failed."""

    async def emit(self, batch: Batch) -> None:
        """Send one batch; the first brings the head, the last one the end."""
        if self.call is not None and self.call.abandoned and not batch.last:
            # Sending to a client that is gone waits for nothing: the call would run on for ever.
            await anyio.lowlevel.checkpoint()
        body = self._written(batch)
        if body or batch.last:
            await self._write(body, more=not batch.last)

    async def fail(self, fault: Fault) -> None:
        """End with *fault*: as an answer of its own if nothing is out yet, else as the last event."""
        if self._started and not self._over:
            await self._write(self._broken(fault), more=False)
        else:
            await super().fail(fault)

    def ping(self) -> None:
        """Send a sign of life, unless something is being sent just now."""
        if not self._busy and not self._over and self._pinging is None:
            self._pinging = asyncio.get_running_loop().create_task(self._ping())

    async def _ping(self) -> None:
        try:
            await self._write(self.ping_event, more=True)
        except Exception:  # noqa: BLE001  # whatever a server raises: there is nobody at the other end any more
            self.lost()
        finally:
            self._pinging = None

    async def _write(self, body: bytes, *, more: bool) -> None:
        if (pinging := self._pinging) is not None and pinging is not asyncio.current_task():
            await asyncio.wait((pinging,))
        if self._over:
            return
        self._busy = True
        try:
            if not self._started:
                await self._send({"type": "http.response.start", "status": 200, "headers": self._head(*EVENT_STREAM)})
                self._started = True
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._over = not more
        finally:
            self._busy = False
        self.quiet_since = self._clock()


class ChatNestAnswer(EventStream):
    """`start` when the call is admitted, then a `token` for each piece of text, then `done` or `error`.

    Its events tell no answers apart: of several that upstream sends unasked, the first that has text is the one.
    """

    ping_event = PING
    _index = -1

    async def admitted(self) -> None:
        """Send the head and `start`."""
        await self._write(START, more=True)

    def ping(self) -> None:
        """Send a ping, but never before `start`: until then a refusal keeps its status."""
        if self._started:
            super().ping()

    def _written(self, batch: Batch) -> bytes:
        if self._index < 0:
            self._index = next((event.index for event in batch.events if event.text), -1)
        own = self._index
        body = b"".join([token_event(event.text) for event in batch.events if event.text and event.index == own])
        return body + DONE if batch.last else body

    def _broken(self, fault: Fault) -> bytes:
        return chat_event(fault)


class OpenAIStream(EventStream):
    """The events of upstream, as they came."""

    def _written(self, batch: Batch) -> bytes:
        return batch.raw + OPENAI_DONE if batch.last else batch.raw

    def _broken(self, fault: Fault) -> bytes:
        return openai_event(fault) + OPENAI_DONE


def _nobody() -> None:
    """Nobody is to be told."""


async def send_fault(send: Send, fault: Fault, head: list[Header], *, chat_path: bool) -> None:
    """Answer with *fault* in the form of its path."""
    status, body = (chat_status(fault), chat_body(fault)) if chat_path else (fault.status, openai_body(fault))
    await send_json(send, status, [*head, *fault.headers], body)


async def send_json(send: Send, status: int, head: list[Header], body: bytes) -> None:
    """Answer with one JSON object."""
    head = [*head, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})
