"""A link to one server, which executes batches of operations in the order in which they were submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from policies.api.store import StoreDown


class ScriptLink(Protocol):
    """Executes batches on the server."""

    def submit(self, payload: bytes) -> asyncio.Future[bytes]:
        """Execute the script with *payload* as its only argument, after those that were submitted before.

        The result raises `StoreDown`, with `taken` where the batch may have been executed. It may be executed twice.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections. Batches without a reply fail."""
        ...


class SingleConnectionLink:
    """See `ScriptLink`. One connection, one batch at a time."""

    def __init__(self, url: str, source: str, keys: Sequence[str], timeout: float) -> None:
        self._timeout, self._source, self._keys = timeout, source, keys
        self._client: Any = Redis.from_url(
            url,
            single_connection_client=True,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._client.register_script(source)
        self._queue: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, payload: bytes) -> asyncio.Future[bytes]:
        """See `ScriptLink.submit`."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queue.append((payload, future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return future

    async def _run(self) -> None:
        while self._queue:
            payload, future = self._queue.pop(0)
            try:
                reply = await self._send(payload)
            except RedisError as error:
                failed = StoreDown(f"{error}; see that it runs and can be reached", taken="connecting to" not in str(error))
                failed.__cause__ = error
                if not future.done():
                    future.set_exception(failed)
            else:
                if not future.done():
                    future.set_result(reply)

    async def _send(self, payload: bytes) -> bytes:
        for _ in range(2):
            try:
                reply = await self._client.evalsha(self._script.sha, len(self._keys), *self._keys, payload)
            except NoScriptError:
                reply = await self._client.eval(self._source, len(self._keys), *self._keys, payload)
            except RedisError as error:
                if "closed by server" not in str(error):
                    raise
                continue
            return bytes(reply)
        raise RedisError("connection closed by server")

    async def aclose(self) -> None:
        """See `ScriptLink.aclose`."""
        if self._task is not None:
            self._task.cancel()
        for _, future in self._queue:
            if not future.done():
                future.set_exception(StoreDown("the store is closed", taken=True))
        self._queue = []
        await self._client.aclose()
