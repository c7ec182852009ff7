"""Where one call stands in its chain, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from policies.api.lease import Ending, Outcome
from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from policies.api.usage import Usage
from policies.records.record import FailedAttempt

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.lease import Lease
    from policies.api.services import Services
    from policies.api.upstream import Stream

    from .call_control import CallControl
    from .growth import Growth
    from .reservations.reservation import Reservation


NO_USAGE = Usage()


class End(NamedTuple):
    """What ended a call: the fields of its `Outcome` that an exception decides."""

    ending: Ending
    status: int | None = None
    code: str = ""
    kind: str = ""
    message: str = ""


DONE_END = End(Ending.DONE, 200)
CANCELLED_END = End(Ending.CANCELLED)


def end_of_cut(refusal: Rejection) -> End:
    """Return the end of an answer that was complete up to where *refusal*, of a limit, ended it."""
    return End(Ending.DONE, 200, refusal.code, "", refusal.message)


def end_by(error: Exception) -> End:
    """Return the end that *error* made."""
    if isinstance(error, Rejection):
        return End(Ending.REJECTED, error.status, error.code, "", error.message)
    if isinstance(error, UpstreamError):
        cause = error.cause
        return End(Ending.FAILED, cause.status_code, cause.code or "", error.kind, cause.message)
    return End(Ending.FAILED, kind="internal")


class CallState(msgspec.Struct, eq=False):
    """The attempts of one call, what they have cost, and what is reserved for it."""

    call: Call
    hold: Reservation
    services: Services
    started_at: float
    """Seconds since 1970."""
    begun: float
    """The same moment by `services.monotonic`."""
    first_output: float | None = None
    """When output was first sent, by `services.monotonic`."""
    attempts: int = 0
    started: bool = False
    """Whether output was sent: no other attempt may follow."""
    tried: list[str] = []
    counted: set[str] = set()
    leases: list[Lease] = []
    """Those that look at events or are settled."""
    last_lease: Lease | None = None
    """Settled after those of the policies."""
    growth: Growth | None = None
    """Reserves the rest of a stream without a ceiling; None for any other call."""
    stream: Stream | None = None
    attempt_begun: float = 0.0
    """When the attempt that runs began, by `services.monotonic`."""
    failed_attempts: list[FailedAttempt] = []
    """Those that another one followed."""
    _banked: Usage = NO_USAGE

    @property
    def usage(self) -> Usage:
        """What all attempts have cost together."""
        if self.stream is None:
            return self._banked
        return self.stream.usage if self._banked is NO_USAGE else self._banked + self.stream.usage

    def bank(self) -> Usage:
        """Keep a broken attempt's usage before the next one starts, and return it."""
        spent = Usage() if self.stream is None else self.stream.usage
        self._banked, self.stream = self._banked + spent, None
        return spent

    def begin_attempt(self, upstream: str) -> None:
        """Note that an attempt at *upstream* begins."""
        self.attempts += 1
        self.tried.append(upstream)
        self.attempt_begun = self.services.monotonic()

    def attempt_failed(self, error: UpstreamError) -> None:
        """Note that the attempt failed and that another one follows, whose headers the client gets."""
        self.call.upstream_headers = ()
        self.failed_attempts.append(
            FailedAttempt(
                upstream=self.tried[-1],
                error_kind=error.kind,
                status=error.cause.status_code,
                started_after_seconds=self.attempt_begun - self.begun,
                seconds=self.services.monotonic() - self.attempt_begun,
            )
        )

    def report(self, control: CallControl) -> None:
        """Set what the call's record needs, beside its outcome."""
        control.cost_usd = self.hold.cost_usd
        if self.attempts:
            control.upstream_after_seconds = self.attempt_begun - self.begun
            control.failed_attempts = tuple(self.failed_attempts)

    def outcome(self, end: End) -> Outcome:
        """Return the call's outcome, ended now by *end*."""
        usage, began, first = self.usage, self.started_at - self.begun, self.first_output
        return Outcome(
            end.ending,
            usage,
            self.attempts,
            end.status,
            end.code,
            end.kind,
            end.message,
            self.tried[-1] if self.tried else "",
            (usage.parts[-1] if usage.parts else usage).model or self.call.model,
            self.started_at,
            None if first is None else began + first,
            began + self.services.monotonic(),
        )
