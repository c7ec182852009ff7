"""One store of each kind, with a fake clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_server import with_own_prefix
from stored import Opened, counter_bytes_in_file, objects_of, ring_bytes_in_redis

from policies.api.store import Store
from policies.stores.opening import open_store
from policies.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Give the clock of the test's stores."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Opened]:
    """Give an open store of each kind."""
    url = {"memory": "memory://", "sqlite": "sqlite:///store.db"}.get(request.param)
    if url is None:
        server = request.getfixturevalue("redis").url
        url = with_own_prefix(server)
        prefix = url.rpartition("=")[2]
    store = open_store(url, folder=tmp_path, clock=clock)

    async def kept() -> int:
        if request.param == "redis":
            return await ring_bytes_in_redis(server, prefix)
        return counter_bytes_in_file(tmp_path / "store.db") if request.param == "sqlite" else objects_of(store)

    yield Opened(store, request.param, kept)
    await store.aclose()


@pytest.fixture
def store(opened: Opened) -> Store:
    """Give the store alone."""
    return opened.store
