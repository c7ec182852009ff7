"""The calls that are running: each can be interrupted, by its client's leaving, its deadline, or the end of the process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.call import Call

    from .errors import Fault
    from .incoming import Receive


class Closable(Protocol):
    """An answer that can be told that its connection will not be kept, and that tells when it finds its client gone."""

    call: Call | None
    closing: bool
    lost: Callable[[], None]


class LiveCall:
    """One running call.  Cancelling its scope closes upstream and settles; `fault` is what its client is told then."""

    __slots__ = ("_watcher", "answer", "fault", "left", "scope")

    def __init__(self, answer: Closable) -> None:
        self.answer, self.scope = answer, anyio.CancelScope()
        self.fault: Fault | None = None
        self.left = False
        answer.lost = self.leave
        self._watcher: asyncio.Task[None] | None = None

    def watch(self, receive: Receive) -> None:
        """Notice the client's leaving.  Only a task that waits for messages does: `send` says nothing."""
        self._watcher = asyncio.get_running_loop().create_task(self._until_gone(receive))

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        """End the call now: its client has left, and is told nothing."""
        self.left = True
        self._cancel()

    def interrupt(self, fault: Fault) -> None:
        """End the call now and tell its client *fault*.  The first reason stays."""
        if self.fault is None:
            self.fault = fault
            self._cancel()

    def _cancel(self) -> None:
        if (call := self.answer.call) is not None:
            call.abandoned = True
        self.scope.cancel()

    def stop_watching(self) -> None:
        """Let go of the watcher.  Once, when the answer is over."""
        if self._watcher is not None:
            self._watcher.cancel()


class LiveCalls:
    """All running calls of a process, and whether it takes new ones."""

    def __init__(self) -> None:
        self._calls: set[LiveCall] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: LiveCall) -> None:
        """Count *call* as running."""
        call.answer.closing = self.draining
        self._calls.add(call)
        self._idle.clear()

    def remove(self, call: LiveCall) -> None:
        """Count *call* as over: answered and settled."""
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    async def drain(self, seconds: float, fault: Fault) -> None:
        """Take no new calls, give the running ones *seconds* to end, then interrupt the rest with *fault*."""
        self.draining = True
        for call in self._calls:
            call.answer.closing = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for call in list(self._calls):
                call.interrupt(fault)
            await self._idle.wait()
