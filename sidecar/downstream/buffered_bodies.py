"""Bound the bytes of unread requests that one process holds in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Report: TypeAlias = Callable[[bool], None]

HEADS_OWNER = ""
"""The owner of request heads that are not complete: their tenant is not known yet."""
REOPENED_SHARE = 0.9
"""The buffer counts as free again below this share of its size, so that the log gets one line per episode."""


class BufferedBodies:
    """The total of all unread request bodies of one process, at most *most* bytes.

    *is_shared*: there are several tenants, and each may hold at most half of the total. Request heads may too.
    *on_change* is called with True when a body is refused, and with False when there is room again.
    """

    def __init__(self, most: int, *, is_shared: bool = False, on_change: Report | None = None) -> None:
        self.most, self.total = most, 0
        self._is_shared, self._on_change = is_shared, on_change
        self._owners: dict[str, int] = {}
        self._is_full = False

    def take(self, size: int, owner: str) -> bool:
        """Add *size* bytes of *owner*, a tenant or `HEADS_OWNER`; False, and nothing is added, where they do not fit."""
        held = self._owners.get(owner, 0) + size
        most = self.most // 2 if self._is_shared or owner == HEADS_OWNER else self.most
        if held > most or self.total + size > self.most:
            self._report(is_full=True)
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
        if self._is_full and self.total < REOPENED_SHARE * self.most:
            self._report(is_full=False)

    def _report(self, *, is_full: bool) -> None:
        if is_full != self._is_full:
            self._is_full = is_full
            if self._on_change is not None:
                self._on_change(is_full)


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
