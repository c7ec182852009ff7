"""`sidecar key rotate` and `sidecar key list`: both read the configuration, need no secret and change no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import msgspec

from sidecar.config.access import Access
from sidecar.config.key_values.expiry import last_moment
from sidecar.config.key_values.texts import MAX_HASHES
from sidecar.config.key_values.toml_text import table_text, value_text
from sidecar.config.keys import random_key

from .limit_report import columns

SHOWN_DIGITS = 8
"""Hexadecimal digits of a hash that are shown: enough to distinguish the hashes of a file."""
LIST_HEADER = ("id", "tenant", "state", "not after", "hashes", "models", "profiles", "comment")
NO_KEYS = "no keys: every client is the tenant 'default'"


class KeyNotRotated(Exception):
    """Refusal to rotate a key; the message is `problem; cure`."""


class HashLine(msgspec.Struct, frozen=True):
    """One hash of a key: its first digits, its own date, and whether it is refused by now."""

    sha256: str
    not_after: str | None
    expired: bool


class KeyLine(msgspec.Struct, frozen=True):
    """One `[[key]]` as `sidecar key list --json` prints it; None for models or profiles means all."""

    id: str
    tenant: str
    expired: bool
    not_after: str | None
    hashes: Sequence[HashLine]
    models: Sequence[str] | None
    profiles: Sequence[str] | None
    comment: str


def key_lines(keys: Iterable[Access], now: float) -> list[KeyLine]:
    """Return a line for each of *keys*, in file order. *now* is in seconds since 1970."""
    return [
        KeyLine(
            id=access.key_id,
            tenant=access.tenant,
            expired=all(now > each.last_moment for each in access.hashes),
            not_after=_date_text(access.table.get("not_after")),
            hashes=[
                HashLine(known.digest.hex()[:SHOWN_DIGITS], _date_text(_date_of(entry)), now > known.last_moment)
                for known, entry in zip(access.hashes, _entries(access), strict=True)
            ],
            models=access.models,
            profiles=access.allowed,
            comment=access.table.get("comment", ""),
        )
        for access in keys
    ]


def keys_as_json(lines: Sequence[KeyLine]) -> str:
    """Return *lines* as a JSON list of objects."""
    return msgspec.json.format(msgspec.json.encode(lines)).decode()


def keys_as_table(lines: Sequence[KeyLine]) -> str:
    """Return *lines* as a table; `*` stands for all models or profiles."""
    return columns([LIST_HEADER, *map(_row, lines)]) if lines else NO_KEYS


def _row(line: KeyLine) -> tuple[str, ...]:
    lists = [", ".join(names) if names is not None else "*" for names in (line.models, line.profiles)]
    hashes = f"{len(line.hashes)}: {', '.join(map(_hash_text, line.hashes))}"
    state = "expired" if line.expired else "valid"
    cells = (line.id or "-", line.tenant, state, line.not_after or "-", hashes, *lists, line.comment)
    return tuple("".join(char if char.isprintable() else "?" for char in cell) for cell in cells)


def _hash_text(line: HashLine) -> str:
    if line.expired:
        return f"{line.sha256} (expired)"
    return f"{line.sha256} (not after {line.not_after})" if line.not_after else line.sha256


def _entries(access: Access) -> list[Any]:
    """Return the hashes of the key as in the file."""
    found = access.table.get("sha256")
    return found if isinstance(found, list) else [found]


def _date_of(entry: Any) -> Any:
    return entry.get("not_after") if isinstance(entry, dict) else None


def _date_text(value: Any) -> str | None:
    return None if value is None else value_text(value)


def rotated_key(
    keys: Sequence[Access], key_id: str, *, source: str, now: float, old_not_after: date | None = None
) -> str:
    """Return a new key for the `[[key]]` *key_id*, the table that accepts the new and the old ones, and what to do with it.

    Expired hashes are left out. *old_not_after* becomes the date of the old ones without a date; *source* names the file.
    Raises `KeyNotRotated`.
    """
    access = next((each for each in keys if each.key_id == key_id), None)
    if access is None:
        known = ", ".join(each.key_id for each in keys if each.key_id) or "none; add `id` to a [[key]]"
        raise KeyNotRotated(f"no [[key]] of {source} has the id {key_id!r}; ids: {known}")
    kept = [each for each in _entries(access) if now <= last_moment(_date_of(each))]
    if len(kept) >= MAX_HASHES:
        raise KeyNotRotated(f"the key {key_id!r} has {len(kept)} valid hashes; remove those that are not used any more")
    if old_not_after is not None:
        kept = [{"sha256": each, "not_after": old_not_after} if isinstance(each, str) else each for each in kept]
    token, digest = random_key()
    table = {**access.table, "sha256": [digest, *kept] if kept else digest}
    advice = [
        f"Replace the table of {key_id!r} in {source}, with its sub-tables, by this one, and restart the sidecar."
    ]
    if kept:
        shown = ", ".join((each if isinstance(each, str) else each["sha256"])[:SHOWN_DIGITS] for each in kept)
        advice.append("Then the old key is valid beside the new one. Give the new key to the client.")
        advice.append(f"To retire the old key, remove its hash ({shown}) from `sha256`, and restart again.")
        if old_not_after is not None:
            advice.append(f"It is refused after {value_text(old_not_after)} in any case.")
    if now > last_moment(access.table.get("not_after")):
        advice.append("The date `not_after` of the key has passed: set a later one, or the new key is refused too.")
    comments = "".join(f"# {line}\n" for line in advice)
    return f"{token}\n\n{comments}{table_text('[[key]]', table)}"
