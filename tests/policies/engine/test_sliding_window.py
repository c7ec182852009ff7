"""The sliding window: what it counts, when events expire, and which are removed first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import objects_of

from policies.engine.sliding_window import SlidingWindow

SECONDS, BUCKETS = 60.0, 6


def window_of(*times: float, marked: bool = False) -> SlidingWindow:
    window = SlidingWindow(SECONDS, buckets=BUCKETS)
    for time in times:
        window.add(time, marked=marked)
    return window


@pytest.mark.parametrize(("now", "total"), [(0.0, 3), (59.999, 3), (60.0, 1), (69.999, 1), (70.0, 0)])
def test_events_expire_with_the_first_of_their_bucket(now: float, total: int) -> None:
    """Events within one bucket are forgotten together, one window after the first of them."""
    window = window_of(0.0, 9.999, 10.0)
    window.expire(now)
    assert window.total == total


def test_adding_expires_too() -> None:
    """A new event expires the old ones; `expire` need not be called before."""
    window = window_of(0.0, 1.0, 2.0)
    window.add(60.0)
    assert window.total == 1


def test_marked_events_are_counted_apart() -> None:
    """`total` counts all events and `marked` the marked ones; both expire."""
    window = window_of(0.0, 1.0, marked=True)
    window.add(2.0)
    window.add(10.0)
    window.add(11.0, marked=True)
    assert (window.total, window.marked) == (5, 3)
    window.expire(60.0)
    assert (window.total, window.marked) == (2, 1)
    window.clear()
    assert (window.total, window.marked) == (0, 0)


def test_oldest_events_are_removed_first() -> None:
    """Removed events are those that would expire first: afterwards less expires with the old buckets."""
    window = window_of(*[0.0] * 10, *[10.0] * 10)
    window.remove_oldest(15.0)
    assert window.total == 5
    window.expire(60.0)
    assert window.total == 5
    window.expire(70.0)
    assert window.total == 0


def test_no_more_is_removed_than_there_is() -> None:
    """Removing more events than are counted leaves none."""
    window = window_of(0.0, 10.0)
    window.remove_oldest(3.0)
    assert window.total == 0


@given(gaps=st.lists(st.floats(0.0, 30.0), max_size=80))
def test_counts_between_the_exact_and_a_bucket_less(gaps: list[float]) -> None:
    """At any time the count is at most that of the exact window, and at least that of a window shorter by one bucket."""
    window, times, now = SlidingWindow(SECONDS, buckets=BUCKETS), list[float](), 0.0
    for gap in gaps:
        now += gap
        window.add(now)
        times.append(now)
        exact = sum(time > now - SECONDS for time in times)
        shorter = sum(time > now - SECONDS + SECONDS / BUCKETS for time in times)
        assert shorter <= window.total <= exact


def test_memory_is_bounded() -> None:
    """A window keeps no more objects for 20,000 events than for one event in each of its buckets."""
    few = window_of(*[at * SECONDS / BUCKETS for at in range(BUCKETS + 1)])
    many = window_of(*[at / 100 for at in range(20_000)])
    assert objects_of(many) <= objects_of(few) + BUCKETS
