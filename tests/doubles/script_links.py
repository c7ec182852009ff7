"""Links of tests, with a small script: it appends each payload to a list, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from store_callers import until_taken

from policies.stores.redis.link import ScriptLink
from policies.stores.redis.servers.url import RedisUrl

APPEND_ONCE = """
redis.call('HSET', KEYS[1], 'format', '1')
if redis.call('HSETNX', KEYS[1], ARGV[1], '1') == 1 then
  redis.call('RPUSH', KEYS[2], ARGV[1])
end
return ARGV[1]
"""


class Pauses:
    """Sleeps for a link, and adds up for how long: that does not depend on how busy the machine is."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*."""
        self.seconds += seconds
        await asyncio.sleep(seconds)


class TestedLink(ScriptLink):
    """A link with keys of its own."""

    __test__ = False

    def __init__(self, url: str, *, source: str = APPEND_ONCE, prefix: str | None = None, **settings: Any) -> None:
        self.prefix = prefix or uuid4().hex
        self.keys = [f"{{{self.prefix}}}:{name}" for name in ("once", "list")]
        super().__init__(RedisUrl.parse(url), source, self.keys, **settings)

    async def appended(self, port: int) -> list[bytes]:
        """Return the payloads that were executed on the server at *port*, in order."""
        found: list[bytes] = await command(port, "LRANGE", self.keys[1], 0, -1)
        return found

    async def submit_until_taken(self, payload: bytes) -> bytes:
        """Submit *payload* again until it is executed; the number of attempts is bounded."""
        return await until_taken(lambda: self.submit(payload))

    async def submit_all(self, payloads: Sequence[bytes]) -> list[bytes | BaseException]:
        """Submit *payloads* at once; return their results and errors."""
        return await asyncio.gather(*[self.submit(each) for each in payloads], return_exceptions=True)


@asynccontextmanager
async def script_link(url: str, **settings: Any) -> AsyncIterator[TestedLink]:
    """Yield a link to the server of *url*; close it at the end."""
    link = TestedLink(url, **settings)
    try:
        yield link
    finally:
        await link.aclose()


async def command(port: int, *parts: Any) -> Any:
    """Return the reply of the server at *port* to a command."""
    client: Any = Redis(port=port)
    try:
        return await client.execute_command(*parts)
    finally:
        await client.aclose()
