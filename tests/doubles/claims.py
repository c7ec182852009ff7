"""Claims for tests of stores."""

from __future__ import annotations

from policies.api.claim import Claim
from policies.api.window import Calendar


def budget(limit: int, base: int = 10, *, each: int = 0, floor: int = 0, name: str = "b", window: str = "day") -> Claim:
    return Claim(
        policy=name,
        identity="t",
        unit="tokens",
        limit=limit,
        window=Calendar(window),  # type: ignore[arg-type]
        base=base,
        per_token=each,
        floor=floor,
    )
