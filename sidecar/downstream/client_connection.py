"""The connection that one request came over, as the routes use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from sidecar.wire.limit_headers import Header

CONNECTION_EXTENSION = "sidecar.connection"
"""The ASGI scope extension in which a server passes its own `ClientConnection`.

The route that takes it removes it: the connection holds the scope, and a reference cycle would wait for the collector.
"""

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
OnDisconnect: TypeAlias = Callable[[], None]


class Head(NamedTuple):
    """The status and the headers of a response; names in lower case, values of one line."""

    status: int
    headers: list[Header]


class ClientConnection:
    """Writes one response and detects that its client has disconnected.

    No abstract class: instances are made for each request, and ABC slows that down.
    """

    __slots__ = ()

    status: int
    """The status of the response; 0 until its head is written."""
    full: bool
    """Whether so many bytes wait for the client that one should `drain` before writing more."""
    receive: Receive
    """ASGI's `receive` for the body of the request."""

    def write_nowait(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """Write *body*, behind *head* the first time; without *more* the response has ended.

        To a client that has disconnected it writes nothing. Called for each network read of upstream.
        """
        raise NotImplementedError

    def add_headers(self, headers: list[Header]) -> None:
        """Add *headers* to those of the response. Called before anything is written."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until the connection is not `full`, or the client has disconnected."""
        raise NotImplementedError

    def watch(self, on_disconnect: OnDisconnect) -> None:
        """Call *on_disconnect* once the client has disconnected or closed its side, also if it has already.

        Called once, when the whole request was read.
        """
        raise NotImplementedError

    def unwatch(self) -> None:
        """Drop the callback of `watch`. Called once, when the response is over."""
        raise NotImplementedError
