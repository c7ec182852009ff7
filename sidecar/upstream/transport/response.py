"""Answers of upstreams as they are received: waited for, or told of as their bytes arrive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    import httpx

Arrived: TypeAlias = Callable[[], None]


class Answer(Protocol):
    """An answer whose body is unread."""

    @property
    def status(self) -> int:
        """Its status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, found by names in any case."""
        ...

    def header(self, name: bytes) -> str:
        """Return the first header of that *name*, which is in lower case; empty where there is none."""
        ...

    @property
    def ended(self) -> bool:
        """Whether all of the body has arrived."""
        ...

    async def read(self) -> bytes:
        """Return what came next of the body, as it came; empty at its end.  Raises one of `bounded.BROKEN`."""
        ...

    async def aclose(self) -> None:
        """Give the connection back if the answer has ended, else cut it at once.  Once; nothing waits in it."""
        ...


class Arriving:
    """Beside `Answer`, what one is that also says when something of its body has come: no task need be woken for it.

    No abstract class, as `Straight` is none.
    """

    __slots__ = ()

    ended: bool
    """See `Answer.ended`."""
    broken: httpx.HTTPError | None
    """Why nothing more will come of a body that has not ended."""

    def taken(self) -> bytes:
        """Return what has come since, also what came before the connection broke; empty if it is nothing."""
        raise NotImplementedError

    def listen(self, arrived: Arrived | None) -> None:
        """Call *arrived* after each network read that brought something, until it is None; it must not raise.

        What had come before is not told of.
        """
        raise NotImplementedError


Headers: TypeAlias = Collection[tuple[str, str]]


Reached: TypeAlias = Callable[[], None]


class Target(msgspec.Struct, frozen=True, eq=False):
    """What is asked of an upstream again and again: one URL by one method, with the *headers* that every request has."""

    method: str
    url: httpx.URL
    headers: Headers = ()


class Exchange(Protocol):
    """Where requests to one upstream go."""

    async def send(self, target: Target, headers: Headers, body: bytes, reached: Reached) -> Answer:
        """Send a request and return its answer, whose body is unread; *headers* are those of this request alone.

        *reached* is called when it has a connection, before it is sent.  Raises `httpx.HTTPError`: a `ConnectError` or
        `ConnectTimeout` where upstream has done nothing.  Cancelled, it cuts the connection.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
