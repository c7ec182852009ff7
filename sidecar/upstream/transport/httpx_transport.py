"""Any httpx transport as an upstream transport: HTTP/2, SOCKS, recorders, mocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, cast

import httpx

from sidecar.wire.relay.relayed_request import UploadFault

from .body_sender import upload_broken
from .connection import READ_AHEAD_BYTES, READ_AHEAD_PIECES
from .response import UpstreamResponse

if TYPE_CHECKING:
    from sidecar.wire.relay.relayed_request import Upload

    from .response import Alive, Connected, Headers, Target

PUMP_STOP_SECONDS = 1.0
"""Seconds that closing waits for the httpx response; it goes on closing behind that."""

PIECES_PER_ITERATION = 32
"""Pieces after which other tasks run: a transport that has its data in memory never suspends."""


class HttpxTransport:
    """See `Transport`.  *connect* limits connecting, in seconds, if *transport* supports httpx's timeouts.

    `on_connected` is called before the request is handed over: httpx does not report when a connection is made.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, connect: float | None = None) -> None:
        self._transport = transport
        self._extensions = {"timeout": {"connect": connect, "pool": connect, "read": None, "write": None}}
        self._open: set[HttpxResponse] = set()

    @property
    def open_count(self) -> int:
        """The number of responses that are not closed."""
        return len(self._open)

    async def send(
        self,
        target: Target,
        headers: Headers,
        body: bytes,
        on_connected: Connected,
        on_alive: Alive | None = None,  # httpx does not report what comes before the head
    ) -> HttpxResponse:
        """See `Transport.send`."""
        return await self._send(target, [*target.headers, *headers], body or None, on_connected)

    async def send_streamed(
        self, target: Target, headers: Headers, body: Upload, on_connected: Connected
    ) -> HttpxResponse:
        """See `Transport.send_streamed`. The response is awaited when the whole body was sent."""
        fields = [*target.headers, *headers]
        if body.length is not None:
            fields.append(("content-length", str(body.length)))
        return await self._send(target, fields, _pieces(body), on_connected)

    async def _send(
        self,
        target: Target,
        fields: list[tuple[str, str]],
        content: bytes | AsyncIterator[bytes] | None,
        on_connected: Connected,
    ) -> HttpxResponse:
        on_connected()
        request = httpx.Request(target.method, target.url, headers=fields, content=content, extensions=self._extensions)
        try:
            answer = await self._transport.handle_async_request(request)
        except httpx.HTTPError:
            raise
        except UploadFault as fault:
            raise upload_broken(fault) from fault
        except Exception as error:
            msg = f"the transport failed: {type(error).__name__}"
            raise httpx.ReadError(msg) from error
        response = HttpxResponse(answer)
        self._open.add(response)
        response.pump.add_done_callback(lambda _: self._open.discard(response))
        return response

    async def aclose(self) -> None:
        """See `Transport.aclose`.  Responses in progress are cut."""
        for response in self._open:
            response.stop()
        if self._open:
            await asyncio.wait([response.pump for response in self._open], timeout=PUMP_STOP_SECONDS)
        await self._transport.aclose()


async def _pieces(body: Upload) -> AsyncIterator[bytes]:
    while data := await body.read():
        yield data


class HttpxResponse(UpstreamResponse):
    """A response of httpx.  One task, `pump`, reads its body ahead, up to `READ_AHEAD_BYTES`, and closes it at the end."""

    __slots__ = ("_pieces", "_response", "_size", "_started", "_stopped", "_taken", "pump")

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.fields = [(name.lower(), value) for name, value in response.headers.raw]
        self.ended, self.broken = False, None
        self._response = response
        self._pieces: list[bytes] = []
        self._size = 0
        self._started = self._stopped = False
        self.on_data = None
        self._taken: asyncio.Future[None] | None = None
        self.pump = asyncio.get_running_loop().create_task(self._pump())

    def take(self) -> bytes:
        """See `UpstreamResponse.take`."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        return data

    async def aclose(self) -> None:
        """See `UpstreamResponse.aclose`."""
        self.on_data = None
        self.stop()
        await asyncio.wait([self.pump], timeout=PUMP_STOP_SECONDS)

    def stop(self) -> None:
        """Close the httpx response, unless its body has ended and it is being closed already."""
        if not self._stopped and self._started and not self.ended and self.broken is None:
            self.pump.cancel()
        self._stopped = True  # a task that is cancelled before its first step would not close the response

    async def _pump(self) -> None:
        """Read the body to its end; at the end, a failure or a cancellation, close the response."""
        self._started = True
        pieces = aiter(cast("AsyncIterable[bytes]", self._response.stream))
        try:
            if not self._stopped:
                await self._read_ahead(pieces)
                self.ended = True
        except httpx.HTTPError as error:
            self.broken = error
        except asyncio.CancelledError:
            self.broken = httpx.ReadError("the response was closed")
        except Exception as error:  # noqa: BLE001  # a transport of the deployment's: its failure breaks the response
            self.broken = httpx.ReadError(f"the transport failed: {type(error).__name__}")
            self.broken.__cause__ = error
        self._notify()
        with contextlib.suppress(Exception):  # the body is over: a failure to close it changes nothing
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
            await self._response.aclose()

    async def _read_ahead(self, pieces: AsyncIterator[bytes]) -> None:
        count = 0
        async for piece in pieces:
            count += 1
            if count % PIECES_PER_ITERATION == 0:
                await asyncio.sleep(0)
            if not piece:
                continue
            self._pieces.append(piece)
            self._size += len(piece)
            self._notify()
            while self._size > READ_AHEAD_BYTES or len(self._pieces) > READ_AHEAD_PIECES:
                self._taken = asyncio.get_running_loop().create_future()
                await self._taken

    def _notify(self) -> None:
        if self.on_data is not None:
            self.on_data(self.take())
