"""Counts in Redis or Valkey, for any number of machines; each step is one script, one round trip.

Windows are those of the server's clock: a step is sent with the windows that are current by what the server last said,
and sent again with what it says where they are not.  What Redis writes to disk is Redis's business: with
`appendfsync everysec` its own death may cost the last second, the death of a sidecar costs nothing.
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
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import MovedError, RedisError

from policies.api.claim import MILLION, Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, StoreDown, account
from policies.api.window import Sliding, WindowCache, grain
from policies.stores.counting.arithmetic import LARGEST
from policies.stores.counting.rows import SLIDING

GRANTED, MOVED_ON, ENDED = 0, 1, 2
TRIES = 3
PAUSE = 0.5
"""Seconds for which a server that did not answer is not asked again, and then by one call: the others need not wait."""
PAGE = 500


class RedisStore:
    """See `policies.store.Store`.

    *url* is `redis://`, `rediss://` or `unix://`, with name, password and database.  All keys begin with *prefix*: it tells
    deployments on one server apart.  Every step has *timeout* seconds, connecting and waiting for one of *connections*
    included; it is finished, not left half done, when the call that waits for it is cancelled.  *clock* takes the place of
    the server's.
    """

    is_remote = True

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
        self._tag = f"{{{prefix}}}"
        self._grace, self._timeout, self._connections = round(grace * MILLION), timeout, connections
        self._owner = uuid4().hex
        self._spans = WindowCache()
        self._ahead = time.time() - monotonic()
        self._is_down = self._probing = False
        self._down_until = 0.0
        self._redis = self._client()
        self._scripts = {name: _script(name) for name in ("reserve", "settle", "heartbeat", "accounts")}
        self._runs = {name: self._redis.register_script(text) for name, text in self._scripts.items()}

    def _client(self, **elsewhere: Any) -> Redis:
        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=self._connections,
            timeout=self._timeout,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
        )
        pool.connection_kwargs.update(elsewhere)
        return Redis(connection_pool=pool)

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        for _ in range(TRIES):
            now = self._guess()
            arguments: list[Any] = [self._owner, call_id, part, ceiling, len(claims)]
            for claim in claims:
                arguments += self._written(claim, now)
            said = await self._run("reserve", self._given(), *arguments)
            self._set_clock(said[1])
            if said[0] == ENDED:
                raise ReservationGone(call_id)
            if said[0] == GRANTED:
                break
        else:
            msg = f"{self._shown}: its clock jumps; see that the servers keep time"
            raise StoreDown(msg)
        standings = [
            Standing(claim.limit, used, resets_at / MILLION)
            for claim, used, resets_at in zip(claims, said[4::2], said[5::2], strict=True)
        ]
        return Grant(said[2], standings, said[1] / MILLION, None if said[3] < 0 else said[3])

    def _written(self, claim: Claim, now: float) -> tuple[Any, ...]:
        window, fine = claim.window, 0
        if isinstance(window, Sliding):
            start, ends = SLIDING, round(window.seconds * MILLION)
            fine = round(grain(window, claim.limit) * MILLION)
        else:
            start, ends = self._spans.at(window, round(now * MILLION))
        crowd = (claim.max_identities, claim.group_key, claim.overflow_key) if claim.max_identities else (0, "", "")
        costs = (claim.limit, claim.base, claim.per_token, claim.scale, claim.floor)
        return (claim.key, start, ends, *costs, fine, *crowd)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        pairs = [each for key, charge in charges.items() for each in (key, min(max(0, charge), LARGEST))]
        await self._run("settle", call_id, 0, int(refund), len(charges), *pairs)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        await self._run("settle", call_id, 1, 1, 0)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        await self._run("heartbeat", self._given(), "", self._grace)
        found: list[Account] = []
        for page in range(LARGEST):
            rows = await self._run("accounts", self._given(), page * PAGE, PAGE)
            quarters = [rows[at : at + 4] for at in range(0, len(rows), 4)]
            found += [
                account(key.decode(), int(spent), int(held), int(ends) / MILLION)
                for key, spent, held, ends in quarters
                if key
            ]
            if len(quarters) < PAGE:
                break
        return found

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`."""
        self._set_clock(await self._run("heartbeat", self._given(), self._owner, self._grace))

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self.heartbeat()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _guess(self) -> float:
        return self._clock() if self._clock is not None else self._monotonic() + self._ahead

    def _given(self) -> int | str:
        return "" if self._clock is None else round(self._clock() * MILLION)

    def _set_clock(self, now: int) -> None:
        self._ahead = now / MILLION - self._monotonic()

    async def _run(self, script: str, *arguments: Any) -> Any:
        if self._is_down and (self._probing or self._monotonic() < self._down_until):
            msg = f"{self._shown} did not answer just now"
            raise StoreDown(msg)
        self._probing = self._is_down
        with anyio.CancelScope(shield=True):
            try:
                said = await self._asked(script, arguments)
            except RedisError as error:
                self._is_down, self._down_until = True, self._monotonic() + PAUSE
                raise StoreDown(self._words(error), taken=not _never_sent(error)) from error
            finally:
                self._probing = False
        self._is_down = False
        return said

    async def _asked(self, script: str, arguments: Sequence[Any]) -> Any:
        # Every step may be sent twice: a connection that broke is tried once more, a node that moved is followed.
        for _ in range(TRIES - 1):
            try:
                return await self._runs[script](keys=[self._tag], args=arguments)
            except MovedError as moved:
                await self._follow(moved.host, moved.port)
            except NoConnection as error:
                if _never_sent(error):
                    raise
        return await self._runs[script](keys=[self._tag], args=arguments)

    async def _follow(self, host: str, port: int) -> None:
        old, self._redis = self._redis, self._client(host=host, port=port)
        self._runs = {name: self._redis.register_script(text) for name, text in self._scripts.items()}
        await old.connection_pool.disconnect(inuse_connections=False)

    @property
    def _shown(self) -> str:
        return self._url.rpartition("@")[2].removeprefix("redis://").removeprefix("rediss://")

    def _words(self, error: RedisError) -> str:
        said = str(error) or type(error).__name__
        cure = next((cure for words, cure in CURES.items() if words in said), "see that it runs and can be reached")
        return f"{self._shown}: {said}; {cure}"


CURES = {
    "NOAUTH": "give the password in SIDECAR_STORE, as redis://:PASSWORD@HOST:PORT/DB",
    "invalid username-password": "see the password in SIDECAR_STORE",
    "WRONGPASS": "see the password in SIDECAR_STORE",
    "OOM command": "give it more memory, with maxmemory-policy noeviction",
    "read only replica": "name the primary, not a replica",
    "unknown command": "it must be Redis 5 or newer, or Valkey",
    "DB index is out of range": "name a database that it has, as redis://HOST:PORT/DB",
}


def _never_sent(error: RedisError) -> bool:
    """Whether the step cannot have happened: there was no connection at all."""
    return any(words in str(error) for words in ("connecting to", "No connection available"))


def _script(name: str) -> str:
    files = resources.files(__package__)
    return "".join(files.joinpath(f"{each}.lua").read_text("utf-8") for each in ("common", name))
