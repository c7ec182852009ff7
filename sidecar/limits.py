"""Where a call's limits stand, as headers of its answer.

`RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-11, `x-ratelimit-*` those of OpenAI.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from policies.store import Claim, Standing
from policies.window import SECONDS, Sliding, Window

Header: TypeAlias = tuple[bytes, bytes]


class Names(NamedTuple):
    """OpenAI's headers for one unit."""

    limit: bytes
    remaining: bytes
    reset: bytes


UNITS = {
    unit: Names(*(f"x-ratelimit-{what}-{unit}".encode() for what in ("limit", "remaining", "reset")))
    for unit in ("requests", "tokens")
}


def limit_headers(standings: Sequence[tuple[Claim, Standing]], now: float) -> list[Header]:
    """Return the headers for the limits of one call; empty where it had none.  Once per answer."""
    if not standings:
        return []
    policies, states = [], []
    tightest: dict[str, tuple[int, int, int]] = {}
    for claim, standing in standings:
        limit = standing.limit
        left = max(0, limit - standing.used)
        policy, state = _words(claim.policy, limit, claim.window)
        wait = max(0, math.ceil(standing.resets_at - now))
        policies.append(policy)
        states.append(state % (left, wait))
        known = tightest.get(claim.unit)
        if known is None or left < known[0]:
            tightest[claim.unit] = (left, limit, wait)
    headers = [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states))]
    for unit, names in UNITS.items():
        if unit in tightest:
            left, limit, wait = tightest[unit]
            headers += [(names.limit, b"%d" % limit), (names.remaining, b"%d" % left), (names.reset, _duration(wait))]
    return headers


@functools.lru_cache(1024)
def _words(policy: str, limit: int, window: Window) -> tuple[bytes, bytes]:
    """Return a limit's words in `RateLimit-Policy`, and those in `RateLimit`, into which its state is put."""
    name = "".join(char for char in policy if char.isprintable() and char not in '"\\').encode("latin-1", "replace")
    seconds = math.ceil(window.seconds) if isinstance(window, Sliding) else SECONDS[window.period]
    return b'"%b";q=%d;w=%d' % (name, limit, seconds), b'"%b";r=%%d;t=%%d' % name.replace(b"%", b"%%")


@functools.lru_cache(1024)
def _duration(seconds: int) -> bytes:
    """Return *seconds* as OpenAI writes them: `1h2m3s`, `6m0s`, `20s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
