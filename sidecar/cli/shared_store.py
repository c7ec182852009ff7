"""Open the store of a configuration from outside of the processes that serve, for `sidecar usage` and `sidecar budget`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from policies.stores.opening import open_store

if TYPE_CHECKING:
    from policies.api.store import Store
    from sidecar.config.settings import Settings


class StoreNotReadable(Exception):
    """Raised for a store that does not exist, or that other processes cannot use."""


@asynccontextmanager
async def shared_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store that running sidecars use, and close it at the end of the block; no file is created, and none converted.

    Raises `StoreNotReadable` for a store in memory and for one that does not exist.
    """
    location = settings.store.location
    try:
        if not location.is_shared_between_processes:
            msg = (
                f"{location.redacted} cannot be read from outside: its counters are in the process of `sidecar serve` and"
                " end with it; use a sqlite:/// or redis:// store"
            )
            raise StoreNotReadable(msg)
        file = location.file(settings.folder)
        if file is not None and not _is_filled(file):
            problem = "is an empty file" if file.exists() else "does not exist"
            msg = (
                f"{location.describe(settings.folder)} {problem}; name the store with --store, or the configuration"
                " of the sidecar with --config, and start the sidecar before"
            )
            raise StoreNotReadable(msg)
        store = open_store(settings.store.url, folder=settings.folder, converts=False)
    except ValueError as error:  # an installed store that cannot be loaded
        raise StoreNotReadable(str(error)) from error
    try:
        yield store
    finally:
        await store.aclose()


def _is_filled(file: Path) -> bool:
    """Return whether *file* exists and is not an empty file, which opening would turn into a store."""
    try:
        return file.stat().st_size > 0 or not file.is_file()
    except OSError:
        return False
