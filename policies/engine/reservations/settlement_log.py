"""Log what settlements could not do as usual: a few lines at a time, then their number and amounts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from policies.api.claim import Unit, amount_text

if TYPE_CHECKING:
    from policies.api.claim import Claim

MAX_LINES_AT_ONCE = 10
"""Lines of one kind that are written in `LINES_SECONDS`; further ones are counted, and become one line."""
LINES_SECONDS = 30.0


class _Kind(msgspec.Struct, eq=False):
    began: float
    lines: int = 0
    omitted: int = 0
    amounts: Counter[Unit] = msgspec.field(default_factory=Counter)


class SettlementLog:
    """The log lines of the settlements of one process. They name calls and amounts, no identities and no content.

    *monotonic* is a clock in seconds.
    """

    def __init__(self, log: logging.Logger, monotonic: Callable[[], float]) -> None:
        self._log, self._monotonic = log, monotonic
        self._kinds: dict[str, _Kind] = {}
        """By text of a line, of which there are few."""

    def add(
        self, level: int, text: str, call_id: str, claims: Sequence[Claim] = (), *, cause: Exception | None = None
    ) -> None:
        """Write `call ID: TEXT: AMOUNTS`, with the amounts of *claims*; or count it, where there were many such lines."""
        self.summarise()
        kind = self._kinds.get(text)
        if kind is None:
            kind = self._kinds[text] = _Kind(self._monotonic())
        amounts = Counter[Unit]()
        for claim in claims:
            amounts[claim.unit] += claim.base
        if kind.lines < MAX_LINES_AT_ONCE:
            kind.lines += 1
            self._log.log(level, "call %s: %s%s", call_id, text, _amounts_text(amounts), exc_info=cause)
        else:
            kind.omitted += 1
            kind.amounts.update(amounts)

    def summarise(self, *, all_of_them: bool = False) -> None:
        """Write the number and the amounts of the omitted lines, where they began long enough ago, or *all_of_them*."""
        now = self._monotonic()
        for text, kind in list(self._kinds.items()):
            if all_of_them or now - kind.began >= LINES_SECONDS:
                del self._kinds[text]
                if kind.omitted:
                    self._log.warning("%d more calls: %s%s", kind.omitted, text, _amounts_text(kind.amounts))


def _amounts_text(amounts: Counter[Unit]) -> str:
    return ": " + ", ".join(amount_text(unit, amount) for unit, amount in amounts.items()) if amounts else ""
