"""The memory that a store is down."""

from __future__ import annotations

import pytest

from policies.api.store import StoreDown
from policies.stores.batching.outage import RETRY_SECONDS, Outage
from policies.testing import FakeClock


def test_one_operation_tries_a_store_that_is_down() -> None:
    """A store that failed is not asked for half a second; then one operation tries, and the others fail until it ends."""
    clock = FakeClock()
    outage = Outage(clock)
    assert outage.is_up
    outage.begin("it is locked")
    for _ in range(3):
        with pytest.raises(StoreDown, match="it is locked"):
            outage.check()
        clock.advance(RETRY_SECONDS / 4)
    clock.advance(RETRY_SECONDS / 4)
    outage.check()
    with pytest.raises(StoreDown):
        outage.check()
    clock.advance(RETRY_SECONDS)
    outage.check()  # the one before has not ended
    outage.end()
    assert outage.is_up
