"""Limit headers: the template, which is computed once for a set of limits, gives the same headers as a plain version."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from policies.api.claim import Claim, Unit
from policies.api.store import Standing
from policies.api.window import Calendar, Sliding, Window
from sidecar.wire.limit_headers import Header, limit_headers

NOW = 1_800_000_000.0
WINDOWS: dict[Window, int] = {Sliding(59.5): 60, Calendar("day"): 86_400, Calendar("hour"): 3_600}
UNITS: list[Unit] = ["requests", "tokens", "usd"]
POLICIES = st.sampled_from(["rate", "100%", 'a"b\\c', "ümlaut", "漢"])


@st.composite
def standings(draw: st.DrawFn) -> tuple[Claim, Standing]:
    window = draw(st.sampled_from(list(WINDOWS)))
    unit: Unit = draw(st.sampled_from(UNITS))
    limit = draw(st.integers(1, 100))
    claim = Claim(policy=draw(POLICIES), identity="x", unit=unit, limit=limit, window=window, base=1)
    resets_at = NOW + draw(st.floats(-5, 90_000))
    return claim, Standing(limit, draw(st.integers(-120, 120)), resets_at)


def plain_headers(limits: list[tuple[Claim, Standing]]) -> list[Header]:
    policies, states = [], []
    for claim, standing in limits:
        if claim.unit != "requests":
            continue
        name = claim.policy.replace('"', "").replace("\\", "").encode("latin-1", "replace")
        left, wait = left_and_wait(standing)
        policies.append(b'"%b";q=%d;w=%d' % (name, standing.limit, WINDOWS[claim.window]))
        states.append(b'"%b";r=%d;t=%d' % (name, left, wait))
    headers = [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states))] if policies else []
    for unit in ("requests", "tokens"):
        of_unit = [standing for claim, standing in limits if claim.unit == unit]
        if of_unit:
            tightest = min(of_unit, key=lambda standing: left_and_wait(standing)[0])
            left, wait = left_and_wait(tightest)
            headers += [
                (b"x-ratelimit-limit-%b" % unit.encode(), b"%d" % tightest.limit),
                (b"x-ratelimit-remaining-%b" % unit.encode(), b"%d" % left),
                (b"x-ratelimit-reset-%b" % unit.encode(), duration(wait)),
            ]
    return headers


def left_and_wait(standing: Standing) -> tuple[int, int]:
    return max(0, standing.limit - standing.used), max(0, math.ceil(standing.resets_at - NOW))


def duration(seconds: int) -> bytes:
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    parts = [(hours, "h", hours), (minutes, "m", hours or minutes), (rest, "s", True)]
    return "".join(f"{number}{unit}" for number, unit, shown in parts if shown).encode()


@given(st.lists(standings(), min_size=1, max_size=4))
def test_limit_headers_report_rates_and_the_tightest_limits(limits: list[tuple[Claim, Standing]]) -> None:
    """`RateLimit` lists the limits in requests; OpenAI's headers report, for each unit, the limit with the least left."""
    assert limit_headers(limits, NOW) == plain_headers(limits)


def test_call_without_limits_has_no_headers() -> None:
    """A call without limits gets no limit headers."""
    assert limit_headers([], NOW) == []
