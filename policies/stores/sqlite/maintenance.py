"""Statements that keep a SQLite store in order: processes and their reservations, notices, and configured limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from policies.api.store import MAX_REGISTERED_LIMITS
from policies.stores.counting.groups import GroupClock
from policies.stores.counting.reading import CounterReads

from .documents import Execute, find_row, reading_own_rows

PARTS_CHARGED_AT_ONCE = 100
"""Parts of reservations after which one transaction charges no further calls of dead processes; a long stream has many parts."""
CHARGED_REMOVED_AT_ONCE = 250
"""Parts that are due whose reservations one transaction removes."""
MAX_NOTICES = 100
"""Newest notices that are kept."""


class Notice(NamedTuple):
    """What an operator has corrected."""

    id: int
    text: str


def record_heartbeat(execute: Execute, owner: int, now: int, grace: int) -> bool:
    """Record that the process *owner* is alive at *now*; return whether other processes use the file.

    A heartbeat that is *grace* later than now is from before the clock was set back: it counts as one of now.
    """
    execute("INSERT INTO owner VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seen = ?2", (owner, now))
    execute("UPDATE owner SET seen = ? WHERE seen > ?", (now, now + grace))
    return execute("SELECT 1 FROM owner WHERE id != ?", (owner,)).fetchone() is not None


def remove_owner(execute: Execute, owner: int) -> None:
    """Forget the process *owner*, unless it leaves reservations: then these are charged after the grace."""
    execute("DELETE FROM owner WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM hold WHERE owner = ?1)", (owner,))


def has_dead_processes(execute: Execute, owner: int, last_seen: int) -> bool:
    """Return whether a process, other than *owner*, has sent no heartbeat since *last_seen*."""
    return execute("SELECT 1 FROM owner WHERE seen < ? AND id != ?", (last_seen, owner)).fetchone() is not None


def running_calls_of_dead(execute: Execute, owner: int, last_seen: int) -> list[str]:
    """Return calls of processes, other than *owner*, that sent no heartbeat since *last_seen*.

    At most as many as have `PARTS_CHARGED_AT_ONCE` parts, but at least one. Processes without running calls are removed.
    """
    counted = "SELECT call, count(*) FROM hold WHERE owner = ? GROUP BY call LIMIT ?"
    for (dead,) in execute("SELECT id FROM owner WHERE seen < ? AND id != ?", (last_seen, owner)).fetchall():
        calls, parts = list[str](), 0
        for call, number in execute(counted, (dead, PARTS_CHARGED_AT_ONCE)).fetchall():
            parts += number
            if calls and parts > PARTS_CHARGED_AT_ONCE:
                break
            calls.append(call)
        if calls:
            return calls
        execute("DELETE FROM owner WHERE id = ?", (dead,))
    return []


def parts_of(execute: Execute, call: str) -> list[tuple[int, int, bytes]]:
    """Return the parts of the running reservation of *call*: number, ceiling, and what it took."""
    return execute("SELECT part, ceiling, took FROM hold WHERE call = ? ORDER BY part", (call,)).fetchall()


def keep_as_charged(execute: Execute, call: str, due: int, parts: Iterable[tuple[int, int, bytes]]) -> None:
    """Move the reservation of *call* to those that were charged, until *due*, in seconds. *parts* have the marks of the charge."""
    for part, ceiling, took in parts:
        execute("INSERT OR IGNORE INTO charged VALUES (?, ?, ?, ?, ?)", (call, part, ceiling, bytearray(took), due))
    execute("DELETE FROM hold WHERE call = ?", (call,))


def remove_old_charged(execute: Execute, seconds: int) -> None:
    """Remove some of the charged reservations of which a part is due at *seconds*, with all of their parts.

    Those that have running parts too are kept: a settlement would take these for the whole reservation.
    """
    old = "SELECT call FROM charged WHERE due <= ? AND call NOT IN (SELECT call FROM hold) LIMIT ?"
    execute(f"DELETE FROM charged WHERE call IN ({old})", (seconds, CHARGED_REMOVED_AT_ONCE))  # noqa: S608  # a constant


def add_to_group(execute: Execute, group: str, number: int) -> None:
    """Add *number* to the counters that a group of identities has."""
    execute("INSERT INTO crowd VALUES (?1, ?2) ON CONFLICT DO UPDATE SET counters = counters + ?2", (group, number))
    if number < 0:
        execute("DELETE FROM crowd WHERE key = ? AND counters <= 0", (group,))


def group_size(execute: Execute, group: str) -> int:
    """Return how many counters a group of identities has."""
    row = execute("SELECT counters FROM crowd WHERE key = ?", (group,)).fetchone()
    size: int = 0 if row is None else row[0]
    return size


def group_clock(execute: Execute) -> GroupClock:
    """Return the clock of the groups."""
    with reading_own_rows():
        return GroupClock(*execute("SELECT latest, setbacks FROM group_clock").fetchone())


def counter_reads(execute: Execute) -> CounterReads:
    """Return how *execute* reads counters."""
    return CounterReads(
        lambda key, start: find_row(execute, key, start),
        lambda group: group_size(execute, group),
        lambda: group_clock(execute),
    )


def notices_after(execute: Execute, last: int) -> list[Notice]:
    """Return the notices after the one with the id *last*, oldest first."""
    return [Notice(*row) for row in execute("SELECT id, text FROM notice WHERE id > ? ORDER BY id", (last,)).fetchall()]


def last_notice(execute: Execute) -> int:
    """Return the id of the newest notice; 0 where there is none."""
    last: int = execute("SELECT coalesce(max(id), 0) FROM notice").fetchone()[0]
    return last


def add_notice(execute: Execute, text: str) -> None:
    """Add a notice, and remove old ones."""
    execute("INSERT INTO notice (text) VALUES (?)", (text,))
    execute("DELETE FROM notice WHERE id <= (SELECT max(id) FROM notice) - ?", (MAX_NOTICES,))


def replace_limits(execute: Execute, limits: Mapping[str, str]) -> dict[str, str]:
    """Replace the limits that were configured by *limits*, and return those before."""
    before: dict[str, str] = dict(execute("SELECT name, counted FROM configured").fetchall())
    execute("DELETE FROM configured")
    for pair in list(limits.items())[:MAX_REGISTERED_LIMITS]:
        execute("INSERT INTO configured VALUES (?, ?)", pair)
    return before
