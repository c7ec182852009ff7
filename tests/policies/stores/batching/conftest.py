"""The store of the tests of group commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busy_store import BusyStore


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncIterator[BusyStore]:
    """Give a store in which two calls are running."""
    made = BusyStore(tmp_path)
    await made.begin()
    yield made
    await made.store.aclose()
