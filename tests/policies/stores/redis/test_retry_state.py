"""How long the link to Redis tries before the store counts as down."""

from __future__ import annotations

import pytest
from redis.exceptions import NoScriptError

from policies.stores.redis.retry_state import FREE_REDIRECTIONS, RetryState
from policies.stores.redis.servers.connection import CannotConnect, ConnectionLost

pytestmark = pytest.mark.anyio


class Pauses:
    """Records pauses, and waits for none of them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Record a pause."""
        self.seconds.append(seconds)


async def test_server_that_answers_late_is_used() -> None:
    """A promoted server that asks for the source of the script when the time is over gets it; many such answers end it."""
    state = RetryState(2.0, Pauses().sleep)
    state.note(ConnectionLost("closed", "lost"))
    state.note(CannotConnect("timeout", "no answer", seconds=2.0))
    assert state.is_over(can_move=True)
    for _ in range(FREE_REDIRECTIONS):
        state.note_redirection(NoScriptError("No matching script."))
        assert not state.is_over(can_move=True)
    state.note_redirection(NoScriptError("No matching script."))
    assert state.is_over(can_move=True)


async def test_redirection_is_not_the_cause_of_an_outage() -> None:
    """The cause of an outage is the failure before a redirection, unless there was none."""
    state, lost = RetryState(2.0, Pauses().sleep), ConnectionLost("closed", "lost")
    state.note(lost)
    state.note_redirection(NoScriptError("No matching script."))
    assert state.cause is lost
    state.end()
    state.note_redirection(NoScriptError("No matching script."))
    assert isinstance(state.cause, NoScriptError)


@pytest.mark.parametrize(("can_move", "is_over"), [(False, True), (True, False)])
async def test_refused_connection(*, can_move: bool, is_over: bool) -> None:
    """A single server that refuses is down at once; nodes of a cluster are asked again, with growing pauses."""
    pauses = Pauses()
    state = RetryState(2.0, pauses.sleep)
    for _ in range(3):
        state.note(CannotConnect("refused", "refused"))
        assert state.is_over(can_move=can_move) == is_over
        await state.pause()
    assert pauses.seconds == [0.01, 0.02, 0.04]
