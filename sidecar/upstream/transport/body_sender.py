"""Send a request's body that streams through, at the pace of the slower side, while the response may already arrive."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

import httpx

from sidecar.wire.relay.relayed_request import UploadFault

from .response import UpstreamResponse

if TYPE_CHECKING:
    from sidecar.wire.relay.relayed_request import Upload

LAST_CHUNK = b"0\r\n\r\n"
READ_ITERATIONS = 2
"""Event-loop iterations within which what has arrived on a socket is read, whatever ran before in them."""


class UploadBroken(httpx.WriteError):
    """The body of a request ended before it was complete; its cause is the `UploadFault`."""


def upload_broken(fault: UploadFault) -> UploadBroken:
    """Return the error of a request whose body failed with *fault*."""
    error = UploadBroken("the body of the request is not complete")
    error.__cause__ = fault
    return error


def framing_of(body: Upload) -> bytes:
    """Return the header field that frames *body*, and the end of the head."""
    length = body.length
    return b"transfer-encoding: chunked\r\n\r\n" if length is None else b"content-length: %d\r\n\r\n" % length


class RequestWriter(UpstreamResponse):
    """The side of a connection that writes requests; `Connection` reads the responses."""

    __slots__ = ("_loop", "_writable", "sender", "should_close", "transport")

    transport: asyncio.Transport | None
    should_close: bool
    sender: BodySender | None
    """Sends the body of the request, if that streams through."""
    _loop: asyncio.AbstractEventLoop
    _writable: asyncio.Future[None] | None
    """Done when the transport has room again; None while it has."""

    def write(self, data: bytes) -> bool:
        """Write *data*, a part of the request's body; return False if the connection is lost."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(data)
        return True

    def has_arrived(self) -> bool:
        """Whether bytes of the server, or its end, wait to be read. Takes a microsecond."""
        opened = None if self.transport is None else self.transport.get_extra_info("socket")
        if opened is None or opened.fileno() < 0:
            return False
        poller = select.poll()
        poller.register(opened.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    async def drain(self) -> None:
        """Wait until the server has read most of what was written, or the connection is lost."""
        if (writable := self._writable) is not None:
            await asyncio.shield(writable)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if (writable := self._writable) is not None:
            self._writable = None
            if not writable.done():
                writable.set_result(None)

    def break_off(self, error: httpx.HTTPError) -> None:
        """Close at once and break the response with *error*, because the request will not be complete."""
        self.should_close = True
        if not self.ended and self.broken is None:
            self.broken = error
        if self.transport is not None:
            self.transport.abort()


class BodySender:
    """Sends *body* on *connection* in a task of its own, from the end of the head on.

    At most the transport's write buffer and one piece of the body are in memory. A body that fails breaks the connection:
    the server must never take a part for the whole. `cancel` it before the connection is closed.

    A server may answer early and close, which resets the connection. A write would then fail before the answer is read, so
    what has arrived is read first, and behind a complete answer nothing is sent.
    """

    __slots__ = ("_body", "_connection", "_task")

    def __init__(self, connection: RequestWriter, body: Upload) -> None:
        self._connection, self._body = connection, body
        self._task = asyncio.get_running_loop().create_task(self._send())

    @property
    def is_done(self) -> bool:
        """Whether the whole body was written, or will not be."""
        return self._task.done()

    def cancel(self) -> None:
        """Stop sending. The connection must not be used for another request unless the sender `is_done`."""
        self._task.cancel()

    async def _send(self) -> None:
        connection, body = self._connection, self._body
        is_chunked = body.length is None
        try:
            while data := await body.read():
                if connection.has_arrived():
                    for _ in range(READ_ITERATIONS):
                        await asyncio.sleep(0)
                if connection.ended:
                    connection.should_close = True  # the server did not get the whole body
                    return
                if not connection.write(b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data):
                    return  # the connection is lost, which the response reports
                await connection.drain()
            if is_chunked:
                connection.write(LAST_CHUNK)
        except UploadFault as fault:
            connection.break_off(upload_broken(fault))
        except Exception as error:  # noqa: BLE001  # a fault of ours: the request must not hang
            broken = httpx.WriteError(f"the body cannot be read: {type(error).__name__}")
            broken.__cause__ = error
            connection.break_off(broken)
