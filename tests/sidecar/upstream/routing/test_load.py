"""The load of upstreams: turns by weight, and the bound above which conversations spill."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.upstream.routing.load import SPILL_FACTOR, SPILL_MARGIN, Rotation, UpstreamLoad, is_overloaded

WEIGHTS = st.lists(st.integers(1, 9), min_size=2, max_size=6)


@given(WEIGHTS, st.integers(1, 300))
def test_idle_upstreams_take_turns_by_weight(weights: list[int], calls: int) -> None:
    """Calls one after the other are shared in proportion to the weights; no upstream is off by more than its turn and one."""
    loads, rotation = [UpstreamLoad(weight) for weight in weights], Rotation()
    counts = [0] * len(loads)
    for _ in range(calls):
        counts[rotation.least_busy(loads)] += 1
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - calls * weight / sum(weights)) <= len(weights)


@given(WEIGHTS, st.integers(1, 300))
def test_parallel_calls_are_shared_by_weight(weights: list[int], calls: int) -> None:
    """Calls that all stay in flight fill the upstreams evenly: none has more than one above its share per weight."""
    loads, rotation = [UpstreamLoad(weight) for weight in weights], Rotation()
    for _ in range(calls):
        loads[rotation.least_busy(loads)].begin()
    relative = [load.in_flight / load.weight for load in loads]
    assert max(relative) - min(relative) <= 1 / min(weights) + 1e-9


def test_upstream_that_returns_gets_only_its_share() -> None:
    """An upstream that was passed over for a while does not get all calls afterwards."""
    loads, rotation = [UpstreamLoad(1), UpstreamLoad(1)], Rotation()
    for _ in range(100):
        rotation.least_busy(loads[:1])
    counts = [0, 0]
    for _ in range(10):
        counts[rotation.least_busy(loads)] += 1
    assert counts == [5, 5]


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.5, 8)), min_size=2, max_size=6))
def test_one_upstream_is_always_below_the_bound(loads: list[tuple[int, float]]) -> None:
    """Whatever the load, the least busy upstream is not overloaded, so a conversation always finds a place."""
    made = [UpstreamLoad(weight) for _, weight in loads]
    for each, (count, _) in zip(made, loads, strict=True):
        each.in_flight = count
    least = min(made, key=lambda each: each.in_flight / each.weight)
    assert not is_overloaded(least, made)


@pytest.mark.parametrize(("here", "there", "overloaded"), [(0, 0, False), (2, 0, False), (3, 0, True), (10, 10, False)])
def test_bound(here: int, there: int, overloaded: bool) -> None:  # noqa: FBT001  # a column of the table
    """The bound is 1.25 times the fair share of all attempts in flight, and one more."""
    loads = [UpstreamLoad(1), UpstreamLoad(1)]
    loads[0].in_flight, loads[1].in_flight = here, there
    assert is_overloaded(loads[0], loads) is overloaded
    assert overloaded is (here > SPILL_FACTOR * (here + there) / 2 + SPILL_MARGIN)
