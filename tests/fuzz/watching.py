"""Observe a sidecar from inside for the fuzzer: its records, its counters, its log, and the steps of its event loop.

The sidecar loads `Watching` as a policy and `Recording` as an observer, as it loads those of a deployment. Both belong to
the `Watch` of the process, which serves a Unix socket: for each line that it reads it waits until no request is served,
and answers with a `Settled` as a line of JSON.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import msgspec
from probe import Probe, resident_mb

from policies import Call, Lease, Observer, Policy, Record
from policies.api.policy import RunningPolicy
from policies.api.services import Services
from policies.api.store import Account, Store

SETTLE_SECONDS = 20.0
"""Seconds after which requests that are still served, or reservations that are still open, count as leaked."""
POLL_SECONDS = 0.001
REQUEST_TASK = "run_asgi"
"""The name of the coroutine that serves one request."""
MAX_LOG_CHARACTERS = 4_000


class Seen(msgspec.Struct, frozen=True):
    """The parts of a record that are checked."""

    request_id: str
    status: int
    ending: str
    code: str
    attempts: int


class Settled(msgspec.Struct, frozen=True):
    """What happened since the last one, once all requests have ended; *running* and *reserved* are 0 unless they leak."""

    records: list[Seen]
    accounts: list[Account]
    log: list[str]
    running: int
    reserved: int
    step_ms: float
    where: str
    resident_mb: float


class Watch:
    """Collects records and log entries, and counts the requests that are served."""

    def __init__(self, path: str, pid: int) -> None:
        self._path, self._pid = path, pid
        self.records: list[Seen] = []
        self.log: list[str] = []
        self.running = 0
        self.probe: CountingProbe
        self.store: Store

    async def serve(self) -> None:
        """Serve the socket until the process ends."""
        server = await asyncio.start_unix_server(self._answer, self._path)
        await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            settled = await self._settled()
            writer.write(msgspec.json.encode(settled) + b"\n")
            await writer.drain()

    async def _settled(self) -> Settled:
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_SECONDS
        while True:
            await asyncio.sleep(POLL_SECONDS if self.running else 0)
            accounts = list(await self.store.accounts())
            reserved = sum(each.reserved for each in accounts)
            if not (self.running or reserved) or loop.time() > until:
                break
        step_ms, where = self.probe.take()
        records, self.records, log, self.log = self.records, [], self.log, []
        return Settled(records, accounts, log, self.running, reserved, step_ms, where, resident_mb(self._pid))


class CountingProbe(Probe):
    """A probe that also counts the tasks that serve requests."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
        super().__init__(loop)
        self._watch, watch.probe = watch, self

    def _task(self, loop: asyncio.AbstractEventLoop, steps: Any, **more: Any) -> asyncio.Task[Any]:
        task = super()._task(loop, steps, **more)
        if getattr(steps, "__qualname__", "").endswith(REQUEST_TASK):
            self._watch.running += 1
            task.add_done_callback(self._ended)
        return task

    def _ended(self, _: asyncio.Task[Any]) -> None:
        self._watch.running -= 1

    def take(self) -> tuple[float, str]:
        """Return the milliseconds and the place of the longest step, and start a new measurement."""
        step, where = self._step, self._where
        self._step, self._where = 0.0, ""
        return round(step * 1000, 2), where


WATCH: ContextVar[Watch] = ContextVar("WATCH")
"""The watch of the process; set before the event loop starts."""


class ErrorLog(logging.Handler):
    """Keeps the log entries of errors: the sidecar logs none for what clients and upstreams send."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.ERROR)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.log.append(self.format(record)[:MAX_LOG_CHARACTERS])


class AdmitsAll(RunningPolicy):
    """Admits each call."""

    async def admit(self, call: Call) -> Lease | None:
        return None


class Watching(Policy, frozen=True):
    """Hands the store to the watch, and starts its socket."""

    def start(self, services: Services) -> RunningPolicy:
        watch = WATCH.get()
        watch.store = services.store
        services.shared("watch", lambda: _Serving(watch))
        return AdmitsAll()


class _Serving:
    """The socket of the watch, which all chains of the process share."""

    def __init__(self, watch: Watch) -> None:
        self._task = asyncio.get_running_loop().create_task(watch.serve())
        logging.getLogger().addHandler(ErrorLog(watch))


class Recording(Observer, frozen=True):
    """Hands each record to the watch."""

    def observe(self, record: Record) -> None:
        seen = Seen(record.request_id, record.status, str(record.ending), record.code, record.attempts)
        WATCH.get().records.append(seen)
