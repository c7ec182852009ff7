"""How long the link to Redis tries before the store counts as down."""

from __future__ import annotations

import pytest
from redis.exceptions import NoScriptError

from policies.stores.redis.connecting.connection import CannotConnect
from policies.stores.redis.nodes.pipeline import ConnectionLost
from policies.stores.redis.trouble import FREE_REDIRECTIONS, Trouble

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
    trouble = Trouble(2.0, Pauses().sleep)
    trouble.note(ConnectionLost("lost"))
    trouble.note(CannotConnect("no answer", seconds=2.0))
    assert trouble.is_over(can_move=True)
    for _ in range(FREE_REDIRECTIONS):
        trouble.note_redirection(NoScriptError("No matching script."))
        assert not trouble.is_over(can_move=True)
    trouble.note_redirection(NoScriptError("No matching script."))
    assert trouble.is_over(can_move=True)


async def test_redirection_is_not_the_cause_of_an_outage() -> None:
    """The cause of an outage is the failure before a redirection, unless there was none."""
    trouble, lost = Trouble(2.0, Pauses().sleep), ConnectionLost("lost")
    trouble.note(lost)
    trouble.note_redirection(NoScriptError("No matching script."))
    assert trouble.cause is lost
    trouble.end()
    trouble.note_redirection(NoScriptError("No matching script."))
    assert isinstance(trouble.cause, NoScriptError)


@pytest.mark.parametrize(("can_move", "is_over"), [(False, True), (True, False)])
async def test_refused_connection(*, can_move: bool, is_over: bool) -> None:
    """A single server that refuses is down at once; nodes of a cluster are asked again, with growing pauses."""
    pauses = Pauses()
    trouble = Trouble(2.0, pauses.sleep)
    for _ in range(3):
        trouble.note(CannotConnect("refused"))
        assert trouble.is_over(can_move=can_move) == is_over
        await trouble.pause()
    assert pauses.seconds == [0.01, 0.02, 0.04]
