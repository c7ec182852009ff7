"""Calls that are ended from outside: each leaves, whatever it is doing, and settles in peace."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.downstream.active_calls import ActiveCall
from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio


class Response:
    """What an active call needs of a response."""

    closing = False


async def test_again() -> None:
    """A call whose policy swallows its cancellation is cancelled again."""
    live, swallowed = ActiveCall(Response()), 0
    asyncio.get_running_loop().call_soon(live.client_left)
    with live:
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    assert (swallowed, live.was_cancelled) == (3, True)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_settling_in_peace() -> None:
    """A call that settles is not cancelled; when it has settled, it is."""
    live, settled = ActiveCall(Response()), False
    with live:
        live.settling = True
        live.cancel_with(draining())
        await asyncio.sleep(0.1)
        settled = True
        live.settling = False
        await asyncio.Event().wait()

    assert (settled, live.was_cancelled, live.error) == (True, True, draining())


async def test_too_late_to_be_noticed() -> None:
    """A cancellation that comes when all is done hits nothing that follows."""
    live = ActiveCall(Response())
    with live:
        live.client_left()
    await live.absorb_late_cancel()
    await asyncio.sleep(0)

    assert not live.was_cancelled


async def test_before_it_began() -> None:
    """A client that has left before its call begins ends it at once."""
    live = ActiveCall(Response())
    live.client_left()
    with live:
        await asyncio.Event().wait()

    assert live.was_cancelled


async def test_the_server_ends() -> None:
    """A cancellation from elsewhere is not taken for our own."""
    live = ActiveCall(Response())

    async def serves() -> None:
        with live:
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(serves())
    await asyncio.sleep(0)
    live.client_left()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
