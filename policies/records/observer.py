"""The observer contract: what a deployment configures to see each finished record."""

from __future__ import annotations

from typing import Protocol

import msgspec

from .record import Record


class RunningObserver(Protocol):
    """Receive each finished record of one process."""

    def observe(self, record: Record) -> None:
        """Take *record* without blocking: the event loop waits for the return.

        Hand slow work to a thread or task with a bounded queue.  An exception is logged once per class, by its class name
        alone, and does not affect the request.
        """

    async def close(self) -> None:
        """Send what is still queued, within seconds; called once, after the last record."""


class Observer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an observer: its fields are its TOML options.

    An observer without connections, queues or counters overrides `observe` alone.  One that has them returns a
    `RunningObserver` from `start`.
    """

    def start(self) -> RunningObserver:
        """Return the object that receives the records; called once per process, in its event loop, before the first request."""
        return self

    def observe(self, record: Record) -> None:
        """Take *record*; see `RunningObserver.observe`."""
        msg = f"{type(self).__name__} must override observe(), or start() to return an object that has it"
        raise NotImplementedError(msg)

    async def close(self) -> None:
        """Release what `start` opened."""
