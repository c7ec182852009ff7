"""The clock of the running event loop of asyncio, which a test puts forward; sockets work as ever."""

from __future__ import annotations

import asyncio

import pytest

TURNS = 20
"""Event-loop iterations in which everything that is due has run."""


class JumpingClock:
    """Replaces the clock of the running loop until the test ends; `jump` puts it forward."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real, self.passed = loop.time, 0.0
        patch.setattr(loop, "time", lambda: real() + self.passed)

    async def jump(self, seconds: float) -> None:
        """Let *seconds* pass, and call what is due."""
        self.passed += seconds
        for _ in range(TURNS):
            await asyncio.sleep(0)
