"""Statements that keep a SQLite store in order: heartbeats of its processes, and removal of what is no longer used."""

from __future__ import annotations

from policies.stores.counting.rows import MAX_RETENTION_MICROSECONDS

from .database import Execute

EXPIRED_ENTRIES_PER_CLEANUP = 1_000
"""Expired entries that one cleanup removes; each write of an entry removes some too. Measured: 2 ms."""


def record_heartbeat(execute: Execute, owner: int, now: int) -> bool:
    """Record that the process *owner* is alive at *now*; return whether other processes use the file."""
    execute("INSERT INTO owner VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seen = ?2", (owner, now))
    return execute("SELECT 1 FROM owner WHERE id != ?", (owner,)).fetchone() is not None


def dead_owners(execute: Execute, owner: int, last_seen: int) -> list[int]:
    """Return the processes, other than *owner*, whose last heartbeat came before *last_seen*."""
    found = execute("SELECT id FROM owner WHERE seen < ? AND id != ?", (last_seen, owner)).fetchall()
    return [dead for (dead,) in found]


def calls_of(execute: Execute, owner: int) -> list[str]:
    """Return the calls that have reservations of the process *owner*."""
    return [call for (call,) in execute("SELECT DISTINCT call FROM hold WHERE owner = ?", (owner,)).fetchall()]


def is_cleanup_due(execute: Execute, now: int, interval: int) -> bool:
    """Return whether unused counters were last removed *interval* ago, or by a process whose clock is ahead."""
    (cleaned_at,) = execute("SELECT at FROM tidied").fetchone()
    return not 0 <= now - cleaned_at < interval


def remove_unused(execute: Execute, now: int) -> None:
    """Remove counters that count nothing any more and expired entries, and count the identities of each group again."""
    execute("UPDATE tidied SET at = ?", (now,))
    execute(
        "DELETE FROM counter WHERE held = 0 AND ends + iif(start < 0, 0, min(ends - start, ?)) <= ?",
        (MAX_RETENTION_MICROSECONDS, now),
    )
    execute("DELETE FROM taking WHERE NOT EXISTS (SELECT 1 FROM counter WHERE key = taking.key AND start = -1)")
    execute("DELETE FROM crowd")
    execute("INSERT INTO crowd SELECT crowd, count(*) FROM counter WHERE crowd IS NOT NULL GROUP BY crowd")
    execute(
        "DELETE FROM entry WHERE number IN (SELECT number FROM entry WHERE ends <= ? ORDER BY ends LIMIT ?)",
        (now, EXPIRED_ENTRIES_PER_CLEANUP),
    )
