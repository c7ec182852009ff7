"""The calls that are running. Each can be cancelled: by its client's disconnect, its deadline, or the end of the process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from policies.engine.call_control import CallControl

if TYPE_CHECKING:
    from types import TracebackType

    from .client_errors import ClientError

REPEAT_SECONDS = 0.05
"""Seconds after which a call that was cancelled and still runs is cancelled again."""


class Closable(Protocol):
    """A response that can note that its connection will not be kept."""

    closing: bool


class ActiveCall(CallControl):
    """One running call, as a context manager of its task. Cancelling it closes upstream and settles the call.

    The task is cancelled repeatedly until it has left the context, because a policy may swallow a cancellation. While the
    call settles it is not cancelled; that takes bounded time. `error` is what the client receives; None if it has left.
    """

    __slots__ = (
        "_cancellations",
        "_loop",
        "_repeat",
        "_task",
        "_uncancelled_before",
        "error",
        "left",
        "response",
        "was_cancelled",
    )

    def __init__(self, response: Closable, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__()
        self.response = response
        self.error: ClientError | None = None
        self.left = self.was_cancelled = False
        self._loop = loop or asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._uncancelled_before = self._cancellations = 0
        self._repeat: asyncio.TimerHandle | None = None

    def client_left(self) -> None:
        """Cancel the call: its client has disconnected and receives nothing more."""
        self.left = True
        self._cancel()

    def cancel_with(self, error: ClientError) -> None:
        """Cancel the call and send *error* to its client. The first error stays."""
        if self.error is None:
            self.error = error
            self._cancel()

    def _cancel(self) -> None:
        if self._repeat is None:
            self._deliver()

    def _deliver(self) -> None:
        if self._task is None:
            return
        if not self.settling:
            self._cancellations += 1
            self._task.cancel()
        self._repeat = self._loop.call_later(REPEAT_SECONDS, self._deliver)

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task(self._loop)
        assert task is not None  # for the type: a coroutine runs in a task
        self._uncancelled_before = task.cancelling()
        if self.left or self.error is not None:
            # Schedule instead of cancelling now: an immediate cancel could interrupt the settlement inside the context.
            self._loop.call_soon(self._deliver)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self._repeat is not None:
            self._repeat.cancel()
        if task is None or not self._cancellations:
            return False
        for _ in range(self._cancellations):
            task.uncancel()
        # As asyncio.timeout does it: a cancellation from elsewhere in the same iteration takes precedence.
        self.was_cancelled = kind is asyncio.CancelledError and task.cancelling() <= self._uncancelled_before
        return self.was_cancelled

    async def absorb_late_cancel(self) -> None:
        """Absorb a cancellation delivered after the call finished. Called once, behind the context."""
        if not self._cancellations:
            return
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling() > self._uncancelled_before:
                raise


class ActiveCalls:
    """All running calls of a process, and whether it accepts new ones."""

    def __init__(self) -> None:
        self._calls: set[ActiveCall] = set()
        self._idle: asyncio.Event | None = None
        self.draining = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: ActiveCall) -> None:
        """Count *call* as running."""
        call.response.closing = self.draining
        self._calls.add(call)

    def remove(self, call: ActiveCall) -> None:
        """Count *call* as over: answered and settled."""
        self._calls.discard(call)
        if self._idle is not None and not self._calls:
            self._idle.set()

    async def drain(self, seconds: float, error: ClientError) -> None:
        """Accept no new calls, give the running ones *seconds* to end, then cancel the rest with *error*."""
        self.draining, self._idle = True, asyncio.Event()
        for call in self._calls:
            call.response.closing = True
        if not self._calls:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for call in list(self._calls):
                call.cancel_with(error)
            await self._idle.wait()
