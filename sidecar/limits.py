"""Where a call's limits stand, as headers of its answer.

`RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-11, `x-ratelimit-*` those of OpenAI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from policies.store import Claim, Standing
from policies.window import SECONDS, Sliding

Header: TypeAlias = tuple[bytes, bytes]


def limit_headers(standings: Sequence[tuple[Claim, Standing]], now: float) -> list[Header]:
    """Return the headers for the limits of one call; empty where it had none.  Once per answer."""
    if not standings:
        return []
    policies, states = [], []
    tightest: dict[str, tuple[int, Standing]] = {}
    for claim, standing in standings:
        name = claim.policy.replace('"', "").replace("\\", "")
        window = claim.window
        seconds = math.ceil(window.seconds) if isinstance(window, Sliding) else SECONDS[window.period]
        wait = max(0, math.ceil(standing.resets_at - now))
        policies.append(f'"{name}";q={standing.limit};w={seconds}')
        states.append(f'"{name}";r={standing.left};t={wait}')
        known = tightest.get(claim.unit)
        if known is None or standing.left < known[1].left:
            tightest[claim.unit] = (wait, standing)
    headers = [
        (b"ratelimit-policy", ", ".join(policies).encode("latin-1", "replace")),
        (b"ratelimit", ", ".join(states).encode("latin-1", "replace")),
    ]
    for unit in ("requests", "tokens"):
        if unit in tightest:
            wait, standing = tightest[unit]
            headers += [
                (b"x-ratelimit-limit-%b" % unit.encode(), b"%d" % standing.limit),
                (b"x-ratelimit-remaining-%b" % unit.encode(), b"%d" % standing.left),
                (b"x-ratelimit-reset-%b" % unit.encode(), _duration(wait)),
            ]
    return headers


def _duration(seconds: int) -> bytes:
    """Return *seconds* as OpenAI writes them: `1h2m3s`, `6m0s`, `20s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
