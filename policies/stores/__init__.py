"""The stores: in memory for one process and no longer, in a SQLite file for all processes of one machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from policies.store import Store

from .memory import MemoryStore
from .sqlite import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore", "open_store"]

SQLITE = "sqlite:///"


def open_store(url: str, *, folder: Path, clock: Callable[[], float] = time.time) -> Store:
    """Return the store at *url*; a relative file is looked for in *folder*.

    Nothing is touched before the first use.  Raises ValueError, with the cure, for an address of no known kind.
    """
    if url == "memory://":
        return MemoryStore(clock=clock)
    if url.startswith(SQLITE) and len(url) > len(SQLITE):
        return SQLiteStore(folder / url.removeprefix(SQLITE), clock=clock)
    msg = f"{url!r} is no store; write 'memory://' or 'sqlite:///FILE'"
    raise ValueError(msg)
