"""The interface of a transport: send a request, receive a response whose body is pushed as it arrives."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol, TypeAlias

import httpx
import msgspec

if TYPE_CHECKING:
    from sidecar.wire.relay.relayed_request import Upload

Headers: TypeAlias = Collection[tuple[str, str]]
Connected: TypeAlias = Callable[[], None]
Alive: TypeAlias = Callable[[], None]
OnData: TypeAlias = Callable[[bytes], None]

HEADER_TEXT = "utf-8", "surrogateescape"
"""How header values are decoded: UTF-8, and any other byte as a surrogate."""


class Target(msgspec.Struct, frozen=True, eq=False):
    """A URL that is requested repeatedly with one method, and the headers that every request to it has."""

    method: str
    url: httpx.URL
    headers: Headers = ()


class UpstreamResponse(ABC):
    """A response whose head has arrived.  Its body is pushed to `on_data`; without one it waits for `take`.

    A body is over when `ended` is true (complete) or `broken` is set (truncated).  What arrived before that is handed out
    first.  After `aclose` the object must not be used again: its connection may serve another request.
    """

    __slots__ = ("broken", "ended", "fields", "on_data", "status")

    status: int
    """The status code."""
    fields: list[tuple[bytes, bytes]]
    """The header fields in their order, names in lower case."""
    ended: bool
    """Whether the whole body has arrived."""
    broken: httpx.HTTPError | None
    """Why the rest of the body will not arrive; None while it may."""
    on_data: OnData | None
    """Called after each network read with what it brought of the body, which is empty at the end or failure of the body.

    It must not raise, and runs in any context (contextvars).  None stops the calls.  What arrived before it was set is not
    pushed: set it, then `take` that.
    """

    @property
    def headers(self) -> httpx.Headers:
        """Return the headers, found by names in any case.  Built at each access."""
        return httpx.Headers(self.fields)

    def header(self, name: bytes) -> str:
        """Return the first value of the header *name* (lower case); an empty string if it is absent."""
        for each, value in self.fields:
            if each == name:
                return value.decode(*HEADER_TEXT)
        return ""

    @abstractmethod
    def take(self) -> bytes:
        """Return what has arrived of the body since the last call, and resume reading; empty if nothing has.

        Bytes that arrived before the body broke are returned first.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release the connection: keep it if the body has ended, else abort it at once.  To be called exactly once."""

    async def read(self) -> bytes:
        """Wait for the next part of the body and return it; empty at the end.  Raise `httpx.HTTPError` if the body breaks."""
        while not (data := self.take()) and not self.ended:
            if self.broken is not None:
                raise self.broken
            arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

            def on_data(data: bytes, arrived: asyncio.Future[bytes] = arrived) -> None:
                self.on_data = None  # further reads of this iteration wait for `take`
                if not arrived.done():
                    arrived.set_result(data)

            self.on_data = on_data
            try:
                if data := await arrived:
                    break
            finally:
                self.on_data = None
        return data


class Transport(Protocol):
    """Sends requests to one upstream server."""

    async def send(
        self, target: Target, headers: Headers, body: bytes, on_connected: Connected, on_alive: Alive | None = None
    ) -> UpstreamResponse:
        """Send a request and return its response as soon as the head has arrived.

        *headers* are those of this request alone.  *on_connected* is called once, before the first byte is sent.
        *on_alive* is called for each read before the head is complete (`102 Processing`, blank lines), if the transport
        reports these.
        Raise `httpx.ConnectError` or `httpx.ConnectTimeout` if the server received nothing, another `httpx.HTTPError` if it
        may have.  Cancellation closes the connection.
        """
        ...

    async def send_streamed(
        self, target: Target, headers: Headers, body: Upload, on_connected: Connected
    ) -> UpstreamResponse:
        """Send a request whose *body* streams through; return its response as soon as the head has arrived.

        The head may arrive before the whole body was sent; the rest is sent until the response is closed. Raise
        `UploadBroken` if the body fails, before or behind the head (`broken`), and otherwise as `send`.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
