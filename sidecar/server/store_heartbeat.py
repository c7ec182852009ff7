"""Keep the reservations of this process alive in the store, and send settlements that were queued while it was down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from policies.api.store import StoreDown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from policies.api.services import Services
    from policies.engine.ledger import Ledger

CLOSE_TIMEOUT_SECONDS = 5.0
"""Limit of each step of `StoreHeartbeat.aclose`: the end of the heartbeat in progress, and the last settlements."""
MAX_LOGGED_KINDS = 32
"""Exception classes that are logged; further ones are ignored."""


class StoreHeartbeat:
    """Calls `store.heartbeat()` and `ledger.begin_catch_up()` every *interval* seconds, until `aclose`.

    A heartbeat does not wait for settlements: there may be thousands, and the store counts a process without heartbeats as dead.
    No exception ends it. `StoreDown` is reported once per outage: *on_change* is called with the error when the store
    goes down, and with None when it is back. Any other exception is logged once per class, with its traceback. *sleep*
    and *close_timeout* are in seconds.
    """

    def __init__(
        self,
        services: Services,
        ledger: Ledger,
        interval: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_change: Callable[[StoreDown | None], None] | None = None,
        close_timeout: float = CLOSE_TIMEOUT_SECONDS,
    ) -> None:
        self._services, self._ledger, self._interval = services, ledger, interval
        self._sleep, self._on_change, self._close_timeout = sleep, on_change, close_timeout
        self._task: asyncio.Task[None] | None = None
        self._closing = self._is_down = False
        self._logged: set[str] = set()

    @property
    def is_running(self) -> bool:
        """Whether heartbeats are being sent."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the heartbeats in a task of the running event loop. The first one is sent after *interval* seconds."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Stop the heartbeats, then send the queued settlements. Takes at most twice the *close_timeout*.

        Raises only the cancellation of its caller. If settlements cannot be sent, their number is logged, and the store
        charges the reservations in full.
        """
        # A client library may swallow the cancellation; the flag ends the loop then.
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=self._close_timeout)
        try:
            with anyio.move_on_after(self._close_timeout):
                await self._ledger.catch_up()
        finally:
            self._ledger.stop()
        if left := self._ledger.pending_settlements:
            self._services.log.error("%d settlements could not be sent: their reservations are charged in full", left)

    async def _run(self) -> None:
        while not self._closing:
            await self._sleep(self._interval)
            if await self._send_heartbeat():
                self._ledger.begin_catch_up()

    async def _send_heartbeat(self) -> bool:
        """Send a heartbeat; return False if the store is down, so that settlements are not tried."""
        try:
            await self._services.store.heartbeat()
        except StoreDown as error:
            self._report(error)
            return False
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # no error of a store ends the heartbeats
            self._log_once(error)
        else:
            self._report(None)
        return True

    def _log_once(self, error: BaseException) -> None:
        """Log *error* once per class. Raise it if it is a cancellation of this task, not one that a library made up."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise error
        kind = type(error).__qualname__
        if kind not in self._logged and len(self._logged) < MAX_LOGGED_KINDS:
            self._logged.add(kind)
            text = "the store heartbeat failed and is tried again (%s is logged once)"
            self._services.log.error(text, kind, exc_info=error)

    def _report(self, error: StoreDown | None) -> None:
        was_down = self._is_down or (error is None and self._ledger.has_reported_down)
        self._is_down = error is not None
        if self._is_down == was_down:
            return
        self._ledger.has_reported_down = False
        if self._on_change is None:
            return
        try:
            self._on_change(error)
        except Exception as failed:  # noqa: BLE001  # no error of the callback either
            self._log_once(failed)
