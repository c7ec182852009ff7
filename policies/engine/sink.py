"""Where a chain sends the batches of an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from policies.api.event import Batch

Emit: TypeAlias = Callable[[Batch], Awaitable[None]]
Admitted: TypeAlias = Callable[[], Awaitable[None]]


class ClientLeft(Exception):
    """`emit` failed: whoever it wrote to is gone."""


class Sink(Protocol):
    """Where batches go without waiting: a task that is woken for each of them costs more than all that is done to it."""

    def put(self, batch: Batch) -> bool:
        """Send a batch that is not the last; False where the next one should wait until it is `drained`.

        Raises where the client is gone.  Called for each network read, inside of it.
        """
        ...

    async def drained(self) -> None:
        """Wait until the client has taken most of what was put."""
        ...
