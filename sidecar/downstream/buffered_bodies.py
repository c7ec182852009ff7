"""Bound the bytes of unread requests that one process holds in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Report: TypeAlias = Callable[[bool], None]

HEADS_OWNER = ""
"""The owner of request heads that are not complete: their tenant is not known yet."""
REPORT_SECONDS = 10.0
"""The buffer counts as free again this long after the last refusal, so that the log gets one line per episode."""


class Episode:
    """A time in which requests are refused: from the first refusal until none has come for `REPORT_SECONDS`.

    *report* is called with True at its start, and with False at the first `accepted` behind its end. *clock* is
    monotonic, in seconds.
    """

    def __init__(self, report: Report | None, clock: Callable[[], float]) -> None:
        self._report, self._clock = report, clock
        self.is_open, self._last = False, 0.0

    def refused(self) -> None:
        """Note a refusal."""
        self._last = self._clock()
        if not self.is_open:
            self.is_open = True
            if self._report is not None:
                self._report(True)  # the state

    def accepted(self) -> None:
        """Note that there is room. Needed only while `is_open`."""
        if self._clock() - self._last >= REPORT_SECONDS:
            self.is_open = False
            if self._report is not None:
                self._report(False)  # the state


class BufferedBodies:
    """The total of all unread request bodies of one process, at most *most* bytes.

    *is_shared*: there are several tenants, and each may hold at most half of the total. Request heads may too.
    *on_change* is called with True when a body is refused, and with False when none was refused for 10 s. *clock* is
    monotonic, in seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        is_shared: bool = False,
        on_change: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.total = most, 0
        self._is_shared = is_shared
        self._owners: dict[str, int] = {}
        self._refusals = Episode(on_change, clock)

    def take(self, size: int, owner: str) -> bool:
        """Add *size* bytes of *owner*, a tenant or `HEADS_OWNER`; False, and nothing is added, where they do not fit."""
        held = self._owners.get(owner, 0) + size
        most = self.most // 2 if self._is_shared or owner == HEADS_OWNER else self.most
        if held > most or self.total + size > self.most:
            self._refusals.refused()
            return False
        self._owners[owner] = held
        self.total += size
        return True

    def release(self, size: int, owner: str) -> None:
        """Subtract *size* bytes that `take` has added for *owner*."""
        self.total -= size
        if left := self._owners[owner] - size:
            self._owners[owner] = left
        else:
            del self._owners[owner]
        if self._refusals.is_open:
            self._refusals.accepted()


class HeldBody:
    """The bytes that one request holds of *buffered*, as a body of *owner*. `release` ends it."""

    __slots__ = ("_buffered", "_owner", "size")

    def __init__(self, buffered: BufferedBodies, owner: str) -> None:
        self._buffered, self._owner, self.size = buffered, owner, 0

    def add(self, size: int) -> bool:
        """Hold *size* more bytes; False where they do not fit."""
        fits = self._buffered.take(size, self._owner)
        self.size += size if fits else 0
        return fits

    def release(self) -> None:
        """Hold no bytes any more. Called once or more, also after a refusal."""
        size, self.size = self.size, 0
        if size:
            self._buffered.release(size, self._owner)
