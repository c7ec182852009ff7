"""The state that the chain and the owner of a call's task share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.api.lease import Outcome
    from policies.records.record import FailedAttempt


class CallControl:
    """The state of one running call, for the code that may cancel its task and that writes its record.

    `settling`: the call has ended and its reservation is being settled; a cancellation now would interrupt the settlement,
    so the owner waits until it is False again. Settlement takes bounded time. The other fields are set when it ends:
    `outcome`, `cost_usd` (None if no budget in dollars counted the call), `failed_attempts` (those that another one
    followed) and `upstream_after_seconds` (from the start to the last attempt).
    """

    __slots__ = ("cost_usd", "failed_attempts", "outcome", "settling", "upstream_after_seconds")

    def __init__(self) -> None:
        self.settling = False
        self.outcome: Outcome | None = None
        self.cost_usd: float | None = None
        self.failed_attempts: tuple[FailedAttempt, ...] = ()
        self.upstream_after_seconds: float | None = None
