"""The ring of a sliding counter: what was taken in each of the last 64 cells of the window, and in the current one.

A window of `seconds` has 64 cells. The counter counts the current cell, which is not complete, and the 64 before it. So every
span of `seconds` lies within what is counted, and never holds more than the limit. What is taken counts until its cell and 64
further ones are over: at most 1/64 of the window longer than `seconds`. A ring has at most 65 numbers, whatever it counts: from
the first cell that counts something to the last one.

Cells are numbered from 1970 on; times are whole microseconds. If the clock was set back, cells are later than the current one:
what they count is moved into the current cell. It was taken before now, so it expires one window from now at the latest.
Then the mark of the counter changes, because a cell may count what other calls take later: nothing from before is given back.
"""

from __future__ import annotations

from .limits import WINDOW_CELLS, expires_at
from .rows import CounterRow


def move_to(row: CounterRow, cell: int) -> None:
    """Make *cell* the current one of *row*: drop what has expired, and move what is later than *cell* into it."""
    row.newest, cells = cell, row.cells
    if not cells:
        return
    expired = cell - WINDOW_CELLS - row.oldest
    if expired > 0:
        row.spent -= sum(cells[:expired])
        del cells[:expired]
        row.oldest += expired
        _drop_empty(row, cells)
    later = row.oldest + len(cells) - 1 - cell
    if not cells or later <= 0:
        return
    moved = sum(cells[-later:])
    del cells[-later:]
    if not cells:
        row.oldest = cell
        cells.append(moved)
    else:
        cells[-1] += moved


def _drop_empty(row: CounterRow, cells: list[int]) -> None:
    """Drop the cells of *row* before the first that counts something."""
    empty = next((at for at, amount in enumerate(cells) if amount), len(cells))
    del cells[:empty]
    row.oldest += empty


def add_to_ring(row: CounterRow, amount: int) -> None:
    """Count *amount* in the current cell of *row*, after `move_to`."""
    row.spent += amount
    cell, cells = row.newest, row.cells
    if not cells:
        row.oldest, row.cells = cell, [amount]
        return
    missing = cell - row.oldest - len(cells)
    if missing < 0:
        cells[-1] += amount
        return
    if missing:
        cells += [0] * missing
    cells.append(amount)


def subtract_from_ring(row: CounterRow, cell: int, amount: int) -> bool:
    """Subtract *amount* from what *cell* counts, unless that has expired; return whether something was subtracted."""
    cells, at = row.cells, cell - row.oldest
    if not cells or not 0 <= at < len(cells):
        return False
    given = min(amount, cells[at])
    cells[at] -= given
    row.spent -= given
    if not cells[0]:
        _drop_empty(row, cells)
    return given > 0


def fits_in_ring_at(row: CounterRow, width: int, room: int) -> int:
    """Return when at most *room* is left of what *row* counts; where *room* is negative, when nothing is. After `move_to`."""
    left, found = row.spent, row.oldest
    for cell, amount in enumerate(row.cells or (), row.oldest):
        if amount:
            left, found = left - amount, cell
            if left <= room:
                break
    return expires_at(found, width)
