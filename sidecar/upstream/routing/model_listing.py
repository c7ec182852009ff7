"""The list of models of one upstream, read in the background and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from policies.api.upstream import UpstreamError

from .listed_names import Fit, ListedNames, entries_of

KEEP_SECONDS = 60.0
"""Age at which the next call has the list read again, without waiting for it."""
KEEP_FAILURE_SECONDS = 10.0
"""Seconds after a failure to read it until the next attempt."""
KEEP_UNKNOWN_SECONDS = 5.0
"""Age from which it is read again for a model that no list has, or that the upstream refuses although it lists it."""
READ_SECONDS = 10.0
"""Seconds for one read, the connection included."""
WAIT_SECONDS = 2.0
"""Seconds that a call waits for a read, counted from the start of that read."""


class ModelListing:
    """See the module.  One read at a time runs; it sends no prompt, so it costs no tokens.

    *read* returns the JSON of `GET /models`, or raises `UpstreamError`.  *clock* is monotonic, in seconds.  *warn* writes a
    line to the log: once when reading fails, until it succeeds again.
    """

    def __init__(
        self, name: str, read: Callable[[], Awaitable[bytes]], clock: Callable[[], float], warn: Callable[[str], None]
    ) -> None:
        self._name, self._read, self._clock, self._warn = name, read, clock, warn
        self._begun_at = self._ended_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._is_closed = self._is_doubted = False
        self.has_failed = False
        """Whether the last read failed, be it for routing or for a client."""
        self.names: ListedNames | None = None
        """The last list that was read; None before the first one.  A failure keeps it."""
        self.is_current = False
        """Whether the last read succeeded."""

    def refresh(self, *, for_unknown: bool = False) -> None:
        """Start to read the list if it is due.  *for_unknown*: a call names a model that no list has."""
        now, keep = self._clock(), KEEP_SECONDS if self.is_current else KEEP_FAILURE_SECONDS
        if (for_unknown or self._is_doubted) and self.is_current:
            keep = KEEP_UNKNOWN_SECONDS
        if self._reading is None and not self._is_closed and now - self._ended_at >= keep:
            self._begun_at = now
            self._reading = asyncio.get_running_loop().create_task(self._refresh())

    def doubt(self, model: str) -> None:
        """Have a later call read the list again if *model*, which the upstream has refused, is listed."""
        if self.names is not None and self.names.fit(model) is not Fit.NOT:
            self._is_doubted = True

    @property
    def waiting(self) -> tuple[asyncio.Task[None], float] | None:
        """The running read and the seconds that a call may wait for it; None where it need not wait."""
        if self._reading is None:
            return None
        left = self._begun_at + WAIT_SECONDS - self._clock()
        return (self._reading, left) if left > 0 else None

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await entries_of(await self._read())
        except (UpstreamError, TimeoutError, ValueError) as error:
            self.is_current = False
            self.note_failure(error)
        else:
            self.names, self.is_current = ListedNames(name for name, _ in found), True
            self.note_success()
        finally:
            self._reading, self._ended_at, self._is_doubted = None, self._clock(), False

    def note_failure(self, error: Exception) -> None:
        """Log that the list cannot be read because of *error*, once until it can be read again."""
        if not self.has_failed:
            self.has_failed = True
            reason = error.reason if isinstance(error, UpstreamError) else type(error).__name__
            self._warn(f"upstream {self._name!r}: its list of models cannot be read ({reason})")

    def note_success(self) -> None:
        """Note that the list was read, so that the next failure is logged."""
        self.has_failed = False

    async def aclose(self) -> None:
        """Cancel a read that is running; no other one starts."""
        self._is_closed = True
        if (reading := self._reading) is not None:
            reading.cancel()
            await asyncio.wait([reading])
