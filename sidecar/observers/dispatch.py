"""Delivery of finished records to all observers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from policies.records.observer import RunningObserver
from policies.records.record import Record


class Observers:
    """Deliver each record to every observer, in order.

    An observer that fails affects neither the request nor the others. The first failure of each observer class is
    logged, with the class name of the exception only: its message could contain a prompt or a key.
    """

    def __init__(self, observers: Iterable[RunningObserver], log: logging.Logger) -> None:
        self._observers = tuple(observers)
        self._log = log
        self._reported: set[str] = set()

    def observe(self, record: Record) -> None:
        """Call every observer with *record*; raises no `Exception`. Called once per request."""
        for observer in self._observers:
            try:
                observer.observe(record)
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                self._report(observer, error, "cannot take a record")

    async def close(self, timeout: float) -> None:
        """Close all observers concurrently. One that takes longer than *timeout* seconds is cancelled, and logged."""
        await asyncio.gather(*(self._close(observer, timeout) for observer in self._observers))

    async def _close(self, observer: RunningObserver, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await observer.close()
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            self._report(observer, error, "cannot close")

    def _report(self, observer: RunningObserver, error: Exception, what: str) -> None:
        name = type(observer).__qualname__
        if name not in self._reported:
            self._reported.add(name)
            self._log.error("observer %s %s: %s; reported once", name, what, type(error).__name__)
