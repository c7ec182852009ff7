"""The list of models of one upstream: when it is read, what a failure keeps, and that one read runs at a time."""

from __future__ import annotations

import asyncio
import json

import pytest

from policies.testing import FakeClock
from sidecar.upstream.routing.listed_names import MAX_LISTED_MODELS, MAX_MODEL_NAME_LENGTH, Fit, ListedNames
from sidecar.upstream.routing.model_listing import (
    KEEP_FAILURE_SECONDS,
    KEEP_SECONDS,
    KEEP_UNKNOWN_SECONDS,
    WAIT_SECONDS,
    ModelListing,
)

pytestmark = pytest.mark.anyio


class Lists:
    """A listing, the clock that it sees, and what its upstream sends."""

    def __init__(self) -> None:
        self.body = json.dumps({"data": [{"id": "a"}]}).encode()
        self.reads, self.clock, self.warned = 0, FakeClock(), list[str]()
        self.opened = asyncio.Event()
        self.opened.set()
        self.listing = ModelListing("up", self._read, self.clock, self.warned.append)

    async def _read(self) -> bytes:
        self.reads += 1
        await self.opened.wait()
        return self.body

    async def refresh(self, *, for_unknown: bool = False) -> int:
        """Refresh as a call would, wait for what that starts, and return the number of reads so far."""
        self.listing.refresh(for_unknown=for_unknown)
        if (running := self.listing.waiting) is not None:
            await asyncio.wait([running[0]])
        return self.reads


async def test_list_is_read_again_when_it_is_old() -> None:
    """A list is read again after 60 s, after 10 s where reading failed, and after 5 s for an unknown model."""
    up = Lists()
    assert (await up.refresh(), await up.refresh()) == (1, 1)
    up.clock.advance(KEEP_UNKNOWN_SECONDS)
    assert (await up.refresh(), await up.refresh(for_unknown=True)) == (1, 2)
    up.clock.advance(KEEP_SECONDS)
    up.body = b"<html>"
    assert (await up.refresh(), await up.refresh(for_unknown=True)) == (3, 3)
    up.clock.advance(KEEP_FAILURE_SECONDS)
    assert await up.refresh() == 4


async def test_failure_keeps_the_list_and_is_logged_once() -> None:
    """A list that cannot be read keeps the earlier one, which is no longer current; the log has one line until it is read."""
    up = Lists()
    await up.refresh()
    for body in (b"<html>", b'{"data": 3}', b'{"data": [{"id": 3}]}', b'{"data": [' + b"[" * 100_000):
        up.body = body
        up.clock.advance(KEEP_SECONDS)
        await up.refresh()
        assert not up.listing.is_current
        assert up.listing.names is not None
        assert up.listing.names.names == ("a",)
    assert len(up.warned) == 1
    up.body = b'{"data": [{"id": "b"}]}'
    up.clock.advance(KEEP_SECONDS)
    await up.refresh()
    assert up.listing.is_current
    up.body = b""
    up.clock.advance(KEEP_SECONDS)
    await up.refresh()
    assert len(up.warned) == 2


async def test_one_read_runs_at_a_time() -> None:
    """Calls join the running read; they wait for it for two seconds from its start, and no longer."""
    up = Lists()
    up.opened.clear()
    up.listing.refresh()
    up.listing.refresh(for_unknown=True)
    await asyncio.sleep(0)
    assert up.reads == 1
    assert up.listing.waiting is not None
    up.clock.advance(WAIT_SECONDS)
    assert up.listing.waiting is None
    await up.listing.aclose()
    up.clock.advance(KEEP_SECONDS)
    up.listing.refresh()
    assert up.reads == 1


async def test_refused_model_has_the_list_read_again() -> None:
    """A listed model that the upstream refuses has the list read again, after 5 s; a model that is not listed has not."""
    up = Lists()
    await up.refresh()
    up.clock.advance(KEEP_UNKNOWN_SECONDS)
    up.listing.doubt("other")
    assert await up.refresh() == 1
    up.listing.doubt("a")
    assert await up.refresh() == 2


def test_names_are_bounded() -> None:
    """At most 10,000 names of 256 characters are kept."""
    names = ListedNames(["x" * (MAX_MODEL_NAME_LENGTH + 1), "", *(f"m{at}" for at in range(MAX_LISTED_MODELS + 5))])
    assert len(names.names) == MAX_LISTED_MODELS
    assert names.fit("x" * 1_000_000) is Fit.NOT


@pytest.mark.parametrize(
    ("listed", "name", "fit", "sent"),
    [
        ("m", "m", Fit.SERVED, "m"),
        ("m", "m:latest", Fit.SERVED, "m"),
        ("m:latest", "m", Fit.SERVED, "m"),
        ("m:8b", "m", Fit.NOT, "m"),
        ("M:latest", "m", Fit.OTHER_CASE, "m"),
        ("n", "m:latest", Fit.NOT, "m:latest"),
    ],
)
def test_latest_and_case(listed: str, name: str, fit: Fit, sent: str) -> None:
    """`x` and `x:latest` are one model; another case fits less; a server that lists `x` alone is asked for `x`."""
    names = ListedNames([listed])
    assert (names.fit(name), names.spelled(name)) == (fit, sent)
