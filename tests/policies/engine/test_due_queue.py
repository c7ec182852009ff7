"""Timers of one length, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_loop import VirtualLoop

from policies.engine.due_queue import DueQueue

SECONDS = 10.0


def test_each_target_is_due_after_the_same_time() -> None:
    """A target is due exactly `seconds` after it was added; one timer serves all that wait."""
    loop, due = VirtualLoop(), list[tuple[str, float]]()
    queue = DueQueue[str](SECONDS, lambda each: due.append((each, loop.now)), clock=loop.time, call_at=loop.call_at)
    start = loop.now
    for name, gap in (("a", 3.0), ("b", 4.0), ("c", 0.0)):
        queue.add(name, loop.now)
        loop.advance(gap)

    assert len(loop.pending) == 1
    loop.advance(2 * SECONDS)
    assert due == [("a", start + SECONDS), ("b", start + SECONDS + 3), ("c", start + SECONDS + 7)]
    assert (len(queue), loop.pending) == (0, [])


def test_removed_target_is_never_due() -> None:
    """A target that was removed is not called, and removing it again has no effect."""
    loop, due = VirtualLoop(), list[str]()
    queue = DueQueue[str](SECONDS, due.append, clock=loop.time, call_at=loop.call_at)
    for name in ("a", "b"):
        queue.add(name, loop.now)
    for _ in range(2):
        queue.remove("a")
    loop.advance(SECONDS)
    assert due == ["b"]


def test_target_that_fails_does_not_stop_the_others() -> None:
    """If the callback of one target raises, the others are called by the next timer."""
    loop, due = VirtualLoop(), list[str]()

    def on_due(name: str) -> None:
        due.append(name)
        if name == "a":
            raise ConnectionError

    queue = DueQueue[str](SECONDS, on_due, clock=loop.time, call_at=loop.call_at)
    for name in ("a", "b"):
        queue.add(name, loop.now)
    with pytest.raises(ConnectionError):
        loop.advance(SECONDS)
    loop.advance(0)
    assert due == ["a", "b"]


@given(st.lists(st.tuples(st.floats(0, 15), st.floats(0, 12)), max_size=20))
def test_any_order_of_adding_and_removing(steps: list[tuple[float, float]]) -> None:
    """A target is due if, and only if, it was not removed within its time; timers do not accumulate."""
    loop, due, expected = VirtualLoop(), set[int](), set[int]()
    queue = DueQueue[int](SECONDS, due.add, clock=loop.time, call_at=loop.call_at)
    for target, (lasts, gap) in enumerate(steps):
        queue.add(target, loop.now)
        loop.call_later(lasts, lambda target=target: queue.remove(target))  # type: ignore[misc]
        if lasts > SECONDS:
            expected.add(target)
        loop.advance(gap)
    assert loop.timers_made <= 2 * len(steps) + 1
    loop.advance(2 * SECONDS)
    assert expected <= due
    assert all(steps[target][0] >= SECONDS for target in due)
