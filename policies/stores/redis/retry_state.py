"""How long the link tries without success before the store counts as down.

The time is the sum of the pauses and of the deadlines that have passed, not that of a clock. So a process that is slow or suspended
has as many attempts as any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .servers.connection import CannotConnect, ConnectionLost

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 0.2
FREE_REDIRECTIONS = 2
"""Redirections and unknown scripts in a row without a pause. More mean that the nodes of a cluster do not agree yet."""


class RetryState:
    """Attempts since the last success. *timeout* is how long to try, in seconds.

    A lost connection is replaced at once, once: the time begins after that.
    """

    def __init__(self, timeout: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._timeout, self._sleep = timeout, sleep
        self.cause: Exception | None = None
        """The last failure, or else the last redirection; None if the last attempt succeeded."""
        self.end()

    def end(self) -> None:
        """Note a success."""
        self.cause = None
        self._spent = self._pause = 0.0
        self._losses = self._redirections = 0
        self._must_pause = self._is_redirected = False

    def is_over(self, *, can_move: bool) -> bool:
        """Return whether to give up. *can_move*: another server may take over, so that a lost one is not the end."""
        if self._is_redirected and not self._must_pause:
            return False  # the server has answered just now
        if self._spent >= self._timeout:
            return True
        if self._is_redirected:
            return False
        cause = self.cause
        if isinstance(cause, ConnectionLost):
            return self._losses > 1 and (cause.is_stalled or not can_move)
        return isinstance(cause, CannotConnect) and not (can_move or cause.is_temporary)

    def note(self, cause: Exception) -> None:
        """Note a failure: `ConnectionLost`, `CannotConnect`, or any other that is only to be tried again after a pause."""
        self.cause, self._is_redirected = cause, False
        if isinstance(cause, ConnectionLost):
            self._losses += 1
            self._must_pause = self._losses > 1
        else:
            self._must_pause = True
            if isinstance(cause, CannotConnect):
                self._spent += cause.seconds

    def note_redirection(self, cause: Exception) -> None:
        """Note an answer that names another node, or asks for the source of the script."""
        self.cause, self._is_redirected = self.cause or cause, True
        self._redirections += 1
        self._must_pause = self._redirections > FREE_REDIRECTIONS

    async def pause(self) -> None:
        """Wait before the next attempt, where the last failure asks for it. Each pause is twice the one before."""
        if self._must_pause:
            self._must_pause = False
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._spent += self._pause
            await self._sleep(self._pause)
