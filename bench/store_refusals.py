"""Measure one store in a process of its own: CPU of a reservation that a full rate refuses, beside an admitted one.

Both rates hold as many requests, spread over the window; one has room left. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import time

import uvloop
from store_case import CEILING_TOKENS, LIMIT, Place, arguments, persistently, place_of

from policies.api.claim import Claim
from policies.api.window import Calendar, Sliding
from policies.stores.opening import open_store

WINDOW_SECONDS = 600.0
"""Long, so that Redis, which expires keys by its own clock, keeps them during the measurement."""
MAX_FILL_STEPS = 2_048
"""Most reservations that fill a window; a large limit is filled by requests of several at a time."""
CALLS_PER_BLOCK = 30
"""Reservations of one kind that are measured together; fewer than the smallest limit."""


def claims_of(tenant: str, limit: int, amount: int = 1) -> list[Claim]:
    """Return the claims of a call of *amount* requests."""
    rate = Claim(
        policy="rate", identity=tenant, unit="requests", limit=limit, window=Sliding(WINDOW_SECONDS), base=amount
    )
    budget = Claim(
        policy="budget",
        identity=tenant,
        unit="tokens",
        limit=LIMIT,
        window=Calendar("day"),
        base=9,
        per_token=1,
        floor=64,
    )
    return [rate, budget]


async def measure(place: Place, limit: int, rounds: int, blocks: int) -> dict[str, object]:
    """Return microseconds of CPU of an admitted and of a refused reservation in each round, with windows of *limit*."""
    # In the middle of a day, so that no calendar window ends.
    began = time.time() // 86_400 * 86_400 + 40_000
    now = began
    store = open_store(place.url, folder=place.folder, clock=lambda: now, resident=True)
    await persistently(store.heartbeat)
    steps = min(limit, MAX_FILL_STEPS)
    for tenant, filled in (("with room", limit - CALLS_PER_BLOCK), ("full", limit)):
        taken = 0
        for at in range(steps):
            now = began + at * WINDOW_SECONDS * 0.98 / steps
            amount = filled * (at + 1) // steps - taken
            if amount:
                taken += amount
                reserved = f"{tenant}-{at}", claims_of(tenant, limit, amount), CEILING_TOKENS
                await persistently(functools.partial(store.reserve, *reserved))
                await persistently(functools.partial(store.settle, f"{tenant}-{at}", {}))
        now = began
    now = began + WINDOW_SECONDS * 0.99
    number = 0
    admitted, refused = claims_of("with room", limit), claims_of("full", limit)
    found: dict[str, list[float]] = {name: [] for name in ("admitted", "admitted_server", "refused", "refused_server")}
    for _ in range(rounds):
        await persistently(store.heartbeat)
        spent = dict.fromkeys(found, 0)
        for _ in range(blocks):
            for name, claims in (("admitted", admitted), ("refused", refused)):
                server, client = place.server_ns(), time.process_time_ns()
                for _ in range(CALLS_PER_BLOCK):
                    number += 1
                    grant = await persistently(
                        functools.partial(store.reserve, f"call-{number}", claims, CEILING_TOKENS)
                    )
                    assert (grant.refused is None) == (name == "admitted"), grant
                spent[name] += time.process_time_ns() - client
                spent[f"{name}_server"] += place.server_ns() - server
                for back in range(CALLS_PER_BLOCK):
                    await persistently(functools.partial(store.release, f"call-{number - back}"))
        for name, values in found.items():
            values.append(spent[name] / blocks / CALLS_PER_BLOCK / 1000)
    await store.aclose()
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    arguments(parser)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=10)
    given = parser.parse_args()
    with contextlib.closing(uvloop.new_event_loop()) as loop:
        found = loop.run_until_complete(measure(place_of(given), given.limit, given.rounds, given.blocks))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
