"""Where one call stands in its chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from policies.api.usage import Usage

from .ledger import Reservation

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.failure import Retry
    from policies.api.lease import Lease
    from policies.api.upstream import Stream


NOTHING = Usage()


class CallState(msgspec.Struct, eq=False):
    """The attempts of one call, what they have cost, and what is held for it."""

    call: Call
    hold: Reservation
    attempts: int = 0
    started: bool = False
    tried: list[str] = []
    counted: set[str] = set()
    leases: list[Lease] = []
    stream: Stream | None = None
    _banked: Usage = NOTHING

    @property
    def usage(self) -> Usage:
        """What all attempts have cost together."""
        if self.stream is None:
            return self._banked
        return self.stream.usage if self._banked is NOTHING else self._banked + self.stream.usage

    def bank(self) -> Usage:
        """Keep a broken attempt's usage before the next one starts, and return it."""
        spent = Usage() if self.stream is None else self.stream.usage
        self._banked, self.stream = self._banked + spent, None
        return spent


def then(call: Call, verdict: Retry | None) -> str:
    """Return what the log says of what comes after a failed attempt."""
    before = ", sent again by its client" if call.repeated else ""
    if verdict is None:
        return before
    return f"{before}; again in {verdict.after:.3g} s" + (f" at {verdict.upstream}" if verdict.upstream else "")
