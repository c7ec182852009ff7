"""Sequences of operations to which every store must give the same answers."""

from __future__ import annotations

from hypothesis import strategies as st

from policies.api.claim import Claim
from policies.api.store import Grant, ReservationGone, Store
from policies.api.window import MAX_EXACT_LIMIT, Calendar, Sliding, Window
from policies.testing import FakeClock

IDENTITIES = ["ann", "bob", "cat", "dan"]


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    """Draw a claim of any unit and window."""
    unit = draw(st.sampled_from(["tokens", "requests", "usd"]))
    windows: list[Window] = [Calendar("minute"), Calendar("hour", "Asia/Kathmandu"), Sliding(30.0), Sliding(7.5)]
    big = draw(st.booleans())
    return Claim(
        policy=draw(st.sampled_from("pq")),
        identity=draw(st.sampled_from(IDENTITIES)),
        unit=unit,  # type: ignore[arg-type]  # one of the three
        limit=draw(st.integers(1, 200)) * (MAX_EXACT_LIMIT if big else 1),
        window=draw(st.sampled_from(windows)),
        base=draw(st.integers(0, 60)),
        per_token=draw(st.integers(0, 3)) * (draw(st.integers(1, 2_000_000)) if unit == "usd" else 1),
        floor=draw(st.integers(0, 40)),
        max_identities=draw(st.sampled_from([0, 0, 2])),
        identity_group=draw(st.sampled_from(["", "t"])),
    )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.lists(claims(), min_size=1, max_size=4), st.integers(0, 10**6)),
        st.tuples(st.just("part"), st.integers(0, 30), st.integers(0, 1_000)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 500)),
        st.tuples(st.just("release"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 20, 4_000, 8_000, 31_000, 61_000]), st.just(0)),
    ),
    max_size=30,
)


async def played(store: Store, clock: FakeClock, steps: list[tuple[object, ...]]) -> list[object]:
    """Return all answers of *store* to *steps*."""
    answers: list[object] = []
    calls: list[list[Claim]] = []
    parts: dict[str, int] = {}
    for step in steps:
        match step:
            case ("reserve", list(wanted), int(ceiling)):
                grant: Grant = await store.reserve(f"c{len(calls)}", wanted, ceiling)
                calls.append(wanted)
                answers.append((grant.ceiling, grant.refused, grant.now, grant.standings))
            case ("part", int(at), int(ceiling)) if calls:
                call = f"c{at % len(calls)}"
                parts[call] = parts.get(call, 0) + 1
                try:
                    grant = await store.reserve(call, calls[at % len(calls)], ceiling, parts[call])
                except ReservationGone:
                    continue
                parts[call] -= grant.refused is not None
                answers.append((grant.ceiling, grant.refused, grant.now, grant.standings))
            case ("settle", int(at), int(charge)) if calls:
                await store.settle(f"c{at % len(calls)}", {claim.key: charge for claim in calls[at % len(calls)]})
            case ("release", int(at), _) if calls:
                await store.release(f"c{at % len(calls)}")
            case ("wait", int(milliseconds), _):
                clock.advance(milliseconds / 1000)
                await store.heartbeat()
        accounts = sorted(await store.accounts(), key=repr)
        answers.append([each for each in accounts if each.spent or each.reserved])
    return answers
