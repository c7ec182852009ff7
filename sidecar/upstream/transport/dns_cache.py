"""A small cache of DNS answers: bounded, short-lived, one look-up per name at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TypeAlias

from aiohappyeyeballs import AddrInfoType

Resolve: TypeAlias = Callable[[str, int], Awaitable[list[AddrInfoType]]]

TTL_SECONDS = 10.0
MAX_NAMES = 256


class _Answer:
    __slots__ = ("_addresses", "_uses", "expires")

    def __init__(self, addresses: list[AddrInfoType], expires: float) -> None:
        self._addresses, self.expires, self._uses = addresses, expires, 0

    def use(self) -> list[AddrInfoType]:
        """Return the addresses, those of each family rotated by one more than the last time; the first family first."""
        rotated: list[AddrInfoType] = []
        for family in dict.fromkeys(each[0] for each in self._addresses):
            own = [each for each in self._addresses if each[0] == family]
            start = self._uses % len(own)
            rotated += own[start:] + own[:start]
        self._uses += 1
        return rotated


class DnsCache:
    """Resolve names; keep each answer for `TTL_SECONDS`, at most `MAX_NAMES` of them, and no failures.

    Concurrent look-ups of a name share one query.  The addresses of a name take turns at being first within their address
    family, so that connections spread over all of them.
    """

    def __init__(self, resolve: Resolve, *, clock: Callable[[], float]) -> None:
        self._resolve, self._clock = resolve, clock
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._queries: dict[tuple[str, int], asyncio.Task[list[AddrInfoType]]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    async def lookup(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of *host*, an IP address at once.  Raise `OSError` or `UnicodeError`."""
        if (literal := _literal(host, port)) is not None:
            return [literal]
        key = host, port
        answer = self._answers.get(key)
        if answer is None or answer.expires <= self._clock():
            query = self._queries.get(key)
            if query is None:
                # Not in the caller's context: the query may outlive its call.
                query = asyncio.get_running_loop().create_task(self._query(host, port), context=Context())
                self._queries[key] = query
                query.add_done_callback(partial(self._store, key))
            try:
                await asyncio.shield(query)
            except asyncio.CancelledError:
                if query.cancelled():  # by `close`, not the caller
                    raise OSError("the transport is closed") from None
                raise
            answer = self._answers.get(key) or _Answer(query.result(), 0.0)  # evicted meanwhile
        return answer.use()

    async def _query(self, host: str, port: int) -> list[AddrInfoType]:
        return await self._resolve(host, port)

    def _store(self, key: tuple[str, int], query: asyncio.Task[list[AddrInfoType]]) -> None:
        self._queries.pop(key, None)
        if query.cancelled() or query.exception() is not None:
            return
        self._answers.pop(key, None)
        while len(self._answers) >= MAX_NAMES:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = _Answer(query.result(), self._clock() + TTL_SECONDS)

    def close(self) -> None:
        """Cancel the queries that are running."""
        for query in list(self._queries.values()):
            query.cancel()


async def resolve(host: str, port: int) -> list[AddrInfoType]:
    """Return the addresses from the system's resolver, which runs in a thread."""
    loop = asyncio.get_running_loop()
    return list(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))


def _literal(host: str, port: int) -> AddrInfoType | None:
    """Return the address that *host* is; None for a name, and for an IPv6 address with a zone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return None
    address = (host, port, 0, 0) if family == socket.AF_INET6 else (host, port)
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address
