"""One circuit of a circuit breaker: closed, open or half-open, with its probes.

Open, it refuses attempts, except for one probe every `probe` seconds. Callers take turns: one whose probe failed or was
cancelled waits until the other callers had the chance to make one. So no caller can use up all probes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from policies.engine.sliding_window import SlidingWindow

if TYPE_CHECKING:
    from policies.api.upstream import UpstreamError
    from sidecar.config.upstream import BreakerSettings

WINDOW_BUCKETS = 10
"""Parts of the window; the oldest part is dropped as a whole."""
MAX_CALLERS = 64
"""Callers that take turns at one circuit; further ones share one turn."""
OTHER_CALLERS = ""


class Scope(NamedTuple):
    """What a circuit stands for: an upstream, or one of its models; for all tenants, or for one.

    None stands for all. The names of models come from clients.
    """

    model: str | None = None
    tenant: str | None = None


class Circuit:
    """A circuit and its probes.

    `cause` is the failure that opened it, None while it is closed. `changed` is the breaker's epoch at the last change.
    `probing` is the number of probes that are running.
    """

    __slots__ = ("_last_probes", "_next_probe", "_probe_seconds", "cause", "changed", "probing", "scope")

    def __init__(self, settings: BreakerSettings, scope: Scope) -> None:
        self.scope = scope
        self._probe_seconds = settings.probe
        self.cause: UpstreamError | None = None
        self.changed = self.probing = 0
        self._next_probe = 0.0
        self._last_probes: dict[str, float] = {}
        """For each caller that was seen while the circuit is open: when it began its last probe."""

    def change(self, cause: UpstreamError | None, epoch: int, now: float) -> None:
        """Open the circuit because of *cause*; close it with None."""
        self.cause, self.changed, self.probing = cause, epoch, 0
        self._next_probe = now + self._probe_seconds
        self._last_probes.clear()

    def wait(self, caller: str, now: float) -> float:
        """Return the seconds until *caller* may make a probe; 0 or less if it may now.

        A caller that has made one waits until each of the others had a turn, or until no other caller has used a turn for
        `probe` seconds.
        """
        last_probe = self._last_probes[self._turn_of(caller)]
        next_turn = last_probe + self._probe_seconds * len(self._last_probes)
        return max(self._next_probe, min(next_turn, self._next_probe + self._probe_seconds)) - now

    def begin_probe(self, caller: str, now: float) -> None:
        """Count a probe of *caller*. Probes may overlap: a slow one still counts when later ones have started."""
        self._last_probes[self._turn_of(caller)] = now
        self._next_probe = now + self._probe_seconds
        self.probing += 1

    def end_probe(self, epoch: int, now: float, *, has_result: bool) -> None:
        """Count the end of a probe, unless the circuit has changed since *epoch*.

        Without a result another caller may make one at once.
        """
        if epoch >= self.changed and self.cause is not None:
            self.probing -= 1
            if not has_result:
                self._next_probe = min(self._next_probe, now)

    def _turn_of(self, caller: str) -> str:
        turns = self._last_probes
        if caller not in turns:
            if len(turns) >= MAX_CALLERS:
                caller = OTHER_CALLERS
            turns.setdefault(caller, -math.inf)
        return caller


class TenantCircuit(Circuit):
    """The circuit of one tenant, and the tenant's attempts in the window; failures are marked."""

    __slots__ = ("attempts", "used_at")

    def __init__(self, settings: BreakerSettings, scope: Scope) -> None:
        super().__init__(settings, scope)
        self.attempts = SlidingWindow(settings.window, buckets=WINDOW_BUCKETS)
        self.used_at = -math.inf
        """When the last attempt was counted, in seconds of a monotonic clock."""
