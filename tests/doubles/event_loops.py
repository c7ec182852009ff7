"""The two event loops that the program can run on: asyncio's own, and uvloop, which `sidecar serve` uses."""

from __future__ import annotations

import pytest

BACKENDS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
BACKEND_NAMES = ["asyncio", "uvloop"]
ON_BOTH_LOOPS = pytest.mark.parametrize("anyio_backend", BACKENDS, ids=BACKEND_NAMES)
"""Runs each asynchronous test of a file on both loops."""
