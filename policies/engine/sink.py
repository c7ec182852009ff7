"""Where a chain sends the batches of an answer."""

from __future__ import annotations

from typing import Protocol

from policies.api.event import Batch


class BatchSink(Protocol):
    """The client's end of a call. Batches are written in the event-loop iteration in which upstream's bytes arrived.

    A client that has disconnected is no error here: the sink discards what is written, and the owner of the call's task
    cancels it.
    """

    def write_nowait(self, batch: Batch) -> bool:
        """Write *batch*; return False if the chain should `drain` before it writes more.

        Called once for each network read of the answer, and once more, after settlement, for the batch marked `last`.
        """
        ...

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written, or has disconnected."""
        ...
