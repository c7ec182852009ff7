"""Settings and fixtures of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from redis_server import MISSING, SERVER, RedisServer, redis_server

# Images of containers set this variable. Each of the hundreds of processes that tests start would then compile all modules
# again, which more than doubles the CPU time of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_finish() -> None:
    """Exclude what the collection of the tests made from garbage collection: scanning it takes most of each full collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, the only framework that the program supports."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Yield a Redis server that all tests share; each test uses a key prefix of its own."""
    if SERVER is None:
        pytest.skip(MISSING)
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server
