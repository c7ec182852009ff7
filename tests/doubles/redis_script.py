"""The script of the Redis store, executed by a plain client; and the keys of storage format 1, as its version wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from policies.stores.redis.script import keys_of, script_source

Results = Sequence[Any]


class ScriptRunner:
    """Executes batches of operations on the server at *url*, at the time `now` in microseconds."""

    def __init__(self, url: str, prefix: str, *, now: int, owner: str = "runner") -> None:
        self.client: Any = Redis.from_url(url, decode_responses=False)
        self.prefix, self.now, self.owner = prefix, now, owner

    async def batch(self, *operations: Sequence[Any]) -> Results:
        """Return all results, that of `begin` first."""
        payload = msgspec.msgpack.encode([("begin", self.owner, self.now, True), *operations])
        keys = keys_of(self.prefix)
        results: Results = msgspec.msgpack.decode(await self.client.eval(script_source(), len(keys), *keys, payload))
        return results

    async def execute(self, *operations: Sequence[Any]) -> Results:
        """Return the results of *operations*."""
        return (await self.batch(*operations))[1:]

    def key(self, name: str) -> str:
        """Return the name of a key of the store."""
        return f"{{{self.prefix}}}:{name}"


class FormatOne:
    """Writes the keys of storage format 1, at the time *now* in microseconds."""

    def __init__(self, runner: ScriptRunner, *, last_heartbeat: int) -> None:
        self._runner, self._client = runner, runner.client
        self._last_heartbeat = last_heartbeat

    async def process(self, owner: str, calls: Sequence[str] = ()) -> None:
        """Write a process with reservations."""
        await self._client.zadd(self._runner.key("w"), {owner: self._last_heartbeat})
        for call in calls:
            await self._client.hset(self._runner.key(f"h:{call}"), mapping={"o": owner, "0": b"\x92\x00\x90"})
            await self._client.sadd(self._runner.key(f"o:{owner}"), call)
        await self._client.set(self._runner.key("x:ended"), "", px=60_000)

    async def calendar(self, counter: str, start: int, ends: int, spent: int, held: int) -> None:
        """Write a calendar counter."""
        await self._client.hset(self._runner.key(f"c:{start}:{counter}"), mapping={"s": spent, "h": held, "e": ends})
        await self._client.zadd(self._runner.key("a"), {f"{start}:{counter}": ends})

    async def sliding(self, counter: str, entries: Sequence[tuple[int, int]]) -> None:
        """Write a sliding counter with entries of a time and an amount."""
        total = sum(amount for _, amount in entries)
        await self._client.hset(self._runner.key(f"s:{counter}"), mapping={"t": total, "n": entries[-1][0]})
        packed = [f"{at}:{at}:{amount}" for at, amount in entries]
        await self._client.rpush(self._runner.key(f"e:{counter}"), *packed)

    async def group(self, group: str, members: Mapping[str, int]) -> None:
        """Write the counters of a group of identities by their end."""
        await self._client.zadd(self._runner.key(f"n:{group}"), dict(members))

    async def entry(self, key: str, ends: int, value: bytes) -> None:
        """Write an entry."""
        await self._client.set(self._runner.key(f"k:{key}"), b"%d:%s" % (ends, value))
        await self._client.zadd(self._runner.key("k"), {key: ends})
