"""The first connection to a store: check its format, convert that of older versions, and give it a generation.

1. A newer format is refused, and so is format 1 while a process of the old version sends heartbeats. Both would count apart.
2. Format 1 is converted in steps. Its processes have ended, so what they had reserved is charged.
3. The store gets a random id, its generation. It changes when the content is lost.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from policies.api.store import StoreDown
from policies.api.window import MICROSECONDS_PER_SECOND

from .script import STORAGE_FORMAT

HEARTBEAT_SECONDS, POLL_SECONDS = 6.0, 0.5
"""Time in which a process of the old version sends at least two heartbeats, and the time between two looks."""
RECENT_MICROSECONDS = 60 * MICROSECONDS_PER_SECOND
"""A last heartbeat before that is of a process that has ended, without a look."""
MAX_NAMED_PROCESSES = 5
GENERATION_BYTES = 8

ExecuteOperations = Callable[..., Awaitable[Sequence[Any]]]
"""Executes operations in one batch and returns their results."""


class IncompatibleStore(StoreDown, ValueError):
    """The store has another format, or processes of another version use it. It is not changed.

    As a ValueError it ends a sidecar that starts: waiting does not help.
    """


async def prepare(
    execute: ExecuteOperations,
    address: str,
    *,
    converts: bool = True,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Make the store at *address* ready. Raises `IncompatibleStore`, or `StoreDown`. It may be cancelled, and repeated.

    Without *converts* format 1 is refused.
    """
    (found,) = await execute(("inspect",))
    known = found[0]
    if known and known != STORAGE_FORMAT:
        relation = "a newer" if known.isdigit() and int(known) > int(STORAGE_FORMAT) else "another"
        msg = (
            f"{address}: it has the storage format {known} of {relation} version, and this version knows format {STORAGE_FORMAT}; "
            "update this sidecar, or give it a prefix of its own"
        )
        raise IncompatibleStore(msg)
    if not converts and len(found) > len(("format",)):
        msg = (
            f"{address}: it has the format of an earlier version; start this version of the sidecar, which converts it and keeps "
            "its counters"
        )
        raise IncompatibleStore(msg)
    if not known:
        await _wait_for_the_end_of_old_processes(execute, found, address, sleep)
        await _convert(execute)
    await execute(("create", secrets.token_hex(GENERATION_BYTES)))


async def _wait_for_the_end_of_old_processes(
    execute: ExecuteOperations, found: Sequence[Any], address: str, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Raise `IncompatibleStore` if a process of format 1 sends a heartbeat."""
    first = _recent(found)
    for _ in range(round(HEARTBEAT_SECONDS / POLL_SECONDS) if first else 0):
        await sleep(POLL_SECONDS)
        (found,) = await execute(("inspect",))
        alive = [name for name, seen in _recent(found).items() if seen != first.get(name)]
        if alive:
            names = ", ".join(name[:8] for name in alive[:MAX_NAMED_PROCESSES])
            msg = (
                f"{address}: processes of an older version of the sidecar use it ({len(alive)} found: {names}), and the two versions "
                "would count apart; stop them, then start this one: it converts what they have counted"
            )
            raise IncompatibleStore(msg)


def _recent(found: Sequence[Any]) -> dict[str, int]:
    """Return the last heartbeat of each process of format 1 that may still run, by its id."""
    if len(found) < len(("format", "now")):
        return {}
    _, now, *pairs = found
    heartbeats = {name: int(float(seen)) for name, seen in zip(pairs[::2], pairs[1::2], strict=True)}
    return {name: seen for name, seen in heartbeats.items() if seen > now - RECENT_MICROSECONDS}


async def _convert(execute: ExecuteOperations) -> None:
    """Convert all keys of format 1. A pass over all keys is repeated while one of them is not finished."""
    await execute(("take_over",))
    is_unfinished = True
    while is_unfinished:
        is_unfinished, cursor = False, "0"
        while True:
            ((cursor, more),) = await execute(("convert", cursor))
            is_unfinished = is_unfinished or more
            if cursor == "0":
                break
