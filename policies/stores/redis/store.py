"""The Redis store: counts in Redis or Valkey, for any number of machines.

Operations of concurrent calls share one call of a script on the server, in one round trip. Windows follow the server's clock. An
operation is sent with the windows of the last time that the server returned. If the server finds others, it is sent again with
these. Durability is that of the server: with `appendfsync everysec` its crash may lose the last second. The crash of a sidecar
loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from policies.api.claim import Claim
from policies.api.store import MAX_REGISTERED_LIMITS, Account, Grant, ReservationGone, Standing, StoreDown
from policies.api.window import MICROSECONDS_PER_SECOND, Sliding
from policies.stores.counting.arithmetic import MAX_COUNTER_VALUE
from policies.stores.entries.bounds import EXPIRED_PER_OPERATION, MAX_SHARED_ENTRIES, check_entries, check_keys

from .batches import Batches, BatchLink
from .link import DEFAULT_TIMEOUT_SECONDS, ScriptLink
from .messages import (
    RESULT_CALL_ENDED,
    RESULT_OTHER_WINDOW,
    ClaimLists,
    Operation,
    accounts_of,
    grant_of,
    settlement,
    standings_from,
)
from .script import keys_of, script_source
from .servers.url import RedisUrl

MAX_WINDOW_ATTEMPTS = 3
"""Most times that an operation is sent, where its windows are not those of the server."""
ACCOUNTS_PAGE_SIZE = 500
OWNER_BYTES = 12
"""Random bytes of the id of a process, or of an operation that must not be executed twice."""
MAX_NOTE_CHARACTERS = 1_000

_log = logging.getLogger("sidecar.store")


class RedisStore:
    """See `policies.api.store.Store`, `CorrectableStore`, `LimitRegistry` and `EntryStore`.

    *url* has a form of `url`. All keys begin with *prefix*, so that several deployments can share one server.
    *timeout* is the silence in seconds after which the server counts as failed; see `ScriptLink`. *clock* replaces the
    server's, in seconds since 1970. Reservations are charged when their process has sent no heartbeat for *grace* seconds.
    Without *converts* the content of an earlier version is not converted, and refused. *link* replaces the connection.
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
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        converts: bool = True,
        link: BatchLink | None = None,
    ) -> None:
        self._grace = round(grace * MICROSECONDS_PER_SECOND)
        self._claims = ClaimLists()
        self._seen_notice = -1
        """Number of the last notice that was logged; -1 before the first heartbeat: notices before that are not logged."""
        location = RedisUrl.parse(url)
        self._link = link or ScriptLink(
            location, script_source(), keys_of(prefix), timeout=timeout, monotonic=monotonic
        )
        self._batches = Batches(
            self._link,
            secrets.token_hex(OWNER_BYTES),
            location.shown.partition("://")[2],
            clock=clock,
            monotonic=monotonic,
            offset=time.time() - monotonic(),
            patience=timeout,
            converts=converts,
        )

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        for _ in range(MAX_WINDOW_ATTEMPTS):
            values = self._claims.of(claims, self._batches.estimated_time())
            now, result = await self._batches.submit(("reserve", call_id, part, ceiling, *values))
            if result[0] == RESULT_CALL_ENDED:
                raise ReservationGone(call_id)
            if result[0] != RESULT_OTHER_WINDOW:
                return grant_of(claims, result, now)
        raise _clock_jumps()

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool:
        """See `Store.settle`."""
        return bool(await self._run_to_the_end(settlement(call_id, charges, refund=refund)) != "unknown")

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        await self._run_to_the_end(("release", call_id))

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        await self._run("heartbeat", self._grace, False, -1)  # charges the reservations of dead processes
        found: dict[tuple[str, str, str, str], Account] = {}
        for is_minute in (0, 1):
            read, skipped = ACCOUNTS_PAGE_SIZE, 0
            while read == ACCOUNTS_PAGE_SIZE:
                read, *fields = await self._run("accounts", is_minute, skipped, ACCOUNTS_PAGE_SIZE)
                found |= {(each.policy, each.identity, each.unit, each.window): each for each in accounts_of(fields)}
                skipped += read
        return list(found.values())

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """See `Store.standings`."""
        return standings_from(claims, await self._run_in_windows(claims, "standings"))

    async def correct(self, claims: Sequence[Claim], amount: int | None, note: str) -> Sequence[Standing]:
        """See `CorrectableStore.correct`. Unlike there, an operation that is sent twice is executed once."""
        if any(isinstance(claim.window, Sliding) for claim in claims):
            msg = "only counters of calendar windows can be corrected"
            raise ValueError(msg)
        correction, text = secrets.token_hex(OWNER_BYTES), note[:MAX_NOTE_CHARACTERS]
        bounded = None if amount is None else max(-MAX_COUNTER_VALUE, min(amount, MAX_COUNTER_VALUE))
        result = await self._run_in_windows(claims, "correct", correction, bounded, text)
        return standings_from(claims, result)

    @property
    def generation(self) -> str:
        """See `LimitRegistry.generation`."""
        return self._batches.generation or ""

    async def register_limits(self, limits: Mapping[str, str]) -> Mapping[str, str]:
        """See `LimitRegistry.register_limits`."""
        kept = dict(list(limits.items())[:MAX_REGISTERED_LIMITS])
        before = await self._run("limits", secrets.token_hex(OWNER_BYTES), msgspec.json.encode(kept).decode())
        return msgspec.json.decode(before, type=dict[str, str]) if before else {}

    async def remember(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """See `EntryStore.remember`. A value is sent as text: each byte is the character of that number."""
        check_entries(entries)
        pairs = [each for key, value in entries.items() for each in (key, value.decode("latin-1"))]
        microseconds = max(1, round(seconds * MICROSECONDS_PER_SECOND))
        await self._run("remember", microseconds, self.max_entries, EXPIRED_PER_OPERATION, *pairs)

    async def recall(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `EntryStore.recall`."""
        check_keys(keys)
        found = await self._run("recall", *keys)
        return [each.encode("latin-1") if isinstance(each, str) else None for each in found]

    async def forget(self, keys: Sequence[str]) -> None:
        """See `EntryStore.forget`."""
        check_keys(keys)
        await self._run("forget", *keys)

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`. New notices of corrections are logged."""
        self._seen_notice, *notices = await self._run("heartbeat", self._grace, True, self._seen_notice)
        for each in notices:
            _log.warning("%s", each)

    async def ping(self) -> None:
        """See `Store.ping`. At the first connection it waits until the store is ready."""
        await self._batches.prepare()
        await self._run("ping")

    async def warnings(self) -> Sequence[str]:
        """See `AdvisedStore.warnings`."""
        return await self._link.warnings()

    async def aclose(self) -> None:
        """Send queued operations, wait for their replies for a moment, and close the connection."""
        await self._batches.aclose()

    async def _run(self, *operation: Any) -> Any:
        """Return the result of *operation*."""
        _, result = await self._batches.submit(operation)
        return result

    async def _run_to_the_end(self, operation: Operation) -> Any:
        """Return the result of *operation*, which is executed even if this is cancelled."""
        _, result = await asyncio.shield(self._batches.submit(operation))
        return result

    async def _run_in_windows(self, claims: Sequence[Claim], *operation: Any) -> Any:
        """Return the result of *operation* on *claims*, sent again if their windows are not the current ones."""
        for _ in range(MAX_WINDOW_ATTEMPTS):
            values = self._claims.of(claims, self._batches.estimated_time())
            _, result = await self._batches.submit((*operation, *values))
            if result[0] != RESULT_OTHER_WINDOW:
                return result
        raise _clock_jumps()


def _clock_jumps() -> StoreDown:
    return StoreDown("the clock of the server jumps; see that the servers keep time")
