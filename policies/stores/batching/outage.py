"""Remember for a moment that a store is down, so that calls do not wait for it one by one."""

from __future__ import annotations

from collections.abc import Callable

from policies.api.store import StoreDown

RETRY_SECONDS = 0.5
"""Time for which a store that failed is not asked again. After it one operation at a time tries; the others fail at once."""


class Outage:
    """The outage of one store, if there is one. *monotonic* is a clock in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._cause = ""
        self._retry_at = 0.0

    @property
    def is_up(self) -> bool:
        """Whether the store is up, as far as is known."""
        return not self._cause

    def check(self) -> None:
        """Raise `StoreDown` with the cause of the outage, unless the store is up or this operation is to try it.

        The one that tries ends in `begin` or `end`; until then, but for 0.5 seconds at most, all others fail.
        """
        if not self._cause:
            return
        now = self._monotonic()
        if now < self._retry_at:
            raise StoreDown(self._cause)
        self._retry_at = now + RETRY_SECONDS

    def begin(self, cause: str) -> None:
        """Note that the store has failed just now, for *cause*."""
        self._cause, self._retry_at = cause or "the store failed", self._monotonic() + RETRY_SECONDS

    def end(self) -> None:
        """Note that the store has answered."""
        self._cause = ""
