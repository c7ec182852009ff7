"""The same operations give the same answers in every store; the arithmetic is written twice, in Python and in Lua."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from redis_server import RedisServer, with_own_prefix
from store_steps import STEPS, played

from policies.stores.opening import open_store
from policies.testing import FakeClock


@pytest.mark.parametrize("other", ["sqlite", "redis"])
def test_all_stores_give_the_same_answers(request: pytest.FixtureRequest, other: str) -> None:
    """Every answer to any operations is the same: what fits, with which ceiling, the state of the limits, the accounts."""
    server: RedisServer | None = request.getfixturevalue("redis") if other == "redis" else None

    @settings(max_examples=150, deadline=None)
    @given(steps=STEPS)
    def agree(steps: list[tuple[object, ...]]) -> None:
        async def run(url: str, folder: Path) -> list[object]:
            clock = FakeClock()
            store = open_store(url, folder=folder, clock=clock)
            try:
                return await played(store, clock, steps)
            finally:
                await store.aclose()

        with TemporaryDirectory() as name:
            folder = Path(name)
            address = with_own_prefix(server.url) if server is not None else "sqlite:///s.db"
            expected = asyncio.run(run("memory://", folder))
            found = asyncio.run(run(address, folder))
        assert found == expected

    agree()
