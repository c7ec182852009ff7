"""Transports run on both event loops."""

from __future__ import annotations

from typing import Any

import pytest
import trustme
from event_loops import BACKEND_NAMES, BACKENDS


@pytest.fixture(params=BACKENDS, ids=BACKEND_NAMES)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each asynchronous test on both loops."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()
