"""Correct budgets for `sidecar budget reset` and `sidecar budget grant`, and print what has changed."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from policies.api.claim import amount_text, in_units, number_text
from policies.api.store import CorrectableStore, StoreDown
from policies.api.window import zone_of
from sidecar.observers.entry_format import EntryFormat

from .budget_selection import Correction, CorrectionRefused, CounterToCorrect, selected_counters, unit_of
from .limit_report import UnknownTenant, columns, shown_amount
from .shared_store import StoreNotReadable, shared_store

if TYPE_CHECKING:
    from policies.api.store import Standing
    from policies.builtin.budget import Budget
    from sidecar.config.log import LogFormat
    from sidecar.config.settings import Settings

COUNTERS_AT_ONCE = 200
"""Counters that are corrected in one operation of the store, which other calls wait for."""
STORE_LOGGER = "sidecar.store"
"""Name under which all processes log the note of a correction."""
NAME_BYTES = 3
"""Random bytes that name a correction in its note."""
CORRECTION_HEADER = ("budget", "for", "window", "limit", "spent before", "spent", "reserved", "left", "resets at")


class CorrectedCounter(NamedTuple):
    """One counter after its correction; *before* is what was spent before it."""

    counter: CounterToCorrect
    before: int
    standing: Standing


class CorrectedStep(NamedTuple):
    """The counters that were corrected in one operation, and the note that the store has kept of it."""

    counters: Sequence[CorrectedCounter]
    note: str


def correct_and_print(settings: Settings, wanted: Correction) -> int:
    """Correct the counters of *wanted*; print them, the notes as log lines on stderr, and faults. Return the exit code.

    What was corrected before a fault is printed too.
    """
    steps: list[CorrectedStep] = []

    async def collect() -> None:
        async for step in corrected_steps(settings, wanted):
            steps.append(step)
            print(log_lines([step.note], settings.log.format, time.time()), end="", file=sys.stderr)

    fault, code = "", 0
    try:
        asyncio.run(collect())
    except CorrectionRefused as error:
        fault, code = str(error), 2
    except UnknownTenant as error:
        fault, code = f"--tenant: {error}", 2
    except StoreNotReadable as error:
        fault, code = f"store.url: {error}", 2
    except StoreDown as error:
        fault, code = f"store.url: {error}", 1
        if error.taken:
            fault += "; the correction may have been made: look at `sidecar usage` before you repeat it"
    if fault:
        print(f"sidecar: {fault}", file=sys.stderr)
    if steps or not code:
        print(f"store: {settings.store.location.describe(settings.folder)}\n")
        corrected = [each for step in steps for each in step.counters]
        print(corrections_table(corrected) if corrected else f"nothing to reset: {wanted.tenant!r} has no open counter")
    return code


def new_name() -> str:
    """Return a random name for a correction."""
    return secrets.token_hex(NAME_BYTES)


async def corrected_steps(
    settings: Settings, wanted: Correction, *, name: Callable[[], str] = new_name
) -> AsyncIterator[CorrectedStep]:
    """Correct the counters of *wanted*, and yield each step when the store has executed it. *name* names each step.

    All counters of a step are corrected, or none. What is reserved stays. Raises `StoreDown`, `StoreNotReadable`,
    `UnknownTenant` and `CorrectionRefused`.
    """
    async with shared_store(settings) as store:
        if not isinstance(store, CorrectableStore):
            where = settings.store.location.describe(settings.folder)
            msg = f"{where} cannot correct counters: its package has no `correct`; see `CorrectableStore` in docs/stores.md"
            raise StoreNotReadable(msg)
        for budget, counters in selected_counters(settings, wanted, await store.accounts()):
            for step in _split(counters):
                claims = [each.claim(settings, wanted.tenant) for each in step]
                note = note_of(budget, step, wanted, name())
                standings = await store.correct(claims, wanted.amount, note)
                yield CorrectedStep(list(_corrected(step, standings, wanted.amount)), note)


def _split(counters: Sequence[CounterToCorrect]) -> Iterator[Sequence[CounterToCorrect]]:
    for at in range(0, len(counters), COUNTERS_AT_ONCE):
        yield counters[at : at + COUNTERS_AT_ONCE]


def _corrected(
    counters: Sequence[CounterToCorrect], standings: Sequence[Standing], amount: int | None
) -> Iterator[CorrectedCounter]:
    for counter, standing in zip(counters, standings, strict=True):
        # Calls may have ended since the counter was read; a grant was subtracted from what they have spent.
        before = counter.spent if amount is None else standing.spent + amount
        yield CorrectedCounter(counter, before, standing)


def note_of(budget: Budget, counters: Sequence[CounterToCorrect], wanted: Correction, name: str) -> str:
    """Return the line that every process logs about the correction *name* of *counters*, which are of one *budget*.

    No two lines are the same: the log counts a repeated line instead of writing it, and two grants of one amount add up.
    """
    unit, amount = unit_of(budget), wanted.amount
    names = [f"{kind} {name!r}" for kind, name in counters[0].counts.items() if kind != "tenant"]
    many = f" in {len(counters)} counters" if len(counters) > 1 else ""
    who = ", ".join([f"budget {budget.name!r} of tenant {wanted.tenant!r}", *([] if many else names)])
    by = f"by the command line (correction {name})"
    if amount is not None:
        return f"{who} was granted {amount_text(unit, amount)}, {by}"
    spent = sum(each.spent for each in counters)
    return f"{who} was reset{many}: {number_text(unit, spent)} → {amount_text(unit, 0)}, {by}"


def corrections_table(corrected: Sequence[CorrectedCounter]) -> str:
    """Return a table with a line for each of *corrected*; reset times are in each budget's time zone."""
    return columns([CORRECTION_HEADER, *map(_row, corrected)])


def _row(corrected: CorrectedCounter) -> tuple[str, ...]:
    (budget, _, counts, _), before, standing = corrected
    unit = unit_of(budget)
    who = ", ".join(f"{kind} {name}" if kind != "tenant" else name for kind, name in counts.items())
    amounts = (standing.limit, before, standing.spent, standing.held, standing.left)
    resets_at = datetime.fromtimestamp(standing.resets_at, zone_of(budget.timezone)).strftime("%Y-%m-%d %H:%M %Z")
    shown = (shown_amount(in_units(unit, amount), unit) for amount in amounts)
    return (budget.name, who, budget.window, *shown, resets_at)


def log_lines(notes: Sequence[str], form: LogFormat, now: float) -> str:
    """Return *notes* as entries of the log, like those that running sidecars write; *now* is in seconds since 1970."""
    entries = EntryFormat(form)
    fields = [{"logger": STORE_LOGGER, "message": note} for note in notes]
    return b"".join(entries.encode(now, "warning", "log", each) for each in fields).decode()
