"""Run the server: check the parts, listen, then serve in this process or in several workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import shlex
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from policies.api.store import StoreDown
from policies.stores.opening import open_store
from policies.stores.sqlite.file_mode import open_to_others
from sidecar.config.summary import summary
from sidecar.observers.entry_format import EntryFormat
from sidecar.observers.log_handler import LineHandler, install_log_handler

from . import uvicorn_check
from .listener import Listener, listen_tcp, listen_unix
from .workers import STOP_SIGNALS, Workers, log_hangup

if TYPE_CHECKING:
    from sidecar.config.settings import Settings


def run(settings: Settings) -> int:
    """Serve until a signal and return the exit code.

    0 after a drain, also of a process that was still starting; 1 where it cannot listen or workers keep dying; 2 for an
    unusable configuration or uvicorn.
    """
    install_log_handler(LineHandler(_write_stderr, EntryFormat(settings.log.format)), settings.log.level)
    start = _Start()
    for each in STOP_SIGNALS:
        signal.signal(each, start.signal)
    signal.signal(signal.SIGHUP, lambda *_: log_hangup())
    if not _uvicorn_fits():
        return 2
    from .process import serve  # noqa: PLC0415  # it subclasses what was just checked

    _allow_files()
    try:
        asyncio.run(start.check_store(settings))
    except (StoreDown, ValueError, OSError) as error:
        print(f"sidecar: store.url: {error}", file=sys.stderr)
        if isinstance(error, ValueError) or settings.store.location.file(settings.folder) is not None:
            return 2
        # A remote store may come back; until then `when_store_fails` of each policy decides.
    if start.stopped():
        return 0
    _warn_of_open_files(settings)
    listener = _listen(settings)
    if listener is None:
        return 1

    def announce() -> None:
        print(f"sidecar listening on {listener.address}\n{summary(settings)}", flush=True)

    with listener:
        if settings.workers == 1:
            return serve(settings, listener, announce)
        workers = Workers(settings.workers, lambda control, ready: serve(settings, listener, ready, control))
        return workers.run(announce)


def _write_stderr(line: bytes) -> None:
    """Write a line of a process that does not serve: one that starts, or the parent of workers."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = sys.stderr.fileno()
        if select.select([], [descriptor], [], 0)[1]:  # room for PIPE_BUF bytes, and no line is longer
            os.write(descriptor, line)


def _uvicorn_fits() -> bool:
    version = uvicorn.__version__
    if problems := uvicorn_check.faults():
        print(f"sidecar: {uvicorn_check.error(version, problems)}", file=sys.stderr)
        return False
    if (warning := uvicorn_check.warning(version)) is not None:
        print(f"sidecar: warning: {warning}", file=sys.stderr)
    return True


def _warn_of_open_files(settings: Settings) -> None:
    """Print a warning if other users may read the SQLite file. Its mode is not changed: an administrator may have set it."""
    path = settings.store.location.file(settings.folder)
    if path is not None and (files := open_to_others(path)):
        cure = f"chmod 600 {shlex.quote(str(path))}*"
        print(f"sidecar: warning: store.url: other users may read {', '.join(files)}; run `{cure}`", file=sys.stderr)


def _listen(settings: Settings) -> Listener | None:
    server = settings.server
    path = settings.folder / server.uds if server.uds else None
    where = f"unix:{path}" if path else f"{server.host}:{server.port}"
    try:
        return listen_unix(path) if path else listen_tcp(server.host, server.port)
    except (OSError, OverflowError) as error:
        cure = "choose another server.uds" if path else "choose another --host or --port"
        print(f"sidecar: cannot listen on {where}: {error}; {cure}", file=sys.stderr)
        return None


def _allow_files() -> None:
    """Open as many files as the system lets us: a stream needs two, and a shell's own limit is some 500 streams."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Start:
    """Signals to a process that does not serve yet: it ends with exit code 0, there is nothing to drain."""

    def __init__(self) -> None:
        self._stopped = False
        self._wake: Callable[[], object] | None = None

    def signal(self, *_: object) -> None:
        """Take a signal: end now, or wake the check of the store, which must not be torn apart inside its event loop."""
        self._stopped = True
        if self._wake is None:
            raise SystemExit(0)
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._wake()

    def stopped(self) -> bool:
        """Whether a signal came during the check.  From now on a signal ends the process at once."""
        self._wake = None
        return self._stopped

    async def check_store(self, settings: Settings) -> None:
        """Ask the store whether it answers; return early on a signal.  Raises what the store raises."""
        loop, signalled = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(signalled.set)
        check, waiting = loop.create_task(_ping(settings)), loop.create_task(signalled.wait())
        await asyncio.wait([check, waiting], return_when=asyncio.FIRST_COMPLETED)
        if self._stopped:
            loop.set_exception_handler(lambda *_: None)  # the errors of the cancelled check are not logged
            return
        waiting.cancel()
        await check


async def _ping(settings: Settings) -> None:
    store = open_store(settings.store.url, folder=settings.folder)
    try:
        await store.ping()
    finally:
        await store.aclose()
