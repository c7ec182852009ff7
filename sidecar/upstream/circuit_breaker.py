"""Stops asking an upstream that fails, and finds out when it is back.  No input or output.

Closed, it counts; open, it refuses; after a while one call goes through as a probe, and its result decides (Nygard,
"Release It!", ch. 5; the counting by rate in a sliding window is Hystrix's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from policies.api.failure_kinds import CLASSES
from policies.api.upstream import UpstreamError
from policies.engine.sliding_window import SlidingWindow
from sidecar.config.upstream import BreakerSettings

SICK = frozenset(name for name, each in CLASSES.items() if each.sick)
"""Classes that tell of the upstream's health.  A limit, a refused key or a bad request do not: it answers."""
WINDOW_BUCKETS = 10
"""Attempts expire in steps of a tenth of the window."""

State: TypeAlias = Literal["closed", "open", "half-open"]


class BreakerOpen(Exception):
    """Nothing may be sent for *wait* seconds; *cause* is the failure that opened the breaker."""

    def __init__(self, wait: float, cause: UpstreamError) -> None:
        super().__init__(wait)
        self.wait, self.cause = wait, cause


class Permit(msgspec.Struct, eq=False):
    """The leave of one attempt.  Say once how it ended; what is left unsaid (the client left) counts as nothing.

    A probe need not wait for the end: it has worked with its first output.  `era` is the breaker's when it was given, and
    -1 when it is used up.
    """

    breaker: Breaker
    era: int
    probe: bool

    def worked(self) -> None:
        """Say that it gave what was asked for."""
        era, self.era = self.era, -1
        self.breaker.ended(era, None, probe=self.probe)

    def failed(self, error: UpstreamError) -> None:
        """Say that it failed; a refusal of the request alone counts as an answer, which is what a probe asks for."""
        era, self.era = self.era, -1
        self.breaker.ended(era, error, probe=self.probe)

    def drop(self) -> None:
        """Say nothing; after `worked` or `failed` it does nothing."""
        era, self.era = self.era, -1
        if self.probe:
            self.breaker.dropped(era)


class Breaker:
    """The breaker of one upstream, for all calls of a process.

    *clock* is monotonic, in seconds; *tell* is called with the new state when it opens and when it closes.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float], *, tell: Callable[[State], None] | None = None
    ) -> None:
        self._settings, self._clock, self._tell = settings, clock, tell
        self._attempts = SlidingWindow(settings.window, buckets=WINDOW_BUCKETS)
        self._era = 0
        self._cause: UpstreamError | None = None
        self._next_probe = 0.0
        self._probing = 0

    @property
    def state(self) -> State:
        """What it does now: `half-open` while a probe is on its way."""
        if self._cause is None:
            return "closed"
        return "half-open" if self._probing else "open"

    def enter(self) -> Permit:
        """Return the leave for one attempt.  Raises `BreakerOpen`."""
        if self._cause is None:
            return Permit(self, self._era, probe=False)
        now = self._clock()
        if now < self._next_probe:
            raise BreakerOpen(self._next_probe - now, self._cause)
        # A probe may take long to say something: the next ones do not take its word away.
        self._next_probe = now + self._settings.probe
        self._probing += 1
        return Permit(self, self._era, probe=True)

    def ended(self, era: int, error: UpstreamError | None, *, probe: bool) -> None:
        """Count one result; that of an attempt from before the breaker changed is too late to say anything."""
        if era != self._era or self._settings.calls == 0:
            return
        sick = error is not None and error.kind in SICK
        if probe:
            self._probed(error if sick else None)
            return
        attempts, settings = self._attempts, self._settings
        attempts.add(self._clock(), marked=sick)
        many = attempts.total >= settings.calls and attempts.marked >= settings.rate * attempts.total
        if error is not None and sick and many:
            self._change(error)

    def dropped(self, era: int) -> None:
        """Forget a probe that was called off.  Its successor waits for its time: upstream was asked all the same."""
        if era == self._era:
            self._probing -= 1

    def _probed(self, error: UpstreamError | None) -> None:
        if error is None:
            self._change(None)
        else:
            self._cause = error
            self._probing -= 1

    def _change(self, cause: UpstreamError | None) -> None:
        self._cause, self._probing = cause, 0
        self._era += 1
        self._attempts.clear()
        self._next_probe = self._clock() + self._settings.probe
        if self._tell is not None:
            self._tell(self.state)
