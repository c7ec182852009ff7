"""Send settlements to the store, and queue them while the store is down."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import msgspec

from policies.api.store import StoreDown

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from policies.api.services import Services

MAX_PENDING_SETTLEMENTS = 10_000
"""Settlements that are queued; the oldest is dropped for a new one."""


class Settlement(msgspec.Struct, frozen=True):
    """The end of a reservation: charged with `charges`, by the keys of its claims, or released if `charges` is None.

    Without `refund` each counter is charged at least the amount that was reserved.
    """

    call_id: str
    charges: dict[str, int] | None
    refund: bool = True


class SettlementQueue:
    """Sends settlements; those that fail are queued and sent again, which is safe because a settlement is idempotent.

    A queued settlement's reservation counts against its limits. If the process dies first, the store charges it in
    full.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.pending: deque[Settlement] = deque()
        """Settlements that are queued, the oldest first."""
        self._pass_done: anyio.Event | None = None
        """Set at the end of the `catch_up` in progress; None while there is none."""

    def add(self, settlement: Settlement) -> None:
        """Queue *settlement* for `catch_up`. A full queue drops its oldest settlement and logs it."""
        if len(self.pending) >= MAX_PENDING_SETTLEMENTS:
            dropped = self.pending.popleft()
            text = "settlement of call %s dropped, the queue is full: its reservation counts until this process ends"
            self._services.log.error(text, dropped.call_id)
        self.pending.append(settlement)

    async def send(self, call_id: str, charges: dict[str, int] | None, *, refund: bool = True) -> None:
        """Send a settlement now; queue it if the store is down.

        Other errors and a cancellation queue it and are raised.
        """
        try:
            await self._deliver(call_id, charges, refund)
        except StoreDown as error:
            self.add(Settlement(call_id, charges, refund))
            self._services.state_changed("store", "down", str(error))
        except BaseException:
            self.add(Settlement(call_id, charges, refund))
            raise

    async def catch_up(self) -> None:
        """Send the queued settlements, oldest first, until the store fails again.

        One task sends at a time; others wait until it has ended. A settlement that fails with another error than
        `StoreDown` is logged and dropped, so that it does not block the rest. After a cancellation the settlement in
        progress is queued.
        """
        if self._pass_done is not None:
            await self._pass_done.wait()
            return
        self._pass_done = anyio.Event()
        try:
            while self.pending:
                settlement = self.pending.popleft()
                try:
                    await self._deliver(settlement.call_id, settlement.charges, settlement.refund)
                except StoreDown as error:
                    self.pending.appendleft(settlement)
                    self._services.state_changed("store", "down", str(error))
                    return
                except Exception:
                    self._services.log.exception("settlement of call %s dropped", settlement.call_id)
                except BaseException:
                    self.pending.appendleft(settlement)
                    raise
        finally:
            self._pass_done.set()
            self._pass_done = None

    def _deliver(self, call_id: str, charges: dict[str, int] | None, refund: bool) -> Awaitable[bool | None]:  # noqa: FBT001  # the order of a `Settlement`
        store = self._services.store
        return store.release(call_id) if charges is None else store.settle(call_id, charges, refund=refund)
