"""Settings and fixtures of all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator

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


_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which tests fail."""
    report = yield
    item.stash[_HAS_FAILED] = item.stash.get(_HAS_FAILED, False) or report.failed
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Destroy silently what a failed test has left open: its warnings would fail later tests.

    The last exception of the interpreter refers to all local variables of the test.
    """
    if item.stash.get(_HAS_FAILED, False):
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            sys.__dict__.pop(name, None)
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            gc.collect()
        finally:
            sys.unraisablehook = hook


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
