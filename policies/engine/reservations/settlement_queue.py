"""Send settlements to the store, and queue them while the store is down.

A queued settlement's reservation counts against its limits. If the process dies first, the store charges it in full.

A store may have lost a reservation: its file was deleted, or its server was flushed. Then `Store.settle` returns False, and
the call is charged all the same, by a second reservation that always fits. False is no such proof if an earlier attempt of
the same settlement may have been executed: then the reservation is missing because it was settled.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.stores.batching.deadline import finish_within

from .settlement_log import SettlementLog

if TYPE_CHECKING:
    from policies.api.services import Services

    from .reservation import Reservation

MAX_PENDING_SETTLEMENTS = 10_000
"""Settlements that are queued; the first of the queue is dropped for a new one."""
MAX_CONCURRENT_SETTLEMENTS = 256
"""Queued settlements that are sent at the same time, so that group commit puts them into few round trips."""
MAX_DELIVERY_SECONDS = 10.0
"""Time limit of one queued settlement, for stores that have no limit of their own. Time in which this process stood still hardly
counts."""
MAX_CALL_DELAY_SECONDS = 1.0
"""Time since the start of a `catch_up` in which new calls wait for it. Later ones count what is queued as held."""

MAX_CHARGES_AT_ONCE = 2
"""Attempts to charge one settlement: with the reservation of the call, and with one of its own."""
LOST_TEXT = "the store had lost its reservation; charged without it"
ENDED_TEXT = "the store had lost its reservation, whose window has ended; not charged"
NOT_CHARGED_TEXT = "the store loses its reservations; it could not be charged"
FULL_TEXT = "its settlement is dropped, the queue is full: its reservation counts until this process ends"
BROKEN_TEXT = "its settlement is dropped: its reservation counts until this process ends"


class Settlement(msgspec.Struct, frozen=True):
    """The end of a reservation: charged with `charges`, by the keys of its claims, or released if `charges` is None.

    Without `refund` each counter is charged at least the amount that was reserved.
    """

    call_id: str
    charges: dict[str, int] | None
    refund: bool = True
    debts: tuple[Claim, ...] = ()
    """What is charged if the store has lost the reservation: claims that always fit."""
    window_ends: Mapping[str, float] = {}
    """When the windows of the reservation end, by the keys of its claims."""
    may_be_done: bool = False
    """Whether an earlier attempt may have been executed."""
    losses: int = 0
    """How often the store has lost the reservation. After that it has one of its own, of `debts`."""
    is_reserved: bool = True
    """False if that must be reserved first."""

    @classmethod
    def of(
        cls, hold: Reservation, charges: dict[str, int] | None, *, refund: bool, may_be_done: bool = False
    ) -> Settlement:
        """Return the settlement of *hold*. It does not keep the call, whose body may be large."""
        debts = () if charges is None or hold.may_be_missing else hold.debts(charges, refund=refund)
        return cls(hold.store_id, charges, refund, debts, hold.window_ends, may_be_done)

    @property
    def store_id(self) -> str:
        """The id of the reservation in the store: a new one after each loss, because a store may refuse one that has ended."""
        return f"{self.call_id}.lost{self.losses}" if self.losses else self.call_id

    @property
    def can_be_lost(self) -> bool:
        """Whether the store has lost the reservation if `settle` returns False."""
        return bool(self.debts) and not self.may_be_done

    @property
    def with_own_reservation(self) -> Settlement:
        """The same charge by a reservation of its own. Its id makes a repeated attempt idempotent."""
        charges = {claim.key: claim.base for claim in self.debts}
        losses, ends = self.losses + 1, self.window_ends
        return Settlement(self.call_id, charges, debts=self.debts, window_ends=ends, losses=losses, is_reserved=False)

    def reserved_at(self, now: float) -> Settlement:
        """Return this settlement after its own reservation was made at *now*, in seconds since 1970.

        A claim whose window has ended since the call reserved is charged 0: the current window must not count it.
        """
        ended = {key for key, ends in self.window_ends.items() if 0 < ends <= now}
        charges = {claim.key: 0 if claim.key in ended else claim.base for claim in self.debts}
        return msgspec.structs.replace(self, charges=charges, is_reserved=True)

    def debts_that_are(self, *, charged: bool) -> list[Claim]:
        """Return the debts that are *charged* to a window, or those whose windows have ended."""
        charges = self.charges or {}
        return [claim for claim in self.debts if bool(charges.get(claim.key)) is charged]


class SettlementQueue:
    """Sends settlements; those that fail are queued and sent again, which is safe because a settlement is idempotent."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.log = SettlementLog(services.log, services.monotonic)
        self.pending: deque[Settlement] = deque()
        """Settlements that are queued and not being sent; those that wait longest since their last attempt come first."""
        self.sending: dict[int, Settlement] = {}
        """Queued settlements that are being sent, or failed in the `catch_up` in progress, in the order of the queue."""
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None
        """The `catch_up` in progress."""
        self._started_at = 0.0
        self._has_failed = False

    def __len__(self) -> int:
        """Return how many settlements the store has not taken yet."""
        return len(self.pending) + len(self.sending)

    def add(self, settlement: Settlement) -> None:
        """Queue *settlement* for `catch_up`. A full queue drops its first settlement and logs it."""
        if len(self) >= MAX_PENDING_SETTLEMENTS and self.pending:
            self.log.add(logging.ERROR, FULL_TEXT, self.pending.popleft().call_id)
        self.pending.append(settlement)

    async def send(self, hold: Reservation, charges: dict[str, int] | None, *, refund: bool = True) -> None:
        """Settle *hold* now; queue its settlement if the store is down, or if the call must be charged without *hold*.

        Other errors and a cancellation queue it and are raised.
        """
        store, call_id = self._services.store, hold.store_id if hold.losses else hold.call.id
        try:
            if charges is None:
                await store.release(call_id)
                return
            is_known = await store.settle(call_id, charges, refund=refund)
        except StoreDown as error:
            self._report_outage(error)
            self.add(Settlement.of(hold, charges, refund=refund, may_be_done=error.taken))
        except BaseException:
            self.add(Settlement.of(hold, charges, refund=refund, may_be_done=True))
            raise
        else:
            if is_known is False:
                settlement = Settlement.of(hold, charges, refund=refund)
                if settlement.can_be_lost:
                    self.add(settlement.with_own_reservation)
                    self.begin_catch_up()

    def begin_catch_up(self) -> None:
        """Start a task that sends the queued settlements, unless it runs or none is queued."""
        if self._task is None and self.pending:
            loop = asyncio.get_running_loop()
            self._started_at, self._task = loop.time(), loop.create_task(self._send_all())

    async def catch_up(self) -> None:
        """Send the queued settlements, oldest first, until the store fails again.

        The oldest is sent alone, because the store may still be down, then up to 256 at a time, in the order of the queue. What
        fails is queued again at the end: a settlement that the store never takes must not block the others. One that fails
        with another error than `StoreDown` is logged and dropped. Several callers wait for the same task; their cancellation does
        not end it.
        """
        self.begin_catch_up()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def delay_call(self) -> None:
        """Send the queued settlements before a new call reserves: it waits until 1 second after the start at most."""
        self.begin_catch_up()
        if self._task is not None:
            left = self._started_at + MAX_CALL_DELAY_SECONDS - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.wait([self._task], timeout=left)

    def stop(self) -> None:
        """End the `catch_up` in progress. What it was sending is queued."""
        if self._task is not None:
            self._task.cancel()
        self.log.summarise(all_of_them=True)

    async def _send_all(self) -> None:
        self._has_failed = False
        try:
            await self._send_next()
            if self.pending and not self._has_failed:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(MAX_CONCURRENT_SETTLEMENTS, len(self.pending))):
                        group.create_task(self._send_until_empty())
        finally:
            self.pending.extend(self.sending.values())
            self.sending.clear()
            self._task = None

    async def _send_until_empty(self) -> None:
        while self.pending and not self._has_failed:
            await self._send_next()

    async def _send_next(self) -> None:
        """Send the oldest queued settlement; what fails stays in `sending`."""
        number = next(self._numbers)
        self.sending[number] = self.pending.popleft()
        try:
            await finish_within(MAX_DELIVERY_SECONDS, self._deliver(number))
        except StoreDown as error:
            failure = error
        except TimeoutError:
            failure = StoreDown(f"no answer within {MAX_DELIVERY_SECONDS:g} s", taken=True)
        except asyncio.CancelledError:
            self._keep(number, taken=True)
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure = StoreDown("the operation was cancelled", taken=True)  # by a library
        except Exception as error:  # noqa: BLE001  # it must not block the other settlements
            self.log.add(logging.ERROR, BROKEN_TEXT, self.sending.pop(number).call_id, cause=error)
            return
        else:
            del self.sending[number]
            return
        self._keep(number, taken=failure.taken)
        self._report_outage(failure)

    def _keep(self, number: int, *, taken: bool) -> None:
        """Keep a settlement that has failed; no others are sent. With *taken* its last operation may have been executed."""
        self._has_failed = True
        settlement = self.sending[number]
        if taken and settlement.is_reserved and not settlement.may_be_done:
            self.sending[number] = msgspec.structs.replace(settlement, may_be_done=True)

    async def _deliver(self, number: int) -> None:
        """Send one settlement. `sending` has what is left to do, whenever this fails."""
        store, settlement = self._services.store, self.sending[number]
        if settlement.charges is None:
            await store.release(settlement.store_id)
            return
        for _ in range(MAX_CHARGES_AT_ONCE):
            if not settlement.is_reserved:
                grant = await store.reserve(settlement.store_id, settlement.debts)
                settlement = self.sending[number] = settlement.reserved_at(grant.now)
            is_known = await store.settle(settlement.store_id, settlement.charges or {}, refund=settlement.refund)
            if is_known is not False or not settlement.can_be_lost:
                if settlement.losses:
                    self._log_loss(settlement)
                return
            settlement = self.sending[number] = settlement.with_own_reservation
        self.log.add(logging.ERROR, NOT_CHARGED_TEXT, settlement.call_id, settlement.debts)

    def _log_loss(self, settlement: Settlement) -> None:
        """Log what was charged by a reservation of its own, and what was not because its window has ended."""
        for text, is_charged in ((LOST_TEXT, True), (ENDED_TEXT, False)):
            if debts := settlement.debts_that_are(charged=is_charged):
                self.log.add(logging.WARNING, text, settlement.call_id, debts)

    def _report_outage(self, error: StoreDown) -> None:
        self._services.state_changed("store", "down", str(error))
