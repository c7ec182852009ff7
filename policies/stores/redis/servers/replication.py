"""Whether writes wait for a replica, and the results that wait.

A primary answers before its replicas have a write, so a failover may forget the last moments. Where the server has replicas, a
WAIT follows the scripts of each write. Their results are held back until one replica has acknowledged them, for `wait_ms` at most.
What remains possible:

- A primary that fails before the acknowledgement: the results were not given out, and the scripts are sent again to the new one.
- Of several replicas another one is promoted than the one that acknowledged. Redis prefers the one that has most data, but does
  not guarantee it.
- Where sentinels decide, a failover begins while the primary is alive. Without an acknowledgement the sentinels are asked; the results
  are given out only if they do not replace the server.
- No replica acknowledges in time, as in the first second after it has connected. The result is given out nevertheless, which is
  logged once. For 0.5 to 10 seconds no more acknowledgements are awaited, so that calls are not slowed down. A failover in that
  time forgets what was counted in it: limits admit that much more, and settlements of lost reservations charge their own amounts.
- A primary and its replicas that lose their memory at the same time, without `appendonly yes`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from .connection import ConnectionLost, Receiver, Reply
from .url import Address

FIRST_PAUSE_WITHOUT_REPLICA_SECONDS, LONGEST_PAUSE_WITHOUT_REPLICA_SECONDS = 0.5, 10.0
"""Time without WAIT after a missing acknowledgement. It is twice the one before if the next one is missing too."""
_log = logging.getLogger("sidecar.store")


class Replication:
    """Whether writes wait for a replica: *wait_ms* milliseconds at most, 0 for never. Shared by all nodes of a link.

    *is_replaced* returns whether another server replaces the one at an address; it is asked when no replica acknowledges.
    None where no others decide that.
    """

    def __init__(
        self,
        wait_ms: int,
        monotonic: Callable[[], float],
        is_replaced: Callable[[Address], Coroutine[Any, Any, bool]] | None = None,
    ) -> None:
        self.wait_ms, self._monotonic, self.is_replaced = wait_ms, monotonic, is_replaced
        self._resume_at = self._pause = 0.0
        self._is_reported = False

    def should_wait(self) -> bool:
        """Return whether an acknowledgement should be awaited now."""
        return self._monotonic() >= self._resume_at

    def note_acknowledged(self) -> None:
        """Note that a replica has acknowledged in time."""
        self._is_reported, self._pause = False, 0.0

    def note_missing(self, address: Address, cause: str) -> None:
        """Note that no replica has acknowledged in time, for *cause*. The first time it is logged."""
        longest = FIRST_PAUSE_WITHOUT_REPLICA_SECONDS if self.is_replaced else LONGEST_PAUSE_WITHOUT_REPLICA_SECONDS
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_WITHOUT_REPLICA_SECONDS), longest)
        self._resume_at = self._monotonic() + self._pause
        if not self._is_reported:
            self._is_reported = True
            _log.warning(
                "Redis %s: no replica confirmed a write (%s); if %s fails now, its last writes are lost, and limits admit"
                " that much more; see that its replicas run and can be reached",
                address,
                cause,
                address,
            )


class HeldResults:
    """The results of the scripts of one write. While `is_waiting`, they are held back, but not errors."""

    def __init__(self) -> None:
        self.is_waiting = False
        self._held: list[tuple[Receiver, Reply]] = []

    def receive(self, receiver: Receiver, reply: Reply) -> None:
        """Hold the *reply* to a script back, or give it to *receiver*."""
        if self.is_waiting and not isinstance(reply, Exception):
            self._held.append((receiver, reply))
        else:
            receiver(reply)

    def give_out(self, lost: ConnectionLost | None = None) -> None:
        """Give the results to their receivers; if the server was *lost*, give them that error instead."""
        held, self._held = self._held, []
        for receiver, reply in held:
            receiver(lost or reply)
