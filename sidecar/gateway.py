"""What runs in one process: the chains of all profiles over one store, one upstream, one heart."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from policies.chain import Chain
from policies.ledger import Ledger
from policies.process import Process
from policies.retry_budget import RetryBudgets
from policies.store import StoreDown
from policies.stores import open_store

from .breaker import Breaker
from .heart import Heart
from .incoming import Names
from .keys import Keys
from .live import LiveCalls
from .proxies import Proxies
from .transport.http_transport import HttpTransport
from .transport.httpx_transport import HttpxTransport
from .upstream import HttpUpstream
from .upstreams import Upstreams

if TYPE_CHECKING:
    import httpx

    from .access import Profile
    from .settings import Settings
    from .transport.response import Transport
    from .upstream_settings import UpstreamChoice

BEAT = 2.0
"""Seconds between two signs of life to the store, and between two tries to send what it could not take."""


class Gateway:
    """Everything that the routes share.  Made inside the running loop, closed when the server has drained."""

    def __init__(
        self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None, process: Process | None = None
    ) -> None:
        self.loop = loop = asyncio.get_running_loop()
        self.settings = settings
        self.process = process or Process(store=open_store(settings.store.url, folder=settings.folder, resident=True))
        self.process.upstreams = tuple(each.name for each in settings.upstreams)
        over = None if transport is None else HttpxTransport(transport)
        self.upstream = Upstreams([self._upstream(each, over) for each in settings.upstreams])
        self.process.names_of = self.upstream.names_of
        self.heart = Heart(settings.server.heartbeat, clock=loop.time, call_at=loop.call_at)
        self.live = LiveCalls()
        self.names = Names()
        self._ledger = Ledger(self.process)
        self._retries = RetryBudgets(self.process.monotonic)
        self.keys = Keys(settings.everybody, settings.keys)
        self.proxies = Proxies(settings.server.trusted_proxies, settings.server.proxy_header)
        chosen = [each for access in settings.accesses for each in (access.base, *access.profiles.values())]
        self.chains = {(each.owner, each.name): self._built(each) for each in chosen}
        self._closing = False
        self._beating = loop.create_task(self._beat())

    def _upstream(self, choice: UpstreamChoice, over: Transport | None) -> HttpUpstream:
        process = self.process
        told = partial(process.log.warning, "the breaker of %s is now %s", choice.name)
        breaker = Breaker(choice.breaker, process.monotonic, tell=told)
        return HttpUpstream(choice, over or _transport(choice), clock=process.clock, breaker=breaker)

    def _built(self, profile: Profile) -> Chain:
        return Chain(profile.policies, self.upstream, self.process, ledger=self._ledger, retries=self._retries)

    async def _beat(self) -> None:
        while not self._closing:
            await asyncio.sleep(BEAT)
            try:
                await self.process.store.beat()
                await self._ledger.catch_up()
            except StoreDown as error:  # the store is down; the next beat tries again
                self.process.log.warning("store does not answer: %s", error)

    async def close(self) -> None:
        """Settle what is open, then let go of policies, connections and the store."""
        self._closing = True  # a cancellation may be lost in a client's `wait_for`, this is not
        self._beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._beating
        await self._ledger.catch_up()
        for chain in self.chains.values():
            await chain.close()
        await self.upstream.aclose()
        await self.process.store.aclose()


def _transport(choice: UpstreamChoice) -> Transport:
    """Return the transport to one upstream: that of its factory, else HTTP/1.1."""
    if choice.make_transport is not None:
        return HttpxTransport(choice.make_transport(), connect=choice.connect)
    return HttpTransport(connect=choice.connect, tls=choice.trust, proxy=choice.via, uds=choice.uds)
