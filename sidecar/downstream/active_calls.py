"""The calls that are running: each can be interrupted, by its client's leaving, its deadline, or the end of the process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from .client_connection import Outgoing, Straight

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from policies.api.call import Call

    from .client_errors import ClientError
    from .request import Receive


AGAIN = 0.05
"""Seconds after which a call that has been cancelled and still runs is cancelled again."""


class Closable(Protocol):
    """An answer that can be told that its connection will not be kept, and that tells when it finds its client gone."""

    call: Call | None
    closing: bool
    lost: Callable[[], object]


class ActiveCall:
    """One running call, as a context of its task.  Ending it closes upstream and settles; `fault` is what its client is told.

    The task is cancelled, again and again until it has left: a policy may swallow one.  While the call settles it is let
    be, which takes bounded time.  `cancelled` counts how often.
    """

    __slots__ = (
        "_again",
        "_before",
        "_loop",
        "_straight",
        "_task",
        "_watcher",
        "answer",
        "cancelled",
        "cut",
        "fault",
        "left",
    )

    def __init__(self, answer: Closable, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.answer = answer
        self.fault: ClientError | None = None
        self.left = self.cut = False
        answer.lost = self.leave
        self._loop = loop or asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._before = self.cancelled = 0
        self._again: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._straight: Straight | None = None

    def watch(self, out: Outgoing, receive: Receive) -> None:
        """Notice the client's leaving: where *out* does not tell of it, by a task that waits for what is received."""
        if isinstance(out, Straight):
            self._straight = out
            out.watch(self.leave)
        else:
            self._watcher = self._loop.create_task(self._until_gone(receive))

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        """End the call now: its client has left, and is told nothing."""
        self.left = True
        self._cancel()

    def interrupt(self, fault: ClientError) -> None:
        """End the call now and tell its client *fault*.  The first reason stays."""
        if self.fault is None:
            self.fault = fault
            self._cancel()

    def _cancel(self) -> None:
        if (call := self.answer.call) is not None:
            call.abandoned = True
        if self._again is None:
            self._deliver()

    def _deliver(self) -> None:
        if self._task is None:
            return
        if (call := self.answer.call) is None or not call.settling:
            self.cancelled += 1
            self._task.cancel()
        self._again = self._loop.call_later(AGAIN, self._deliver)

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None  # for the type: a coroutine runs in a task
        self._before = task.cancelling()
        if self.left or self.fault is not None:
            self._loop.call_soon(self._deliver)  # one that waits already would hit what is waited for first: a settling

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self._again is not None:
            self._again.cancel()
        if task is None or not self.cancelled:
            return False
        for _ in range(self.cancelled):
            task.uncancel()
        # As asyncio.timeout does it: a cancellation from elsewhere that came in the same turn wins.
        self.cut = kind is asyncio.CancelledError and task.cancelling() <= self._before
        return self.cut

    async def spared(self) -> None:
        """Take a cancellation that came too late to be noticed.  Once, behind the context, where it was `cancelled`."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling() > self._before:
                raise

    def stop_watching(self) -> None:
        """Let go of the watcher, and of the answer.  Once, when the answer is over."""
        self.answer.lost = _nobody  # two that hold each other would wait for the collector
        if self._straight is not None:
            self._straight.gone = None
        elif self._watcher is not None:
            self._watcher.cancel()


def _nobody() -> None:
    """Nobody is to be told."""


class ActiveCalls:
    """All running calls of a process, and whether it takes new ones."""

    def __init__(self) -> None:
        self._calls: set[ActiveCall] = set()
        self._idle: asyncio.Event | None = None
        self.draining = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: ActiveCall) -> None:
        """Count *call* as running."""
        call.answer.closing = self.draining
        self._calls.add(call)

    def remove(self, call: ActiveCall) -> None:
        """Count *call* as over: answered and settled."""
        self._calls.discard(call)
        if self._idle is not None and not self._calls:
            self._idle.set()

    async def drain(self, seconds: float, fault: ClientError) -> None:
        """Take no new calls, give the running ones *seconds* to end, then interrupt the rest with *fault*."""
        self.draining, self._idle = True, asyncio.Event()
        for call in self._calls:
            call.answer.closing = True
        if not self._calls:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for call in list(self._calls):
                call.interrupt(fault)
            await self._idle.wait()
