"""Settlements on their way to the store: sent at once, and kept while it cannot take them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import msgspec

from policies.api.store import StoreDown

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from policies.api.services import Services

MOST = 10_000


class Settlement(msgspec.Struct, frozen=True):
    """How a hold ends: with what it is charged, by the keys of its claims, or given back where *charges* is None."""

    call_id: str
    charges: dict[str, int] | None
    refund: bool = True


class Settlements:
    """Sends settlements.  Those that fail are kept, the newest 10,000, and sent again: each is idempotent.

    Until then a hold counts as spent; if the process dies before, it is charged in full.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.late: deque[Settlement] = deque()
        """Those that are kept."""
        self._pass: anyio.Event | None = None

    def keep(self, settlement: Settlement) -> None:
        """Send *settlement* later."""
        if len(self.late) >= MOST:
            lost = self.late.popleft()
            self._services.log.error("call %s cannot be settled: its hold counts until this process ends", lost.call_id)
        self.late.append(settlement)

    async def send(self, call_id: str, charges: dict[str, int] | None, *, refund: bool = True) -> None:
        """Send a settlement now; it is kept if the store is down, or if this is cancelled."""
        try:
            await self._deliver(call_id, charges, refund)
        except StoreDown as error:
            self._services.log.warning("not settled yet, will be sent again: %s", error)
            self.keep(Settlement(call_id, charges, refund))
        except BaseException:
            self.keep(Settlement(call_id, charges, refund))
            raise

    async def catch_up(self) -> None:
        """Send what was kept, oldest first, until the store fails again.  One task at a time does so, the others wait for it."""
        if self._pass is not None:
            await self._pass.wait()
            return
        self._pass = anyio.Event()
        try:
            while self.late:
                settlement = self.late.popleft()
                try:
                    await self._deliver(settlement.call_id, settlement.charges, settlement.refund)
                except StoreDown as error:
                    self.late.appendleft(settlement)
                    self._services.log.warning("not settled yet, will be sent again: %s", error)
                    return
                except Exception:
                    # A settlement that cannot be made must not keep the others from being made.
                    self._services.log.exception("call %s cannot be settled", settlement.call_id)
                except BaseException:
                    self.late.appendleft(settlement)
                    raise
        finally:
            self._pass.set()
            self._pass = None

    def _deliver(self, call_id: str, charges: dict[str, int] | None, refund: bool) -> Awaitable[None]:  # noqa: FBT001  # as a settlement has it
        store = self._services.store
        return store.release(call_id) if charges is None else store.settle(call_id, charges, refund=refund)
