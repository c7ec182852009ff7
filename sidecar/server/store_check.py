"""The check of the store at start, and the warnings about a store that works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec

from policies.api.store import AdvisedStore, StoreDown
from policies.stores.opening import open_store

if TYPE_CHECKING:
    from policies.api.store import Store
    from sidecar.config.settings import Settings

WARNING_INTERVAL_HEARTBEATS = 150
"""Answered heartbeats between two checks of the warnings: five minutes."""
MAX_LOGGED_WARNINGS = 32


class StoreCheck(msgspec.Struct, frozen=True):
    """What the check at start has found and logged: why the store does not answer, or what endangers its counters."""

    fault: str = ""
    warnings: tuple[str, ...] = ()


HEALTHY_STORE = StoreCheck()


async def check_store(settings: Settings) -> StoreCheck:
    """Ask the store whether it answers. Raises `ValueError`, and for a file the `StoreDown` or `OSError` of the store.

    A remote store that does not answer may come back; until then `when_store_fails` of each policy decides. A `StoreDown` that
    is a `ValueError` too says that waiting does not help: another version uses the store.
    """
    store = open_store(settings.store.url, folder=settings.folder)
    try:
        await store.ping()
        return StoreCheck(warnings=tuple(await store.warnings()) if isinstance(store, AdvisedStore) else ())
    except (StoreDown, OSError) as error:
        if isinstance(error, ValueError) or settings.store.location.file(settings.folder) is not None:
            raise
        return StoreCheck(fault=str(error))
    finally:
        await store.aclose()


class StoreWarnings:
    """Logs each warning of *store* once: after an outage, because the server may be another one, and every five minutes.

    *known* are the warnings that were logged before.
    """

    def __init__(self, store: Store, warn: Callable[..., object], known: Collection[str] = ()) -> None:
        self._store = store if isinstance(store, AdvisedStore) else None
        self._warn, self._logged = warn, set(known)
        self._heartbeats = 0
        self._task: asyncio.Task[None] | None = None

    def heartbeat_answered(self, *, is_back: bool) -> None:
        """Check the warnings in a task if it is time, or if the store *is_back*."""
        self._heartbeats += 1
        if self._store is None or self._task is not None or not (is_back or self._is_due):
            return
        self._heartbeats = 0
        self._task = asyncio.get_running_loop().create_task(self._check(self._store))

    @property
    def _is_due(self) -> bool:
        return self._heartbeats >= WARNING_INTERVAL_HEARTBEATS

    async def _check(self, store: AdvisedStore) -> None:
        try:
            found = await store.warnings()
        except Exception:  # noqa: BLE001  # heartbeats report a store that fails
            return
        finally:
            self._task = None
        for each in found:
            if each not in self._logged and len(self._logged) < MAX_LOGGED_WARNINGS:
                self._logged.add(each)
                self._warn("%s", each)

    async def aclose(self) -> None:
        """End a check that is running."""
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])
