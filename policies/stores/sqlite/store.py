"""The SQLite store: counts in one file, for any number of processes of one machine. It survives every kind of crash.

Each operation is one short transaction, executed on the event loop: a hop to a thread costs more than the transaction
itself. Nothing waits there: while another process writes, operations are queued and tried again. Where several calls are
running, the operations of one event-loop iteration share a transaction (`group_commit.py`). An operation reads the rows of the
identities of its call (`documents.py`) and counts in Python; the transaction writes at its end the rows that have changed. Rows
are cached until another process writes.

Each process is an owner of reservations. Those of an owner that has sent no heartbeat for `grace` seconds are charged in
full, and kept for a day: if the process was only suspended, its settlement corrects the charge.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from policies.api.claim import Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, StoreDown, account
from policies.api.window import MICROSECONDS_PER_SECOND
from policies.stores.batching.group_commit import GroupCommit, QueuedOperation, StoreBusy
from policies.stores.batching.outage import Outage
from policies.stores.counting.reading import read_standings
from policies.stores.counting.rows import SLIDING_START

from .checkpoints import MAX_JOURNAL_BYTES, Checkpoints
from .conversion import wait_until_converted
from .counters import CountersInFile
from .database import Database
from .documents import counters_after, reading_own_rows
from .entries import EntriesInFile
from .maintenance import (
    add_notice,
    counter_reads,
    has_dead_processes,
    last_notice,
    notices_after,
    record_heartbeat,
    remove_owner,
    replace_limits,
)

MAINTENANCE_INTERVAL_MICROSECONDS = MICROSECONDS_PER_SECOND
"""Longest time between two heartbeats of a process that reserves; `heartbeat` itself is called less often."""
BACKLOG_INTERVAL_MICROSECONDS = MICROSECONDS_PER_SECOND // 50
"""The same time while there is more to charge or to remove than one transaction does."""
MAX_TIDYING_WAL_BYTES = 2 * MAX_JOURNAL_BYTES
"""Size of the WAL above which no unused counters are removed until it has been restarted."""
SHARED_FILE_EXTRA_ITERATIONS = 8
"""Extra event-loop iterations to wait for more operations to commit together, when other processes write the file."""
BUSY_PATIENCE_SECONDS = 2.0
"""How long an operation waits for a file that another program has locked."""
_log = logging.getLogger("sidecar.store")


class SQLiteStore(CountersInFile, EntriesInFile):
    """See `policies.api.store.Store` and `EntryStore`. The file is opened at the first operation, and again after an error.

    With *resident*, the event loop runs as long as the process: then the WAL is moved into the file by a thread. *grace* and
    *patience* are seconds; the latter bounds the wait for a file that another program has locked. *clock* is in seconds since
    1970, *monotonic* in seconds. Without *converts* a file of an earlier version is not converted, and refused.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        grace: float = 30.0,
        patience: float = BUSY_PATIENCE_SECONDS,
        resident: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        converts: bool = True,
    ) -> None:
        # The owner's id is random, in whichever file: one that a file assigns could be given twice after it was deleted.
        super().__init__(
            clock, Database(path, self._now, checkpoints=not resident, converts=converts), secrets.randbits(62)
        )
        self._grace = round(grace * MICROSECONDS_PER_SECOND)
        self._maintained_at = self._maintenance_interval = 0
        self._last_notice = -1
        self._is_shared = False
        """Whether other processes use the file."""
        self._checkpoints = Checkpoints(path) if resident else None
        self._outage = Outage(monotonic)
        self._sleep, self._patience = sleep, patience
        self._group_commit = GroupCommit(self._execute_group, patience=patience)
        self._running: dict[str, int] = {}
        """Calls that have a reservation, and their claims. Where there are several, operations are queued for a group commit."""

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        arguments, number = (call_id, claims, ceiling, part), len(claims)
        grant: Grant | None = await self._run(self._reserve_in_file, arguments, alone=0, claims=number)
        if grant is None:
            self._running.pop(call_id, None)
            raise ReservationGone(call_id)
        if grant.refused is None:
            self._running[call_id] = number if not part else number + self._running.get(call_id, 0)
        return grant

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool:
        """See `Store.settle`."""
        claims = self._running.get(call_id, 1)
        settled: bool = await self._run(self._settle, (call_id, charges, refund), must_run=True, claims=claims)
        self._running.pop(call_id, None)
        return settled

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        await self._run(self._release, (call_id,), must_run=True, claims=self._running.get(call_id, 1))
        self._running.pop(call_id, None)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`. Rows are read in pages. The lock is taken only if processes are dead: these are charged in steps.

        Between two pages, a window that ends may move into a later row: it is reported once.
        """
        await self._converted()
        now, found, place = self._clock(), dict[str, Account](), ("", SLIDING_START - 1)
        last_seen = self._now() - self._grace
        with self._database.reading() as execute:
            has_dead = has_dead_processes(execute, self._owner, last_seen)
        while has_dead:
            has_dead = await self._run(self._charge_dead, (last_seen,))
        while True:
            with self._database.reading() as execute, reading_own_rows():
                page = counters_after(execute, place)
                found |= {
                    key: account(key, row.spent, row.held, float(row.ends))
                    for key, row in page.counters
                    if row.start != SLIDING_START and row.start <= now < row.ends
                }
            if page.place is None:
                return list(found.values())
            place = page.place
            await asyncio.sleep(0)

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        """See `Store.standings`. It takes no lock that a writer holds or waits for."""
        with self._database.reading() as execute:
            return read_standings(claims, self._now(), self._limits, counter_reads(execute))

    async def correct(self, claims: Sequence[Claim], amount: int | None, note: str) -> Sequence[Standing]:
        """See `CorrectableStore.correct`."""
        corrected: list[Standing] = await self._run(self._correct_in_file, (claims, amount, note))
        return corrected

    @property
    def generation(self) -> str:
        """See `LimitRegistry.generation`."""
        return self._database.generation

    async def register_limits(self, limits: Mapping[str, str]) -> Mapping[str, str]:
        """See `LimitRegistry.register_limits`."""
        before: dict[str, str] = await self._run(lambda: replace_limits(self._database.execute, limits), ())
        return before

    async def heartbeat(self) -> None:
        """See `Store.heartbeat`. A file that was moved or deleted is closed; the one at its path is used from now on."""
        self._database.close_if_replaced()
        await self._run(lambda: self._maintain(self._now()), ())

    async def ping(self) -> None:
        """See `Store.ping`. It writes, so it notices a full disk. The first one waits until an older file is converted."""
        await self._converted()
        await self.heartbeat()

    async def _converted(self) -> None:
        """Wait until a file of an earlier version is converted, if this store has not been used before. Raises `StoreDown`."""
        if not self._database.generation:
            await wait_until_converted(self._database.open, self._sleep, self._patience)

    async def aclose(self) -> None:
        """Execute queued operations and close the file. Open reservations are charged when the grace is over."""
        try:
            self._group_commit.flush()
            if self._database.is_open:
                with contextlib.suppress(StoreDown):
                    self._execute_now(lambda: remove_owner(self._database.execute, self._owner), ())
            if self._checkpoints is not None:
                await self._checkpoints.aclose()
        finally:
            self._database.close_for_good()

    async def _run(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        alone: int = 1,
        must_run: bool = False,
        claims: int = 1,
    ) -> Any:
        """Execute *function* in a transaction: now, or with others if more than *alone* calls are running.

        With *must_run* it is executed even if the caller is cancelled. *claims* is the number of its counters. Raises `StoreDown`.
        """
        if not self._outage.is_up:
            self._outage.check()
        group = self._group_commit
        submit = group.submit_uncancellable if must_run else group.submit
        try:
            if group.queued or (len(self._running) > alone and group.should_queue()):
                future = submit(function, arguments, claims)
                result = await (_shielded(future) if must_run and group.is_busy else future)
            else:
                try:
                    result = self._execute_now(function, arguments)
                except StoreBusy:
                    future = submit(function, arguments, claims)
                    result = await (_shielded(future) if must_run else future)
        except StoreDown as error:
            self._outage.begin(str(error))
            raise
        if not self._outage.is_up:
            self._outage.end()
        return result

    def _execute_now(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        database, checkpoints = self._database, self._checkpoints
        if checkpoints is not None:
            database.leaves_read_open = not self._is_shared and not checkpoints.is_running
        with database:
            self._begin()
            result = function(*arguments)
            if self._changed:
                self._write_changed()
        if checkpoints is not None:
            checkpoints.note_changes(self._database.changed_rows)
        return result

    def _execute_group(self, group: Sequence[QueuedOperation]) -> list[Any]:
        results: list[Any] = self._execute_now(lambda: [each.function(*each.arguments) for each in group], ())
        return results

    def _reserve_in_file(self, call_id: str, claims: Sequence[Claim], ceiling: int, part: int) -> Grant | None:
        """Reserve; return None for a further part of a call that has no reservation."""
        now = round(self._clock() * MICROSECONDS_PER_SECOND)
        if self._database.is_reopened or not 0 <= now - self._maintained_at < self._maintenance_interval:
            self._maintain(now)
        if part and self._recorded_ceiling(call_id, 0) is None:
            return None
        return self._reserve(call_id, claims, ceiling, part, now)

    def _correct_in_file(self, claims: Sequence[Claim], amount: int | None, note: str) -> list[Standing]:
        add_notice(self._database.execute, note)
        return self._correct(claims, amount, self._now())

    def _tidy_if_quick(self, now: int) -> bool:
        """Remove unused counters, but not during a checkpoint nor while the WAL is large; return whether there may be more.

        Without this pause the removal of a million counters made a WAL of 466 MB.
        """
        checkpoints = self._checkpoints
        if checkpoints is None:
            return self._tidy(now)
        is_large = self._database.wal_bytes() > MAX_TIDYING_WAL_BYTES
        if is_large:
            checkpoints.start()
        return not is_large if checkpoints.is_running else self._tidy(now)

    def _maintain(self, now: int) -> None:
        """Record a heartbeat, charge the reservations of dead processes, remove unused counters, and log notices."""
        with reading_own_rows():
            self._maintain_rows(now)

    def _maintain_rows(self, now: int) -> None:
        execute = self._database.execute
        self._maintained_at, self._database.is_reopened = now, False
        has_backlog = self._charge_dead(now - self._grace)
        self._is_shared = record_heartbeat(execute, self._owner, now, self._grace)
        self._group_commit.extra_iterations = SHARED_FILE_EXTRA_ITERATIONS if self._is_shared else 0
        has_backlog |= self._tidy_if_quick(now)
        self._remove_expired_entries(now)
        self._maintenance_interval = BACKLOG_INTERVAL_MICROSECONDS if has_backlog else MAINTENANCE_INTERVAL_MICROSECONDS
        newest = last_notice(execute)
        if self._last_notice < 0:
            self._last_notice = newest
        elif self._last_notice > newest:  # another file: it has new notices only
            self._last_notice = 0
        for notice in notices_after(execute, self._last_notice):
            self._last_notice = notice.id
            _log.warning("%s", notice.text)


async def _shielded(future: asyncio.Future[Any]) -> Any:
    """Return the result of *future*; a cancellation waits outside: anyio repeats it in each iteration of the loop."""
    with anyio.CancelScope(shield=True):
        return await future
