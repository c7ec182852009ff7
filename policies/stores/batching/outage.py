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
        self.is_up = True
        """Whether the store is up, as far as is known. If it is not, call `check` before an operation."""

    def check(self) -> None:
        """Raise `StoreDown` with the cause of the outage, unless this operation is to try the store.

        The one that tries ends in `begin` or `end`; until then, but for 0.5 seconds at most, all others fail.
        """
        now = self._monotonic()
        if now < self._retry_at:
            raise StoreDown(self._cause)
        self._retry_at = now + RETRY_SECONDS

    def begin(self, cause: str) -> None:
        """Note that the store has failed just now, for *cause*."""
        self._cause, self.is_up = cause, False
        self._retry_at = self._monotonic() + RETRY_SECONDS

    def end(self) -> None:
        """Note that the store has answered."""
        self.is_up = True
