"""Deadlines that count only time in which the event loop ran, so that a standstill of the process is no failure of the server.

A deadline is divided into ticks. A tick ends by a timer of the event loop, and the loop polls its sockets between two timers of
the same kind. After a suspension of any length one tick has passed, and the bytes that arrived meanwhile are read first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")
TICKS_PER_DEADLINE = 10
"""Ticks of a deadline."""


async def finish_within(seconds: float, operation: Awaitable[Result]) -> Result:
    """Return the result of *operation*, or cancel it after *seconds* and raise `TimeoutError`."""
    task = asyncio.ensure_future(operation)
    try:
        for _ in range(TICKS_PER_DEADLINE):
            await asyncio.wait({task}, timeout=seconds / TICKS_PER_DEADLINE)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(BaseException):  # the cause of the end is raised instead
                await task
