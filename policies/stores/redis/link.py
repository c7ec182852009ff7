"""A link to one server, which executes batches of operations in the order in which they were submitted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError, RedisError

from policies.api.store import StoreDown
from policies.stores.batching.outage import Outage

MAX_ATTEMPTS_ON_LINK = 3


class ScriptLink:
    """See `BatchLink`. One connection, one batch at a time. *timeout* is in seconds."""

    def __init__(self, url: str, source: str, keys: Sequence[str], *, timeout: float) -> None:
        self._url, self._source, self._keys, self._timeout = url, source, keys, timeout
        self._address = url.rpartition("@")[2].removeprefix("redis://")
        self._client = self._new_client()
        self._sha = self._client.register_script(source).sha
        self._queue: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._task: asyncio.Task[None] | None = None
        self._outage = Outage(time.monotonic)

    def _new_client(self, **node: Any) -> Any:
        """Return a client of the server, or of another *node* of its cluster (`host` and `port`)."""
        client: Any = Redis.from_url(
            self._url,
            single_connection_client=True,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
        )
        client.connection_pool.connection_kwargs.update(node)
        return client

    def submit(self, payload: bytes) -> asyncio.Future[bytes]:
        """See `BatchLink.submit`."""
        if not self._outage.is_up:
            self._outage.check()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queue.append((payload, future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return future

    async def _run(self) -> None:
        while self._queue:
            payload, future = self._queue[0]
            try:
                reply = await self._send(payload)
            except RedisError as error:
                self._outage.begin(f"{self._address} did not answer just now")
                was_sent = "connecting to" not in str(error)
                text = f"{self._address}: {str(error) or type(error).__name__}; see that it runs and can be reached"
                self._fail(StoreDown(text, taken=was_sent))
            else:
                self._outage.end()
                self._queue.pop(0)
                if not future.done():
                    future.set_result(reply)

    def _fail(self, error: StoreDown) -> None:
        for _, future in self._queue:
            if not future.done():
                future.set_exception(StoreDown(str(error), taken=error.taken))
        self._queue = []

    async def _send(self, payload: bytes) -> bytes:
        for _ in range(MAX_ATTEMPTS_ON_LINK):
            try:
                try:
                    reply = await self._client.evalsha(self._sha, len(self._keys), *self._keys, payload)
                except NoScriptError:
                    reply = await self._client.eval(self._source, len(self._keys), *self._keys, payload)
            except MovedError as moved:
                await self._client.aclose()
                self._client = self._new_client(host=moved.host, port=moved.port)
                continue
            except RedisConnectionError as error:
                if "connecting to" in str(error):
                    raise
                continue
            return bytes(reply)
        raise RedisError("the connection was closed again and again")

    async def aclose(self) -> None:
        """See `BatchLink.aclose`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(StoreDown("the store is closed", taken=True))
        await self._client.aclose()
