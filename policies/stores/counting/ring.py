"""The ring of a sliding counter: what was taken in each of the last 64 cells of the window, and in the current one.

A window of `seconds` has 64 cells. The counter counts the current cell, which is not complete, and the 64 before it. So every
span of `seconds` lies within what is counted, and never holds more than the limit. What is taken counts until its cell and 64
further ones are over: at most 1/64 of the window longer than `seconds`. A ring has a constant size, whatever it counts.

Cells are numbered from 1970 on; times are whole microseconds. If the clock was set back, cells are later than the current one:
what they count is moved into the current cell. It was taken before now, so it expires one window from now at the latest.
Then the mark of the counter changes, because a cell may count what other calls take later: nothing from before is given back.
"""

from __future__ import annotations

import functools
from array import array
from typing import TYPE_CHECKING

from policies.api.claim import KEY_SEPARATOR
from policies.api.window import MICROSECONDS_PER_SECOND, Sliding

if TYPE_CHECKING:
    from .rows import CounterRow

WINDOW_CELLS = 64
"""Complete cells of a window."""
RING_SLOTS = WINDOW_CELLS + 1
"""Cells of a ring: the complete ones, and the current one."""


@functools.lru_cache(1024)
def cell_width(window: Sliding) -> int:
    """Return the length of a cell of *window* in microseconds, rounded up."""
    return max(1, -(-round(window.seconds * MICROSECONDS_PER_SECOND) // WINDOW_CELLS))


def cell_width_of(key: str) -> int:
    """Return the length of a cell of the sliding counter *key*, in microseconds."""
    return cell_width(Sliding(float(key.rpartition(KEY_SEPARATOR)[2].removeprefix("sliding@"))))


def empty_ring() -> array[int]:
    """Return a ring that counts nothing: 65 numbers of 4 bytes."""
    return array("I", bytes(4 * RING_SLOTS))


def ring_from(packed: bytes) -> array[int]:
    """Return the ring whose bytes are *packed*: 65 numbers of 4 bytes, or of 8 where one does not fit into 4."""
    return array("I" if len(packed) == 4 * RING_SLOTS else "Q", packed)


def move_to(row: CounterRow, cell: int) -> None:
    """Make *cell* the current one of *row*: drop what has expired, and move what is later than *cell* into it."""
    ring, newest = row.ring, row.newest
    if cell > newest + WINDOW_CELLS:
        row.ring, row.spent = empty_ring(), 0
    elif cell > newest:
        for each in range(newest + 1, cell + 1):
            at = each % RING_SLOTS
            if ring[at]:
                row.spent -= ring[at]
                ring[at] = 0
    else:
        _move_back(row, cell)
    row.newest = cell
    if not row.spent:
        row.oldest = cell
    elif row.oldest < cell - WINDOW_CELLS or row.oldest > cell:
        row.oldest = next(each for each in range(cell - WINDOW_CELLS, cell + 1) if row.ring[each % RING_SLOTS])


def _move_back(row: CounterRow, cell: int) -> None:
    later = 0
    for each in range(max(cell + 1, row.newest - WINDOW_CELLS), row.newest + 1):
        later += row.ring[each % RING_SLOTS]
        row.ring[each % RING_SLOTS] = 0
    _add_to_slot(row, cell % RING_SLOTS, later)


def add_to_ring(row: CounterRow, amount: int) -> None:
    """Count *amount* in the current cell of *row*, after `move_to`."""
    if not row.spent:
        row.oldest = row.newest
    row.spent += amount
    _add_to_slot(row, row.newest % RING_SLOTS, amount)


def _add_to_slot(row: CounterRow, at: int, amount: int) -> None:
    try:
        row.ring[at] += amount
    except OverflowError:
        row.ring = array("Q", row.ring)
        row.ring[at] += amount


def subtract_from_ring(row: CounterRow, cell: int, amount: int) -> bool:
    """Subtract *amount* from what *cell* counts, unless that has expired; return whether something was subtracted."""
    if not row.newest - WINDOW_CELLS <= cell <= row.newest:
        return False
    at = cell % RING_SLOTS
    given = min(amount, row.ring[at])
    row.ring[at] -= given
    row.spent -= given
    if row.spent and cell == row.oldest and not row.ring[at]:
        row.oldest = next(each for each in range(cell, row.newest + 1) if row.ring[each % RING_SLOTS])
    return given > 0


def expires_at(cell: int, width: int) -> int:
    """Return when what *cell* counts expires, in microseconds."""
    return (cell + RING_SLOTS) * width


def fits_in_ring_at(row: CounterRow, width: int, room: int) -> int:
    """Return when at most *room* is left of what *row* counts; where *room* is negative, when nothing is. After `move_to`."""
    left, found = row.spent, row.newest
    for cell in range(row.oldest, row.newest + 1):
        amount = row.ring[cell % RING_SLOTS]
        if amount:
            left, found = left - amount, cell
            if left <= room:
                break
    return expires_at(found, width)
