"""Transports run on both event loops; a suite that uses `transport` runs over each kind of transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme
from both_transports import AnyTransport, httpx_own, own
from event_loops import BACKEND_NAMES, BACKENDS


@pytest.fixture(params=BACKENDS, ids=BACKEND_NAMES)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each asynchronous test on both loops."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=[own, httpx_own], ids=["http", "httpx"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[AnyTransport]:
    made = request.param()
    yield made
    await made.aclose()
    assert made.open_count == 0
    assert not [task for task in asyncio.all_tasks() if "_pump" in repr(task) or "_query" in repr(task)]
