"""What a store URL means, and which store it opens.

Built in are `memory://` (one process), `sqlite:///FILE` (the processes of one machine) and the forms of
`policies.stores.redis.servers.url` (any number of machines). An installed package adds a scheme by an entry point of the group
`chatnest_sidecar.stores`: its name is the scheme, its object a `StoreFactory`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import msgspec

from policies.api.store import Store
from policies.stores.redis.servers.url import URL_SCHEMES as REDIS_SCHEMES
from policies.stores.redis.servers.url import RedisUrl
from policies.stores.sqlite.store import SQLiteStore

from .memory import MemoryStore

STORE_GROUP = "chatnest_sidecar.stores"
MEMORY_URL = "memory://"
SQLITE_PREFIX = "sqlite:///"
_URL_REMEDY = "write 'sqlite:///FILE', 'redis://HOST:PORT/DB', or 'memory://' for a trial"
_URL_CREDENTIALS = re.compile("//(.*)@", re.DOTALL)
"""Everything up to the last `@`: a password with an unquoted `/`, `?` or `@` makes a URL that cannot be parsed."""


class StoreFactory(Protocol):
    """Makes the store of an installed scheme.

    An attribute `shared_between_processes` that is False refuses several workers: each would count for itself. Where it is
    missing it is True.
    """

    def __call__(self, url: str, *, folder: Path, clock: Callable[[], float] | None) -> Store:
        """Return the store at *url*, without I/O. Relative paths are resolved against *folder*.

        *clock* replaces the store's own, in seconds since 1970. Raises ValueError, as "problem; remedy", for a wrong URL.
        """
        ...


class StoreUrl(msgspec.Struct, frozen=True):
    """A valid store URL; made by `parse`."""

    text: str
    scheme: str

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Return *text* as a store URL. Raises ValueError, as "problem; remedy" and without the password, if it is none."""
        scheme = text.partition("://")[0]
        if text == MEMORY_URL or (text.startswith(SQLITE_PREFIX) and len(text) > len(SQLITE_PREFIX)):
            return cls(text, scheme)
        if "://" in text and scheme.lower() in REDIS_SCHEMES:
            try:
                RedisUrl.parse(text)
            except ValueError as error:
                raise _invalid(text, str(error) or _URL_REMEDY) from None
            return cls(text, scheme.lower())
        installed = sorted(entry_points(group=STORE_GROUP).names - {"memory", "sqlite", *REDIS_SCHEMES})
        if "://" in text and scheme in installed:
            return cls(text, scheme)
        raise _invalid(text, ", or ".join([_URL_REMEDY, *(f"'{name}://...'" for name in installed)]))

    @staticmethod
    def for_file(path: Path) -> str:
        """Return the URL of the SQLite file at *path*."""
        return f"{SQLITE_PREFIX}{path}"

    @property
    def is_shared_between_processes(self) -> bool:
        """Whether several workers that open it count together. Raises ValueError for a scheme whose package is broken."""
        if self.scheme == "memory":
            return False
        is_built_in = self.scheme == "sqlite" or self.scheme in REDIS_SCHEMES
        return is_built_in or bool(getattr(_factory(self.scheme), "shared_between_processes", True))

    @property
    def has_password(self) -> bool:
        """Whether it holds a password, which belongs into the environment."""
        if self.scheme in REDIS_SCHEMES:
            return RedisUrl.parse(self.text).password is not None
        credentials = _URL_CREDENTIALS.search(self.text) if self.scheme not in ("memory", "sqlite") else None
        return credentials is not None and ":" in credentials[1]

    def file(self, folder: Path) -> Path | None:
        """Return the path of the SQLite file, a relative one in *folder*; None for a store that is no file."""
        return folder / self.text.removeprefix(SQLITE_PREFIX) if self.scheme == "sqlite" else None

    @property
    def redacted(self) -> str:
        """The URL without credentials, options and fragment."""
        return _without_secrets(self.text)

    def describe(self, folder: Path) -> str:
        """Return it for people: without credentials and options, and with the whole path of a file."""
        if (path := self.file(folder)) is not None:
            return self.for_file(path)
        if self.scheme == "memory":
            return f"{MEMORY_URL} (counters end with the process)"
        return self.redacted


def open_store(
    url: str,
    *,
    folder: Path,
    clock: Callable[[], float] | None = None,
    resident: bool = False,
    converts: bool = True,
) -> Store:
    """Return the store at *url*, without I/O; a relative path is resolved against *folder*.

    *clock* replaces the store's own, in seconds since 1970. *resident*: the event loop runs until the process ends. Without
    *converts* the content of an earlier version is not converted: the operations of a built-in store raise `StoreDown`.
    Raises ValueError, as "problem; remedy", for a wrong URL.
    """
    location = StoreUrl.parse(url)
    if location.scheme == "memory":
        return MemoryStore(clock=clock or time.time)
    if (path := location.file(folder)) is not None:
        return SQLiteStore(path, clock=clock or time.time, resident=resident, converts=converts)
    if location.scheme not in REDIS_SCHEMES:
        return _opened(location, folder, clock)
    from policies.stores.redis.store import RedisStore  # noqa: PLC0415  # its client library takes 8 MB and 0.2 s to import

    return RedisStore(url, prefix=RedisUrl.parse(url).prefix, clock=clock, converts=converts)


def _opened(location: StoreUrl, folder: Path, clock: Callable[[], float] | None) -> Store:
    """Return the store of an installed scheme. Raises ValueError, as "problem; remedy", for any exception of its factory."""
    try:
        return _factory(location.scheme)(location.text, folder=folder, clock=clock)
    except ValueError as error:
        raise ValueError(_without_password(str(error), location.text)) from None
    except Exception as error:
        cause = type(error).__name__  # its message may contain the URL, and so a password
        problem = f"store {location.scheme!r} cannot be opened: its package raised {cause}"
        raise ValueError(f"{problem}; correct the URL, or repair the package") from error


def _factory(scheme: str) -> StoreFactory:
    for entry in entry_points(group=STORE_GROUP, name=scheme):
        try:
            factory: StoreFactory = entry.load()
        except Exception as error:
            msg = f"store {scheme!r} cannot be loaded: {type(error).__name__}: {error}; repair or reinstall its package"
            raise ValueError(msg) from error
        return factory
    msg = f"store {scheme!r} is not installed; {_URL_REMEDY}"
    raise ValueError(msg)


def _invalid(text: str, remedy: str) -> ValueError:
    return ValueError(f"invalid store URL {_without_secrets(text)!r}; {remedy}")


def _without_password(message: str, text: str) -> str:
    """Return *message* with asterisks in place of the password of the URL *text*."""
    credentials = _URL_CREDENTIALS.search(text)
    password = "" if credentials is None else credentials[1].partition(":")[2]
    return message.replace(password, "***") if password else message


def _without_secrets(text: str) -> str:
    """Return the URL *text* without credentials, options and fragment."""
    return re.split("[?#]", _URL_CREDENTIALS.sub("//", text), maxsplit=1)[0]
