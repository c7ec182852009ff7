"""Bursts of calls on a real Redis: our own congestion is no failure of the store, and no limit is passed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from growing import Gate, GatedUpstream
from redis_server import RedisServer, with_own_prefix
from slow_link import slow_link

from policies import Budget, Policy, Rate
from policies.api.services import Services
from policies.api.usage import Usage
from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.stores.opening import open_store
from policies.stores.redis.link import DEFAULT_TIMEOUT_SECONDS
from policies.testing import Step, make_call, serve

pytestmark = pytest.mark.anyio

CALL_TOKENS = 5 + 10
"""Tokens that a call reserves and uses."""
STANDSTILL_SECONDS = DEFAULT_TIMEOUT_SECONDS + 0.5
"""Longer than a server may be silent."""
POLLS, POLL_SECONDS = 200, 0.05
"""Polls for the last settlements, which have no event; their number is bounded."""
QUEUED, DELAY_SECONDS, MAX_WAIT_SECONDS = 300, 0.2, 2.0
"""Settlements that an outage leaves, the time of a round trip, and how long the first new call may wait."""


class Burst:
    """The calls of one process on a store."""

    def __init__(self, services: Services, policies: Sequence[Policy]) -> None:
        self.services, self._policies, self.ledger = services, policies, Ledger(services)

    async def call(self, *script: Step) -> str:
        """Make one call whose upstream plays *script*; return "admitted", or the code of its refusal."""
        upstream = GatedUpstream(script or ["x"], usage=Usage(input=5, output=10))
        chain = Chain(self._policies, upstream, self.services, ledger=self.ledger)
        call = make_call("hi", services=self.services, body={"max_tokens": 10})
        served = await serve([], call, chain=chain)
        return "admitted" if served.rejection is None else served.rejection.code

    async def calls(self, number: int) -> Counter[str]:
        """Make *number* calls at the same moment; return how many ended how."""
        return Counter(await asyncio.gather(*[self.call() for _ in range(number)]))

    async def totals(self) -> tuple[int, int]:
        """Return what is spent and reserved in the only calendar counter, after the last settlement."""
        for _ in range(POLLS):
            await self.ledger.catch_up()
            if not self.ledger.pending_settlements:
                break
            await asyncio.sleep(POLL_SECONDS)
        (account,) = await self.services.store.accounts()
        return account.spent, account.reserved


def _ignore(subject: str, state: str, cause: str) -> None:
    """Write no line for each call that finds the store down; the program has one line per change."""


@asynccontextmanager
async def burst(url: str, folder: Path, *policies: Policy) -> AsyncIterator[Burst]:
    """Yield calls through *policies* on a store of their own at *url*."""
    store = open_store(with_own_prefix(url), folder=folder)
    try:
        yield Burst(Services(store=store, state_changed=_ignore), policies)
    finally:
        await store.aclose()


async def test_used_up_rate_lets_nothing_through(redis: RedisServer, tmp_path: Path) -> None:
    """A used-up rate refuses each of 1,000 calls at once, although it admits calls while the store is down."""
    async with burst(redis.url, tmp_path, Rate(name="rate", requests=5, window=3600)) as calls:
        assert await calls.calls(5) == {"admitted": 5}
        assert await calls.calls(1_000) == {"rate_limit_exceeded": 1_000}


async def test_burst_within_the_limits_is_admitted(redis: RedisServer, tmp_path: Path) -> None:
    """Of 1,500 calls at once that all fit, none is refused, and each is charged once."""
    limits = Rate(name="rate", requests=1_500, window=3600), Budget(name="b", tokens=1_500 * CALL_TOKENS)
    async with burst(redis.url, tmp_path, *limits) as calls:
        assert await calls.calls(1_500) == {"admitted": 1_500}
        assert await calls.totals() == (1_500 * CALL_TOKENS, 0)


async def test_burst_beyond_the_limits_is_refused(redis: RedisServer, tmp_path: Path) -> None:
    """Of 1,500 calls at once as many are admitted as fit; the others get the refusal of the limit, never 503."""
    limits = Rate(name="rate", requests=400, window=3600), Budget(name="b", tokens=1_500 * CALL_TOKENS)
    async with burst(redis.url, tmp_path, *limits) as calls:
        assert await calls.calls(1_500) == {"admitted": 400, "rate_limit_exceeded": 1_100}
        assert await calls.totals() == (400 * CALL_TOKENS, 0)


async def test_standstill_of_the_process_is_no_failure_of_the_store(redis: RedisServer, tmp_path: Path) -> None:
    """A process that stands still for longer than the time limit of an operation finds its answers when it goes on."""
    limits = Rate(name="rate", requests=50, window=3600), Budget(name="b", tokens=1_500 * CALL_TOKENS)
    async with burst(redis.url, tmp_path, *limits) as calls:
        assert await calls.calls(1) == {"admitted": 1}
        task = asyncio.create_task(calls.calls(100))
        for _ in range(5):
            await asyncio.sleep(0)
        time.sleep(STANDSTILL_SECONDS)  # noqa: ASYNC251  # the standstill
        assert await task == {"admitted": 49, "rate_limit_exceeded": 51}
        assert await calls.totals() == (50 * CALL_TOKENS, 0)


async def test_late_settlements_delay_the_next_call_by_a_few_round_trips(redis: RedisServer, tmp_path: Path) -> None:
    """After an outage with 300 queued settlements over a link of 200 ms, the first new call waits for less than 2 s.

    The wait is counted in round trips, so that the test does not depend on the speed of the machine.
    """
    limit = Budget(name="b", tokens=10_000 * CALL_TOKENS)
    async with slow_link(redis.port) as link, burst(f"redis://127.0.0.1:{link.port}/0", tmp_path, limit) as calls:
        gates = [Gate() for _ in range(QUEUED)]
        tasks = [asyncio.create_task(calls.call("x", gate)) for gate in gates]
        for gate in gates:
            await gate.reached.wait()
        link.cut()
        for gate in gates:
            gate.opened.set()
        assert Counter(await asyncio.gather(*tasks)) == {"admitted": QUEUED}
        queued = calls.ledger.pending_settlements
        link.mend(DELAY_SECONDS)
        began, answers = time.monotonic(), Counter[str]()
        while not answers["admitted"]:  # for some moments the store remembers that it was down
            link.round_trips, began = 0, time.monotonic()
            answers[await calls.call()] += 1
        seconds, round_trips = time.monotonic() - began, link.round_trips
        assert await calls.totals() == ((QUEUED + 1) * CALL_TOKENS, 0)

    print(f"\n{queued} settlements queued: the first new call took {round_trips} round trips, {seconds:.2f} s")
    assert queued == QUEUED
    assert round_trips * DELAY_SECONDS < MAX_WAIT_SECONDS
