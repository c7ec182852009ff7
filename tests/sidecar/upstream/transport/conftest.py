"""Transports run on both event loops: asyncio's own, and uvloop, on which the program runs."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each asynchronous test on both loops."""
    return "asyncio", {"use_uvloop": request.param}
