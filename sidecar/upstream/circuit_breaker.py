"""Circuit breaker: stop sending to an upstream that fails, and probe it until it has recovered.

Closed, it counts results in a sliding window.  Open, it refuses.  After `probe` seconds one attempt is let through, and
its result decides (Nygard, "Release It!", ch. 5; counting by rate in a sliding window is Hystrix's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from policies.api.failure_kinds import FAILURE_CLASSES
from policies.api.upstream import UpstreamError
from policies.engine.sliding_window import SlidingWindow
from sidecar.config.upstream import BreakerSettings

UNHEALTHY_KINDS = frozenset(name for name, each in FAILURE_CLASSES.items() if each.sick)
"""Failure kinds that count against the upstream's health.  A rate limit, a refused key or a bad request do not count: the upstream works."""
WINDOW_BUCKETS = 10
"""Parts of the window; the oldest part is dropped as a whole."""

State: TypeAlias = Literal["closed", "open", "half-open"]


class BreakerOpen(Exception):
    """Nothing is sent for the next *wait* seconds; *cause* is the failure that opened the breaker."""

    def __init__(self, wait: float, cause: UpstreamError) -> None:
        super().__init__(wait)
        self.wait, self.cause = wait, cause


class Permit(msgspec.Struct, eq=False):
    """Permission for one attempt, to be ended once: by `succeeded`, `failed` or `release`.  Later calls have no effect.

    A probe may succeed with its first output.  `generation` is the breaker's when the permit was given, -1 when it has
    been ended.
    """

    breaker: Breaker
    generation: int
    probe: bool

    def succeeded(self) -> None:
        """Count the attempt as a success."""
        self.breaker.ended(self._used_up(), None, probe=self.probe)

    def failed(self, error: UpstreamError) -> None:
        """Count the attempt as a failure if *error* is of an unhealthy kind, else as an answer."""
        self.breaker.ended(self._used_up(), error, probe=self.probe)

    def release(self) -> None:
        """Release the permit without a result (client cancelled).  No effect after success or failure."""
        generation = self._used_up()
        if self.probe:
            self.breaker.probe_released(generation)

    def _used_up(self) -> int:
        generation, self.generation = self.generation, -1
        return generation


class Breaker:
    """The circuit breaker of one upstream, for all calls of a process.

    *clock* is monotonic, in seconds.  *on_change* is called with the new state when the breaker opens and when it closes.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float], *, on_change: Callable[[State], None] | None = None
    ) -> None:
        self._settings, self._clock, self._on_change = settings, clock, on_change
        self._attempts = SlidingWindow(settings.window, buckets=WINDOW_BUCKETS)
        self._generation = 0
        self._cause: UpstreamError | None = None
        self._next_probe = 0.0
        self._probing = 0

    @property
    def state(self) -> State:
        """The current state: `half-open` while a probe is running."""
        if self._cause is None:
            return "closed"
        return "half-open" if self._probing else "open"

    def enter(self) -> Permit:
        """Return the permit for one attempt.  Raises `BreakerOpen`."""
        if self._cause is None:
            return Permit(self, self._generation, probe=False)
        now = self._clock()
        if now < self._next_probe:
            raise BreakerOpen(self._next_probe - now, self._cause)
        # Probes may overlap: a slow one still counts when later ones have started.
        self._next_probe = now + self._settings.probe
        self._probing += 1
        return Permit(self, self._generation, probe=True)

    def ended(self, generation: int, error: UpstreamError | None, *, probe: bool) -> None:
        """Count one result; the result of an attempt that started before the last change of state is ignored."""
        if generation != self._generation or self._settings.calls == 0:
            return
        unhealthy = error is not None and error.kind in UNHEALTHY_KINDS
        if probe:
            self._probed(error if unhealthy else None)
            return
        attempts, settings = self._attempts, self._settings
        attempts.add(self._clock(), marked=unhealthy)
        is_over_rate = attempts.total >= settings.calls and attempts.marked >= settings.rate * attempts.total
        if error is not None and unhealthy and is_over_rate:
            self._change(error)

    def probe_released(self, generation: int) -> None:
        """End a probe without a result.  The next one still waits its full `probe` seconds: upstream got a request."""
        if generation == self._generation:
            self._probing -= 1

    def _probed(self, error: UpstreamError | None) -> None:
        if error is None:
            self._change(None)
        else:
            self._cause = error
            self._probing -= 1

    def _change(self, cause: UpstreamError | None) -> None:
        self._cause, self._probing = cause, 0
        self._generation += 1
        self._attempts.clear()
        self._next_probe = self._clock() + self._settings.probe
        if self._on_change is not None:
            self._on_change(self.state)
