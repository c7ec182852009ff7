"""The bounds of entries, which all stores share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policies.api.store import MAX_ENTRIES_AT_ONCE, MAX_ENTRY_BYTES, MAX_ENTRY_KEY_CHARACTERS

MAX_ENTRIES_IN_MEMORY = 65_536
"""Most entries in the memory of one process. Measured: 350 bytes for each."""
MAX_SHARED_ENTRIES = 1_000_000
"""Most entries in a file or on a server."""
EXPIRED_PER_OPERATION = 8
"""Expired entries that an operation removes beyond the number that it adds, so that none takes long."""


def check_keys(keys: Iterable[str]) -> None:
    """Raise `ValueError` for a key that is too long or not printable ASCII, and for too many keys."""
    number = 0
    for key in keys:
        number += 1
        if not key or len(key) > MAX_ENTRY_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
            msg = f"the key of an entry must be 1 to {MAX_ENTRY_KEY_CHARACTERS} printable ASCII characters"
            raise ValueError(msg)
    if number > MAX_ENTRIES_AT_ONCE:
        msg = f"{number} entries in one operation; pass at most {MAX_ENTRIES_AT_ONCE}"
        raise ValueError(msg)


def check_entries(entries: Mapping[str, bytes]) -> None:
    """Raise `ValueError` as `check_keys` does, and for a value that is too large."""
    check_keys(entries)
    for value in entries.values():
        if len(value) > MAX_ENTRY_BYTES:
            msg = f"the value of an entry has {len(value)} bytes; at most {MAX_ENTRY_BYTES} are kept"
            raise ValueError(msg)
