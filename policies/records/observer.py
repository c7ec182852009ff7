"""The interface of observers, which receive each finished record."""

from __future__ import annotations

from typing import Protocol

import msgspec

from .record import Record


class RunningObserver(Protocol):
    """Receives each finished record of one process."""

    def observe(self, record: Record) -> None:
        """Process *record* without blocking: it runs in the event loop. Called once per request.

        Pass slow work to a thread or task with a bounded queue. An exception does not affect the request; the first one
        of each observer class is logged, by its class name only.
        """

    async def close(self) -> None:
        """Send what is queued, within seconds. Called once, after the last record."""


class Observer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an observer: its fields are its TOML options.

    An observer without state overrides `observe`. One with connections, queues or counters returns a `RunningObserver`
    from `start` instead.
    """

    def start(self) -> RunningObserver:
        """Return the object that receives the records; called once per process, in its event loop, before the first request."""
        return self

    def observe(self, record: Record) -> None:
        """See `RunningObserver.observe`."""
        msg = f"{type(self).__name__} must override observe(), or start() to return an object that has it"
        raise NotImplementedError(msg)

    async def close(self) -> None:
        """Do nothing: an observer without state has nothing to release."""
