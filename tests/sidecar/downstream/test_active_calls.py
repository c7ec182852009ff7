"""Cancellation of running calls: by a disconnect, by an error, and by the server."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.downstream.active_calls import REPEAT_SECONDS, ActiveCall
from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio


class Response:
    """The part of a response that an active call uses."""

    closing = False


async def test_swallowed_cancellation_is_repeated() -> None:
    """A call whose policy swallows its cancellation is cancelled again."""
    active, swallowed = ActiveCall(Response()), 0
    asyncio.get_running_loop().call_soon(active.client_left)
    with active:
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    assert (swallowed, active.was_cancelled) == (3, True)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # a test runs in a task


async def test_settlement_is_not_cancelled() -> None:
    """A call is not cancelled while it settles, but afterwards."""
    active, settled = ActiveCall(Response()), False
    with active:
        active.settling = True
        active.cancel_with(draining())
        await asyncio.sleep(2 * REPEAT_SECONDS)  # a settlement that takes longer than the pause between cancellations
        settled = True
        active.settling = False
        await asyncio.Event().wait()

    assert (settled, active.was_cancelled, active.error) == (True, True, draining())


async def test_late_cancellation_is_absorbed() -> None:
    """A cancellation that is delivered behind the call does not affect the task afterwards."""
    active = ActiveCall(Response())
    with active:
        active.client_left()
    await active.absorb_late_cancel()
    await asyncio.sleep(0)

    assert not active.was_cancelled


async def test_disconnect_before_the_call_cancels_it() -> None:
    """A call whose client disconnected before its start is cancelled at once."""
    active = ActiveCall(Response())
    active.client_left()
    with active:
        await asyncio.Event().wait()

    assert active.was_cancelled


async def test_cancellation_by_the_server_is_raised() -> None:
    """A cancellation of the task by other code is raised, also together with a disconnect."""
    active = ActiveCall(Response())

    async def serves() -> None:
        with active:
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(serves())
    await asyncio.sleep(0)
    active.client_left()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
