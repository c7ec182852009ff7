"""Decisions about a failure."""

from __future__ import annotations

import pytest

from policies import GIVE_UP, Retry


def test_negative_wait_is_refused() -> None:
    """A negative wait, which once meant no retry, is refused and names `GIVE_UP`."""
    for after in (-1, float("nan")):
        with pytest.raises(ValueError, match="return GIVE_UP to end the call"):
            Retry(after=after)
    assert Retry() == Retry(0.0)
    assert repr(GIVE_UP) == "GiveUp()"
