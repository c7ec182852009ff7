"""Where an answer's bytes leave: through ASGI's `send`, or straight into the server's connection where that lets us."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from sidecar.wire.limit_headers import Header

Send: TypeAlias = Callable[[Any], Awaitable[None]]


class Head(NamedTuple):
    """The status and the fields of an answer; names in lower case, values of one line."""

    status: int
    headers: list[Header]


class Outgoing(Protocol):
    """The way to one client, for one answer."""

    @property
    def begun(self) -> bool:
        """Whether its head is out."""
        ...

    async def write(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """Send *body*, behind *head* the first time; without *more* the answer has ended.

        Returns when the connection takes more.  To a client that is gone it sends nothing.
        """
        ...


class Straight:
    """See `Outgoing`: a connection that can also be written to without waiting, and says when its client leaves.

    No abstract class: to ask whether something is one of those costs ten times as much.
    """

    gone: Callable[[], None] | None = None
    """Called when the client has left, or closed its side."""

    @property
    def begun(self) -> bool:
        """See `Outgoing.begun`."""
        raise NotImplementedError

    def put(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """Send now, in one write, whatever is still to be sent."""
        raise NotImplementedError

    @property
    def full(self) -> bool:
        """Whether so much is still to be sent that one should wait."""
        raise NotImplementedError

    async def drained(self) -> None:
        """Wait until it is not `full`."""
        raise NotImplementedError

    def watch(self, gone: Callable[[], None]) -> None:
        """Call *gone* when the client leaves, also if it has left already.  Once, when all of its request was read."""
        raise NotImplementedError

    def whole_body(self) -> bytes | None:
        """Return the request's body if all of it has come, once; None where it must be received."""
        return None

    async def write(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """See `Outgoing.write`."""
        if self.full:
            await self.drained()
        self.put(head, body, more=more)


class OverASGI:
    """See `Outgoing`: any server's, and whatever lies before it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def write(self, head: Head | None, body: bytes, *, more: bool) -> None:
        """See `Outgoing.write`."""
        if head is not None:
            await self._send({"type": "http.response.start", "status": head.status, "headers": head.headers})
            self.begun = True
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def outgoing(send: Send) -> Outgoing:
    """Return the shortest way to the client that *send* leads to."""
    cycle = getattr(send, "__self__", None)
    return cycle if isinstance(cycle, Straight) else OverASGI(send)
