"""The Redis store: counts in Redis or Valkey, for any number of machines. Each operation is one script, in one round trip.

Windows follow the server's clock. An operation is sent with the windows that are current by the last time that the server
returned, and sent again with the right ones if the server finds others. Durability is that of the server: with
`appendfsync everysec` its crash may lose the last second; the crash of a sidecar loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any
from uuid import uuid4

import anyio
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from policies.api.claim import Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, StoreDown, account
from policies.api.window import MICROSECONDS_PER_SECOND, Sliding, bucket_seconds
from policies.stores.counting.arithmetic import MAX_COUNTER_VALUE
from policies.stores.counting.rows import SLIDING_START
from policies.stores.counting.window_cache import WindowCache
from policies.stores.entries.bounds import EXPIRED_PER_OPERATION, MAX_SHARED_ENTRIES, check_entries, check_keys

REPLY_ANSWERED, REPLY_OTHER_WINDOW, REPLY_CALL_ENDED = 0, 1, 2
"""First element of the reply of `reserve.lua`. A refused claim is `REPLY_ANSWERED` with the index of the claim."""
MAX_ATTEMPTS = 3
DOWN_RETRY_SECONDS = 0.5
"""Time for which a server that failed is not asked again. After it one operation at a time tries; the others fail at once."""
ACCOUNTS_PAGE_SIZE = 500
SCRIPT_NAMES = ("reserve", "settle", "heartbeat", "accounts", "standings", "remember", "recall", "forget")
REDIS_REMEDIES = {
    "NOAUTH": "give the password in SIDECAR_STORE, as redis://:PASSWORD@HOST:PORT/DB",
    "invalid username-password": "correct the password in SIDECAR_STORE",
    "WRONGPASS": "correct the password in SIDECAR_STORE",
    "OOM command": "give it more memory, with maxmemory-policy noeviction",
    "read only replica": "name the primary, not a replica",
    "unknown command": "it must be Redis 5 or newer, or Valkey",
    "DB index is out of range": "name a database that it has, as redis://HOST:PORT/DB",
}
"""What to do about an error of Redis whose message contains the key."""


class RedisStore:
    """See `policies.api.store.Store` and `EntryStore`.

    *url* is `redis://`, `rediss://` or `unix://`, with user, password and database. All keys begin with *prefix*, so that
    several deployments can share one server. Each operation has *timeout* seconds, which include connecting and waiting for one of
    *connections*. An operation is completed even if its caller is cancelled. *clock* replaces the server's, in seconds since
    1970. Reservations are charged when their process has sent no heartbeat for *grace* seconds.
    """

    is_remote = True
    max_entries = MAX_SHARED_ENTRIES

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "sidecar",
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        grace: float = 30.0,
        timeout: float = 1.0,
        connections: int = 32,
    ) -> None:
        self._url, self._clock, self._monotonic = url, clock, monotonic
        self._hash_tag = f"{{{prefix}}}"
        self._grace = round(grace * MICROSECONDS_PER_SECOND)
        self._timeout, self._connections = timeout, connections
        self._owner = uuid4().hex
        self._windows = WindowCache()
        self._clock_offset = time.time() - monotonic()
        """The server's clock minus ours, in seconds."""
        self._is_down = self._is_retrying = False
        self._down_until = 0.0
        self._client = self._new_client()
        self._sources = {name: _script_source(name) for name in SCRIPT_NAMES}
        self._scripts = {name: self._client.register_script(source) for name, source in self._sources.items()}

    def _new_client(self, **node: Any) -> Redis:
        """Return a client of the server, or of another *node* of its cluster (`host` and `port`)."""
        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=self._connections,
            timeout=self._timeout,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
        )
        pool.connection_kwargs.update(node)
        return Redis(connection_pool=pool)

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        call = self._owner, call_id, part, ceiling, len(claims)
        reply = await self._run_in_windows("reserve", call, claims, self._claim_arguments)
        if reply[0] == REPLY_CALL_ENDED:
            raise ReservationGone(call_id)
        standings = [
            Standing(claim.limit, used, resets_at / MICROSECONDS_PER_SECOND, held, needed)
            for claim, used, held, needed, resets_at in zip(
                claims, reply[4::4], reply[5::4], reply[6::4], reply[7::4], strict=True
            )
        ]
        refused = None if reply[3] < 0 else reply[3]
        return Grant(reply[2], standings, reply[1] / MICROSECONDS_PER_SECOND, refused)

    async def _run_in_windows(
        self, script: str, first: Sequence[Any], claims: Sequence[Claim], arguments_of: Callable[[Claim, float], Any]
    ) -> Any:
        """Run *script* with the arguments of *claims* after the *first* ones, until their windows are current ones."""
        for _ in range(MAX_ATTEMPTS):
            now, arguments = self._estimated_time(), [*first]
            for claim in claims:
                arguments += arguments_of(claim, now)
            reply = await self._run(script, self._time_argument(), *arguments)
            self._set_clock_offset(reply[1])
            if reply[0] != REPLY_OTHER_WINDOW:
                return reply
        msg = f"{self._address}: its clock jumps; see that the servers keep time"
        raise StoreDown(msg)

    def _claim_arguments(self, claim: Claim, now: float) -> tuple[Any, ...]:
        """Return the twelve arguments of one claim, in the order that `reserve.lua` documents."""
        window, bucket = claim.window, 0
        if isinstance(window, Sliding):
            bucket = round(bucket_seconds(window, claim.limit) * MICROSECONDS_PER_SECOND)
        costs = (claim.limit, claim.base, claim.per_token, claim.scale, claim.floor)
        return (claim.key, *self._span(claim, now), *costs, bucket, *_group_arguments(claim))

    def _read_arguments(self, claim: Claim, now: float) -> tuple[Any, ...]:
        """Return the eight arguments of one claim, in the order that `standings.lua` documents."""
        return (claim.key, *self._span(claim, now), claim.limit, claim.base, *_group_arguments(claim))

    def _span(self, claim: Claim, now: float) -> tuple[int, int]:
        """Return start and end of a calendar window at *now*, or -1 and the length of a sliding one; in microseconds."""
        window = claim.window
        if isinstance(window, Sliding):
            return SLIDING_START, round(window.seconds * MICROSECONDS_PER_SECOND)
        return self._windows.at(window, round(now * MICROSECONDS_PER_SECOND))

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        pairs = [each for key, charge in charges.items() for each in (key, min(max(0, charge), MAX_COUNTER_VALUE))]
        await self._run("settle", call_id, 0, int(refund), len(charges), *pairs)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        await self._run("settle", call_id, 1, 1, 0)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        await self._run("heartbeat", self._time_argument(), "", self._grace)
        found: list[Account] = []
        for page in range(MAX_COUNTER_VALUE):
            fields = await self._run("accounts", self._time_argument(), page * ACCOUNTS_PAGE_SIZE, ACCOUNTS_PAGE_SIZE)
            rows = [fields[at : at + 4] for at in range(0, len(fields), 4)]
            found += [
                account(key.decode(), int(spent), int(held), int(ends) / MICROSECONDS_PER_SECOND)
                for key, spent, held, ends in rows
                if key
            ]
            if len(rows) < ACCOUNTS_PAGE_SIZE:
                break
        return found

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """See `Store.standings`."""
        reply = await self._run_in_windows("standings", (len(claims),), claims, self._read_arguments)
        return [
            Standing(
                claim.limit,
                used,
                resets_at / MICROSECONDS_PER_SECOND,
                held,
                claim.base if used + claim.base > claim.limit else 0,
            )
            for claim, used, held, resets_at in zip(claims, reply[2::3], reply[3::3], reply[4::3], strict=True)
        ]

    async def remember(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """See `EntryStore.remember`."""
        check_entries(entries)
        pairs = [each for entry in entries.items() for each in entry]
        milliseconds = max(1, round(seconds * 1000))
        bounds = (milliseconds, self.max_entries, EXPIRED_PER_OPERATION)
        await self._run("remember", self._time_argument(), *bounds, *pairs)

    async def recall(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `EntryStore.recall`."""
        check_keys(keys)
        found: list[bytes | None] = await self._run("recall", self._time_argument(), *keys)
        return found

    async def forget(self, keys: Sequence[str]) -> None:
        """See `EntryStore.forget`."""
        check_keys(keys)
        await self._run("forget", *keys)

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`."""
        self._set_clock_offset(await self._run("heartbeat", self._time_argument(), self._owner, self._grace))

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self.heartbeat()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    def _estimated_time(self) -> float:
        return self._clock() if self._clock is not None else self._monotonic() + self._clock_offset

    def _time_argument(self) -> int | str:
        """Return the time that a script takes for now; empty for the server's own."""
        return "" if self._clock is None else round(self._clock() * MICROSECONDS_PER_SECOND)

    def _set_clock_offset(self, now: int) -> None:
        self._clock_offset = now / MICROSECONDS_PER_SECOND - self._monotonic()

    async def _run(self, script: str, *arguments: Any) -> Any:
        if self._is_down and (self._is_retrying or self._monotonic() < self._down_until):
            msg = f"{self._address} did not answer just now"
            raise StoreDown(msg)
        self._is_retrying = self._is_down
        with anyio.CancelScope(shield=True):
            try:
                reply = await self._send(script, arguments)
            except RedisError as error:
                self._is_down, self._down_until = True, self._monotonic() + DOWN_RETRY_SECONDS
                raise StoreDown(self._describe(error), taken=not _was_never_sent(error)) from error
            finally:
                self._is_retrying = False
        self._is_down = False
        return reply

    async def _send(self, script: str, arguments: Sequence[Any]) -> Any:
        # Every operation may be sent twice, so a broken connection is replaced once, and a moved cluster slot is followed.
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._scripts[script](keys=[self._hash_tag], args=arguments)
            except MovedError as moved:
                await self._move_to(moved.host, moved.port)
            except RedisConnectionError as error:
                if _was_never_sent(error):
                    raise
        return await self._scripts[script](keys=[self._hash_tag], args=arguments)

    async def _move_to(self, host: str, port: int) -> None:
        old, self._client = self._client, self._new_client(host=host, port=port)
        self._scripts = {name: self._client.register_script(source) for name, source in self._sources.items()}
        await old.connection_pool.disconnect(inuse_connections=False)

    @property
    def _address(self) -> str:
        """The URL without user and password."""
        return self._url.rpartition("@")[2].removeprefix("redis://").removeprefix("rediss://")

    def _describe(self, error: RedisError) -> str:
        text = str(error) or type(error).__name__
        remedies = (remedy for phrase, remedy in REDIS_REMEDIES.items() if phrase in text)
        return f"{self._address}: {text}; {next(remedies, 'see that it runs and can be reached')}"


def _group_arguments(claim: Claim) -> tuple[int, str, str]:
    """Return how many identities have a counter of their own, the key of their group, and that of its overflow counter."""
    return (claim.max_identities, claim.group_key, claim.overflow_key) if claim.max_identities else (0, "", "")


def _was_never_sent(error: RedisError) -> bool:
    """Return whether the operation cannot have been executed, because there was no connection."""
    return any(phrase in str(error) for phrase in ("connecting to", "No connection available"))


def _script_source(name: str) -> str:
    files = resources.files(__package__)
    return "".join(files.joinpath(f"{each}.lua").read_text("utf-8") for each in ("common", name))
