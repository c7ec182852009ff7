"""Claims for tests of stores, and shortcuts for what such tests do with a store."""

from __future__ import annotations

from policies.api.claim import Claim
from policies.api.store import Grant, Store
from policies.api.window import Calendar, Sliding, Window

DAY_SECONDS = 86_400.0
PER_DAY = Calendar("day")


def budget(
    limit: int, base: int = 10, *, per_token: int = 0, floor: int = 0, name: str = "b", window: str = "day"
) -> Claim:
    """Return a claim on tokens of a calendar window."""
    return Claim(
        policy=name,
        identity="t",
        unit="tokens",
        limit=limit,
        window=Calendar(window),  # type: ignore[arg-type]  # a unit as a plain string
        base=base,
        per_token=per_token,
        floor=floor,
    )


def rate(limit: int, seconds: float = 60.0, *, base: int = 1, name: str = "r") -> Claim:
    """Return a claim on requests of a sliding window."""
    return Claim(policy=name, identity="t", unit="requests", limit=limit, window=Sliding(seconds), base=base)


def chosen_by_client(name: str, *, limit: int = 10, window: Window = PER_DAY, group: str = "acme") -> Claim:
    """Return a claim of an identity that clients choose; three of a group get counters of their own."""
    return Claim(
        policy="u",
        identity=f"{group}\x1e{name}",
        unit="tokens",
        limit=limit,
        window=window,
        base=10,
        max_identities=3,
        identity_group=group,
    )


async def reserve(store: Store, call: str, *claims: Claim, ceiling: int = 0, part: int = 0) -> Grant:
    """Reserve *claims* for *call*."""
    return await store.reserve(call, claims, ceiling, part)


async def totals(store: Store) -> list[tuple[int, int]]:
    """Return what is spent and reserved of each open calendar counter."""
    return [(account.spent, account.reserved) for account in await store.accounts()]
