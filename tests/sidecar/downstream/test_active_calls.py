"""Calls that are ended from outside: each leaves, whatever it is doing, and settles in peace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from policies import Call
from policies.testing import make_call
from sidecar.downstream.active_calls import ActiveCall
from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio


class Answer:
    """What a live call needs of an answer."""

    def __init__(self) -> None:
        self.call: Call | None = make_call("hi")
        self.closing = False
        self.lost: Callable[[], object] = list


async def test_again() -> None:
    """A call whose policy swallows its cancellation is cancelled again."""
    live, swallowed = ActiveCall(Answer()), 0
    asyncio.get_running_loop().call_soon(live.leave)
    with live:
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    assert (swallowed, live.cut) == (3, True)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_settling_in_peace() -> None:
    """A call that settles is not cancelled; when it has settled, it is."""
    answer = Answer()
    live, settled = ActiveCall(answer), False
    assert answer.call is not None
    with live:
        answer.call.settling = True
        live.interrupt(draining())
        await asyncio.sleep(0.1)
        settled = True
        answer.call.settling = False
        await asyncio.Event().wait()

    assert (settled, live.cut, live.fault) == (True, True, draining())


async def test_too_late_to_be_noticed() -> None:
    """A cancellation that comes when all is done hits nothing that follows."""
    live = ActiveCall(Answer())
    with live:
        live.leave()
    await live.spared()
    await asyncio.sleep(0)

    assert not live.cut


async def test_before_it_began() -> None:
    """A client that has left before its call begins ends it at once."""
    live = ActiveCall(Answer())
    live.leave()
    with live:
        await asyncio.Event().wait()

    assert live.cut


async def test_the_server_ends() -> None:
    """A cancellation from elsewhere is not taken for our own."""
    live = ActiveCall(Answer())

    async def serves() -> None:
        with live:
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(serves())
    await asyncio.sleep(0)
    live.leave()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
