"""The interface to which a chain writes the batches of an answer."""

from __future__ import annotations

from typing import Protocol

from policies.api.event import Batch


class BatchSink(Protocol):
    """The client of one call. Batches are written in the event-loop iteration in which upstream's bytes arrived.

    A sink raises no error if its client has disconnected. It discards the batches, and the owner of the call's task
    cancels the task.
    """

    def write_nowait(self, batch: Batch) -> bool:
        """Write *batch*; return False if the chain should `drain` before the next write.

        Called once per network read of the answer. The batch marked `last` is written after settlement.
        """
        ...

    async def drain(self) -> None:
        """Wait until the client has read most of the written bytes, or has disconnected."""
        ...
