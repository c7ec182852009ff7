"""Counting logic shared by the memory and the SQLite store. Subclasses provide access to the rows.

A calendar counter is identified by its key and the start of its window, in seconds. A sliding counter has the start
`SLIDING_START`, and a ring: what was counted in each cell of its window (see `ring.py`). Other times are whole microseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from policies.api.claim import Claim
from policies.api.store import Grant, Standing
from policies.api.window import MICROSECONDS_PER_SECOND, Sliding

from .arithmetic import MAX_COUNTER_VALUE, charge_for, fitting_ceiling, longest_refusal, split_charge
from .claimed import ClaimedCounter, claimed_counter, is_in_use
from .groups import GroupClock, calendar_group
from .limits import Limits, cell_width_of, expires_at
from .reading import fits_at, standings_of
from .ring import add_to_ring, move_to, subtract_from_ring
from .row_access import CounterRows
from .rows import SLIDING_START, CounterRow, Taken, seconds_up

REMOVED_WHERE_GROUP_IS_FULL = 16
"""Counters that are looked at, and removed if they are over, before an identity goes to the overflow counter."""

_COUNTER_KEY = attrgetter("counter")


class CounterStore(CounterRows):
    """The counting of one store. Its methods are parts of one operation; none of them waits."""

    is_remote = False

    def __init__(self, clock: Callable[[], float], first_mark: int = 1) -> None:
        super().__init__()
        self._clock, self._limits = clock, Limits()
        self._marks = itertools.count(first_mark)
        """New marks of sliding counters. Processes that share counters begin with different ones."""

    def _now(self) -> int:
        return round(self._clock() * MICROSECONDS_PER_SECOND)

    def _reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int, now: int) -> Grant:
        counters = self._claimed_counters(claims, now, self._first_part(call_id) if part else ())
        distinct = len(set(map(_COUNTER_KEY, counters))) == len(counters)
        granted, refused = fitting_ceiling(counters, ceiling, distinct=distinct)
        seconds = now / MICROSECONDS_PER_SECOND
        if refused is not None:
            recorded = self._recorded_ceiling(call_id, part)
            if recorded is None:
                longest = longest_refusal(counters, ceiling, fits_at)
                return Grant(ceiling, standings_of(counters, now, longest), seconds, longest.at)
            return Grant(recorded, standings_of(counters, now), seconds)
        taken: list[Taken] = []
        for each in counters:  # a comprehension is a function call of its own
            taken.append((each.claim_key, each.counter, each.start, each.cell, each.claim.needs(granted), each.mark))  # noqa: PERF401
        if not self._record_part(call_id, part, granted, taken, counters):
            return Grant(self._recorded_ceiling(call_id, part) or 0, standings_of(counters, now), seconds)
        for claimed, (_, _, start, _, amount, _) in zip(counters, taken, strict=True):
            if amount or start != SLIDING_START:
                self._add_reserved(claimed, amount)
        if not distinct:
            for each in counters:
                each.row = row = self._rows.get((each.counter, each.start))
                if row is not None:
                    each.held, each.used = row.held, row.spent + row.held
        return Grant(granted, standings_of(counters, now), seconds)

    def _claimed_counters(
        self, claims: Sequence[Claim], now: int, first: Sequence[Taken] = ()
    ) -> Sequence[ClaimedCounter]:
        """Return the counter of each of *claims*. Those that the *first* part took from are counted where it was."""
        counters: list[ClaimedCounter] = []
        rows, limits, missing = self._rows, self._limits, False
        for claim in claims:
            limit = limits.get((claim.policy, claim.unit, claim.window)) or limits.of(claim)
            counter = claimed_counter(claim, limit, now)
            counter.row = row = rows.get((counter.counter, counter.start))
            if row is None:
                missing = True
            counters.append(counter)
        if first:
            self._move_to_first(counters, first)
        mark = 0
        if missing:
            self._load_rows([each for each in counters if each.row is None])
            mark = next(self._marks)
        for counter in counters:
            row = counter.row
            if row is None and counter.claim.max_identities:
                row = self._assign_counter(counter, now)
            if row is not None:
                if counter.limit.width:
                    if counter.cell < row.newest:
                        self._set_back(counter.counter, row, counter.cell, counter.ends)
                    elif counter.cell > row.newest:
                        move_to(row, counter.cell)
                    counter.mark = row.mark
                counter.held, counter.used = row.held, row.spent + row.held
            elif counter.limit.width:
                counter.mark = mark
        return counters

    def _set_back(self, key: str, row: CounterRow, cell: int, ends: int) -> None:
        """Move a ring to *cell*, which is before its current one; *ends* is when what that counts expires, in microseconds.

        The row is kept even if the call is refused: it must be moved once, not each time that it is read.
        """
        move_to(row, cell)
        row.ends, row.mark = seconds_up(ends), next(self._marks)
        self._row_changed(key, row.start)

    def _move_to_first(self, counters: Sequence[ClaimedCounter], first: Sequence[Taken]) -> None:
        """Point calendar *counters* at the counter and the window that the *first* part of the reservation took from."""
        taken = {key: (counter, start) for key, counter, start, _, _, _ in first if start != SLIDING_START}
        for each in counters:
            at = taken.get(each.claim_key)
            if at is None or (row := self._find_row(*at)) is None:
                continue
            (each.counter, each.start), each.row, each.ends = at, row, row.ends * MICROSECONDS_PER_SECOND

    def _assign_counter(self, counter: ClaimedCounter, now: int) -> CounterRow | None:
        """Give an identity without a counter one of its own, or the overflow counter of its group; return its row."""
        claim, start = counter.claim, counter.start
        is_sliding = start == SLIDING_START
        group = self._current_group_clock(now).group_of(claim) if is_sliding else calendar_group(claim, start)
        # An identity in the overflow counter stays there until that is empty; otherwise it would get a fresh limit.
        in_use = is_sliding and is_in_use(self._find_row(claim.overflow_key, start), counter.limit.width, now)
        if not in_use and not self._is_group_full(group, claim.max_identities, now):
            counter.joins_group = group
            return None
        counter.counter = claim.overflow_key
        counter.row = self._find_row(claim.overflow_key, start)  # it may have been removed just now
        return counter.row

    def _current_group_clock(self, now: int) -> GroupClock:
        """Return the clock of the groups as of *now*, after it was kept if it has changed."""
        known = self._group_clock()
        found = known.at(now)
        if found is not known:
            self._set_group_clock(found)
        return found

    def _is_group_full(self, group: str, max_identities: int, now: int) -> bool:
        """Return whether a group of identities has *max_identities* counters in use."""
        if self._group_size(group) < max_identities:
            return False
        self._remove_unused(now, REMOVED_WHERE_GROUP_IS_FULL)
        return self._group_size(group) >= max_identities

    def _add_reserved(self, counter: ClaimedCounter, amount: int) -> None:
        """Reserve *amount* in a counter, which may be new: in a sliding one it counts as spent."""
        key, start = counter.counter, counter.start
        row = self._rows.get(
            (key, start)
        )  # not `counter.row`: that may have been removed since, or another claim has made it
        if row is None:
            row = self._new_row(counter)
        if start == SLIDING_START:
            add_to_ring(row, amount)
            row.ends = -(-counter.ends // MICROSECONDS_PER_SECOND)
        else:
            row.held += amount
        counter.row, counter.held, counter.used = row, row.held, row.spent + row.held
        self._row_changed(key, start)

    def _new_row(self, counter: ClaimedCounter) -> CounterRow:
        group = counter.joins_group if counter.row is None else counter.row.group
        row = CounterRow(0, counter.start, seconds_up(counter.ends), 0, 0, group, counter.mark, counter.cell)
        self._add_row(counter.counter, row)
        return row

    def _settle(self, call_id: str, charges: Mapping[str, int], refund: bool = True) -> bool:  # noqa: FBT001, FBT002  # positional in the queue of operations
        removed = self._remove_reservation(call_id)
        if removed is None:
            return False
        if removed.is_simple:
            for key, counter, start, _, amount, _ in removed.taken:
                if start != SLIDING_START:
                    self._charge(counter, start, amount, charge_for(key, amount, charges, refund=refund))
            return True
        calendar = [
            (key, (counter, start, mark if at < removed.charged else None), amount)
            for at, (key, counter, start, _, amount, mark) in enumerate(removed.taken)
            if start != SLIDING_START
        ]
        for (counter, start, charged), amount, share in split_charge(calendar, charges, refund=refund):
            if charged is None:
                self._charge(counter, start, amount, share)
            else:
                self._correct_charge(counter, start, charged, share - amount)
        return True

    def _release(self, call_id: str) -> None:
        removed = self._remove_reservation(call_id)
        for at, (_, counter, start, cell, amount, mark) in enumerate(() if removed is None else removed.taken):
            if start == SLIDING_START:
                row = self._find_row(counter, start) if amount else None
                if row is not None and row.mark == mark and subtract_from_ring(row, cell, amount):
                    self._row_changed(counter, start)
            elif removed is not None and at < removed.charged:
                self._correct_charge(counter, start, mark, -amount)
            else:
                self._charge(counter, start, amount, 0)

    def _charge_reserved(self, taken: Iterable[Taken]) -> list[Taken]:
        """Charge in full what was *taken* by a reservation whose process is dead; return it with the marks of its counters."""
        charged = []
        for each in taken:
            key, counter, start, cell, amount, mark = each
            if start != SLIDING_START:
                row = self._charge(counter, start, amount, amount)
                mark = 0 if row is None else row.mark
            charged.append((key, counter, start, cell, amount, mark))
        return charged

    def _charge(self, counter: str, start: int, held: int, spent: int) -> CounterRow | None:
        """Turn *held*, reserved in a calendar counter, into *spent*. Returns its row; None if that was removed."""
        row = self._rows.get((counter, start)) or self._find_row(counter, start)
        if row is not None:  # it may have been removed long after its window
            row.held -= held
            row.spent = min(row.spent + spent, MAX_COUNTER_VALUE)
            self._row_changed(counter, start)
        return row

    def _correct_charge(self, counter: str, start: int, mark: int, amount: int) -> None:
        """Add *amount* to what a calendar counter has spent, whose mark was *mark* when the call was charged.

        If an operator has reset it since, the charge is gone: then nothing is returned of it.
        """
        row = self._find_row(counter, start)
        if row is not None and (amount > 0 or row.mark == mark):
            self._charge(counter, start, 0, amount)

    def _correct(self, claims: Sequence[Claim], amount: int | None, now: int) -> list[Standing]:
        """See `CorrectableStore.correct`."""
        if any(isinstance(claim.window, Sliding) for claim in claims):
            msg = "only counters of calendar windows can be corrected"
            raise ValueError(msg)
        counters = self._claimed_counters(claims, now)
        corrected = set[tuple[str, int]]()
        for counter in counters:
            at = counter.counter, counter.start
            row = self._rows.get(at) or self._new_row(counter)
            if at not in corrected:
                if amount is None:
                    row.spent, row.mark = 0, row.mark + 1
                else:
                    row.spent = max(row.spent - amount, -MAX_COUNTER_VALUE)
                self._row_changed(*at)
                corrected.add(at)
            counter.used = row.spent + row.held
        return standings_of(counters, now)

    def _next_due(self, key: str, row: CounterRow, now: int) -> int:
        """Return when a counter that is due is to be looked at again, in seconds; not later than *now* if it is over."""
        seconds = now // MICROSECONDS_PER_SECOND
        if row.due_after(seconds) > seconds and row.start == SLIDING_START:
            width = cell_width_of(key)
            if row.newest > now // width:
                self._set_back(key, row, now // width, expires_at(now // width, width))
            if row.group:
                self._current_group_clock(now)
        return row.due_after(seconds)
