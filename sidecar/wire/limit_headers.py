"""Where a call's limits stand, as headers of its answer.

`RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-11, `x-ratelimit-*` those of OpenAI.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from policies.api.claim import Claim
from policies.api.store import Standing
from policies.api.window import PERIOD_SECONDS, Sliding, Window

Header: TypeAlias = tuple[bytes, bytes]
Limit: TypeAlias = tuple[str, int, Window, str]
"""One limit: its policy's name, what it is, its window and its unit."""


class HeaderNames(NamedTuple):
    """OpenAI's headers for one unit."""

    limit: bytes
    remaining: bytes
    reset: bytes


UNITS = {
    unit: HeaderNames(*(f"x-ratelimit-{what}-{unit}".encode() for what in ("limit", "remaining", "reset")))
    for unit in ("requests", "tokens")
}


class Shape(NamedTuple):
    """What does not change in the headers of a call with certain limits.

    `states` takes what is left and the seconds to wait of each.  `tightest` has for each unit the headers of OpenAI and,
    of each limit in it, its place and the header that says it.
    """

    policies: Header
    states: bytes
    tightest: list[tuple[HeaderNames, list[tuple[int, Header]]]]


def limit_headers(standings: Sequence[tuple[Claim, Standing]], now: float) -> list[Header]:
    """Return the headers for the limits of one call; empty where it had none.  Once per answer."""
    if not standings:
        return []
    limits: tuple[Limit, ...] = ()
    numbers: tuple[int, ...] = ()
    for claim, standing in standings:
        limits += ((claim.policy, standing.limit, claim.window, claim.unit),)
        numbers += max(0, standing.limit - standing.used), max(0, math.ceil(standing.resets_at - now))
    policies, states, tightest = _shape(limits)
    headers = [policies, (b"ratelimit", states % numbers)]
    for names, places in tightest:
        at, limit = places[0]
        for other, its in places[1:]:
            if numbers[2 * other] < numbers[2 * at]:
                at, limit = other, its
        headers += (limit, (names.remaining, b"%d" % numbers[2 * at]), (names.reset, _duration(numbers[2 * at + 1])))
    return headers


@functools.lru_cache(1024)
def _shape(limits: tuple[Limit, ...]) -> Shape:
    policies, states = [], []
    for policy, limit, window, _ in limits:
        name = "".join(char for char in policy if char.isprintable() and char not in '"\\').encode("latin-1", "replace")
        seconds = math.ceil(window.seconds) if isinstance(window, Sliding) else PERIOD_SECONDS[window.period]
        policies.append(b'"%b";q=%d;w=%d' % (name, limit, seconds))
        states.append(b'"%b";r=%%d;t=%%d' % name.replace(b"%", b"%%"))
    tightest = []
    for unit, names in UNITS.items():
        if places := [
            (at, (names.limit, b"%d" % limit)) for at, (_, limit, _, its) in enumerate(limits) if its == unit
        ]:
            tightest.append((names, places))
    return Shape((b"ratelimit-policy", b", ".join(policies)), b", ".join(states), tightest)


@functools.lru_cache(1024)
def _duration(seconds: int) -> bytes:
    """Return *seconds* as OpenAI writes them: `1h2m3s`, `6m0s`, `20s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
