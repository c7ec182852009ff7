"""Grow the reservation of a stream without a ceiling, step by step, while it runs.

A stream reserves its expected answer before the call. When half of the last step is left, a task asks the store for the
next step, while the stream runs on. Where there is no room for a step, the stream ends when its reservation is used up.
"""

from __future__ import annotations

import asyncio
import sys
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policies.api.rejection import Rejection
from policies.api.store import StoreDown

from .error_report import error_report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from policies.api.services import Services

    from .reservations.reservation import Reservation

MAX_PAUSE_SECONDS = 2.0
"""Longest time for which a stream waits for the store when it has used one step more than it has reserved."""
PAUSE_SLICES = 20
"""Parts of that time, each with its own timer: the time for which this process itself stood still hardly counts."""
REPEAT_SECONDS = 0.25
"""Seconds after which a store that is down is asked again."""


Grow: TypeAlias = "Callable[[Reservation], Awaitable[Rejection | int]]"
"""`Ledger.grow`."""


class Next(Enum):
    """What a stream does after a batch."""

    GO_ON = auto()
    WAIT = auto()
    """Stop reading until `Growth.wait` has returned."""
    END = auto()
    """End the answer: there is no room for more."""


class Growth(msgspec.Struct, eq=False):
    """The growing reservation of one stream. One per call that has no ceiling; `close` it before the settlement.

    `ask_at` is the number of output tokens from which on `advance` must be called. A stream exceeds its reservation by
    the batch in which it is used up, and while the store does not answer by at most one step.
    """

    hold: Reservation
    grow: Grow
    services: Services
    reserved: int
    """Output tokens that are reserved, over all answers."""
    ask_at: int
    _task: asyncio.Task[None] | None = None
    _refusal: Rejection | None = None
    _is_over: bool = False
    _gave_up: bool = False

    @property
    def refusal(self) -> Rejection:
        """The refusal of the limit that has no room, after `Next.END`."""
        assert self._refusal is not None  # for the type: `advance` returns END only with one
        return self._refusal

    def advance(self, read: int) -> Next:
        """Note that *read* output tokens have been read, at least `ask_at`; return what the stream does next.

        Called a few times per step, in the event-loop iteration in which the tokens arrived. It does not wait.
        """
        if self._is_over:
            return Next.END
        debt_at = self.reserved + self.hold.step
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._ask(read))
            self.ask_at = debt_at
        return Next.WAIT if read >= debt_at else Next.GO_ON

    async def wait(self) -> None:
        """Wait up to 2 seconds for the step that was asked for. Called after `Next.WAIT`.

        If the store does not answer, the policies decide by `when_store_fails`: the stream runs on without a further
        reservation, or `Rejection` is raised (503 `store_unavailable`).
        """
        if not self._gave_up:
            if (task := self._task) is None:  # the store has answered before the transport returned from its read
                return
            for _ in range(PAUSE_SLICES):  # of a process that was stopped meanwhile, only one of them is over
                await asyncio.wait([task], timeout=MAX_PAUSE_SECONDS / PAUSE_SLICES)
                if task.done():
                    return
        if any(when_store_fails == "refuse" for claim, _, when_store_fails in self.hold.claims if claim.per_token):
            msg = "The limits cannot be checked just now, so the answer ends here. Please try again in a moment."
            raise Rejection(503, "store_unavailable", msg, retry_after=1.0)
        self.ask_at = sys.maxsize

    def close(self) -> None:
        """Stop asking. A step that the store takes nevertheless is settled with the call, or refused after that."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, read: int) -> None:
        """Ask the store for the next step until it answers, and set `ask_at`."""
        while True:
            try:
                granted = await self.grow(self.hold)
            except StoreDown:
                if self.hold.is_settled:
                    return
                await self.services.sleep(REPEAT_SECONDS)
            except Exception as error:  # noqa: BLE001  # of a store or a policy: it must not leave the task
                report = error_report(error)
                self.services.log.error("call %s: its reservation cannot grow: %s", self.hold.call.id, report)  # noqa: TRY400
                self._gave_up = True
                return
            else:
                break
        self._task = None
        if isinstance(granted, int):
            self.reserved += granted
            self.ask_at = self.reserved - granted // 2
        else:
            # Another call may give room back before the reservation is used up, so the store is asked once more then.
            self._refusal, self._is_over = granted, read >= self.reserved
            self.ask_at = 0 if self._is_over else self.reserved


def growth_of(hold: Reservation, grow: Grow, services: Services) -> Growth:
    """Return the growing reservation of *hold*, whose first part is reserved. It asks when half of that is used."""
    first = hold.ceiling * hold.call.choices_generated
    return Growth(hold, grow, services, first, first - first // 2)
