"""The stores: in memory for one process, in a SQLite file for those of one machine, in Redis for many machines."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from policies.api.store import Store
from policies.stores.sqlite.store import SQLiteStore

from .memory import MemoryStore

__all__ = ["MemoryStore", "SQLiteStore", "check_url", "open_store"]

MEMORY = "memory://"
SQLITE = "sqlite:///"
REDIS = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
KINDS = "write 'sqlite:///FILE', 'redis://HOST:PORT/DB', or 'memory://' for a trial"
PREFIX = "sidecar"
_SECRET = re.compile("//[^/@]*@")


def open_store(url: str, *, folder: Path, clock: Callable[[], float] | None = None, resident: bool = False) -> Store:
    """Return the store at *url*; a relative file is looked for in *folder*.  *resident*: its loop runs to its process's end.

    Nothing is touched before the first use.  *clock* takes the place of the store's own.  Raises ValueError, with the cure,
    for an address of no known kind.
    """
    check_url(url)
    if url == MEMORY:
        return MemoryStore(clock=clock or time.time)
    if url.startswith(SQLITE):
        return SQLiteStore(folder / url.removeprefix(SQLITE), clock=clock or time.time, resident=resident)
    from policies.stores.redis.store import RedisStore  # noqa: PLC0415  # its client is 8 MB and 0.2 s that nobody else needs

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    prefix = query.pop("prefix", PREFIX)
    address = parts._replace(scheme=REDIS[parts.scheme], query=urlencode(query)).geturl()
    return RedisStore(address, prefix=prefix, clock=clock)


def check_url(url: str) -> None:
    """Raise ValueError, as `wrong; right`, unless *url* is the address of a store."""
    if url == MEMORY or (url.startswith(SQLITE) and len(url) > len(SQLITE)):
        return
    try:
        parts = urlsplit(url)
        known = parts.scheme in REDIS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        msg = f"{_SECRET.sub('//', url)!r} is no store; {KINDS}"
        raise ValueError(msg)
    if not (parts.path.strip("/").isdigit() or parts.path in ("", "/")):
        msg = f"{_SECRET.sub('//', url)!r} names no database; it is a number: 'redis://HOST:PORT/0'"
        raise ValueError(msg)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if (
            name != "prefix"
            or not (value.isascii() and value.isprintable() and not set(value) & set("{}:"))
            or not value
        ):
            msg = f"{_SECRET.sub('//', url)!r} has the option {name!r}; only 'prefix' is known, with a value like 'sidecar'"
            raise ValueError(msg)
