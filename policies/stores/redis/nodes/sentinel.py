"""Which server has the keys, where sentinels decide it: they watch a primary and promote a replica when it fails.

All sentinels are asked at the same time. The primary that most of them name is used, if it says itself that it is one.
See https://redis.io/docs/latest/develop/reference/sentinel-clients/.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import RedisError

from policies.stores.redis.connecting.connection import library_settings
from policies.stores.redis.connecting.progress import finish_within
from policies.stores.redis.connecting.url import Address, RedisUrl

from .topology import QUERY_SECONDS, NoAddress, View, best_of, views_of


class Sentinels:
    """See `Topology`. *ask* returns the primary that one sentinel names; it is replaced in tests."""

    can_move = True

    def __init__(self, url: RedisUrl, ask: Callable[[Address], Coroutine[Any, Any, Address]] | None = None) -> None:
        self._url = url
        self._ask = ask or self._primary_of

    def moved(self, address: Address) -> None:
        """Ignore it: a server of sentinels is no cluster, and answers no MOVED."""

    async def find(self, avoid: Address | None) -> Address:
        """See `Topology`."""
        views = await views_of({node: self._view_of(node) for node in self._url.nodes})
        votes = Counter(view for view in views.values() if isinstance(view, Address))
        if votes:
            return best_of(votes, avoid)
        causes = [view for view in views.values() if isinstance(view, Exception)]
        cause = next((each for each in causes if isinstance(each, MasterNotFoundError)), causes[0])
        raise NoAddress(f"none of {len(views)} sentinels names a primary {self._url.service!r}: {cause}")

    async def _view_of(self, node: Address) -> View:
        return await finish_within(QUERY_SECONDS, self._ask(node))

    async def _primary_of(self, node: Address) -> Address:
        """Return the primary that the sentinel *node* names.

        The credentials of the URL are those of the servers. A sentinel may have the same ones, or none.
        """
        try:
            return await self._named_by(node, self._url)
        except MasterNotFoundError:
            if self._url.password is None and self._url.username is None:
                raise
        return await self._named_by(node, msgspec.structs.replace(self._url, username=None, password=None))

    async def _named_by(self, node: Address, url: RedisUrl) -> Address:
        settings = library_settings(url) | ({"ssl": True} if url.is_encrypted else {})
        sentinel = Sentinel([tuple(node)], sentinel_kwargs=settings)  # type: ignore[no-untyped-call]  # of the library
        try:
            host, port = await sentinel.discover_master(url.service)
        finally:
            for client in sentinel.sentinels:
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()
        return Address(host if isinstance(host, str) else bytes(host).decode(), int(port))
