"""The total of unread request bodies: exact for any order of events, bounded in all and by tenant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.downstream.buffered_bodies import HEADS_OWNER, REPORT_SECONDS, BufferedBodies, HeldBody

MOST = 1_000
OWNERS = ("a", "b", HEADS_OWNER)


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(OWNERS), st.one_of(st.none(), st.integers(0, 700)))),
    is_shared=st.booleans(),
)
def test_total_is_exact_and_bounded(steps: list[tuple[int, str, int | None]], *, is_shared: bool) -> None:
    """Whatever bodies grow and end, the total is the sum of what is held, below the limit, and zero at the end."""
    buffered = BufferedBodies(MOST, is_shared=is_shared)
    bodies: dict[tuple[int, str], HeldBody] = {}
    for number, owner, size in steps:
        body = bodies.setdefault((number, owner), HeldBody(buffered, owner))
        before = buffered.total
        if size is None:
            body.release()
        elif not body.add(size):
            assert buffered.total == before
        held = {name: sum(each.size for (_, by), each in bodies.items() if by == name) for name in OWNERS}
        assert buffered.total == sum(held.values()) <= MOST
        assert held[HEADS_OWNER] <= MOST // 2
        assert not is_shared or max(held.values()) <= MOST // 2
    for body in bodies.values():
        body.release()
    assert buffered.total == 0


def test_full_buffer_is_reported_once_per_episode() -> None:
    """A full buffer is reported at its first refusal, and as accepting when none came for ten seconds."""
    now, states = [0.0], list[bool]()
    buffered = BufferedBodies(MOST, on_change=states.append, clock=lambda: now[0])
    for _ in range(5):
        held = HeldBody(buffered, "a")
        assert held.add(MOST)
        assert not HeldBody(buffered, "a").add(1)
        held.release()
        now[0] += REPORT_SECONDS * 0.9
    assert states == [True]
    now[0] += REPORT_SECONDS
    held.add(1)
    held.release()

    assert states == [True, False]
