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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from policies.api.store import StoreDown
from policies.stores.sqlite.file_mode import open_to_others
from policies.stores.sqlite.file_system import network_warning
from sidecar.config.summary import summary
from sidecar.observers.entry_format import EntryFormat
from sidecar.observers.log_handler import LineHandler, install_log_handler

from . import uvicorn_check
from .listener import Listener, listen_tcp, listen_unix
from .store_check import StoreCheck, check_store
from .store_state import report_fault
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
        check = asyncio.run(start.check_store(settings))
    except (StoreDown, ValueError, OSError) as error:
        print(f"sidecar: store.url: {error}", file=sys.stderr)
        return 2
    if start.stopped():
        return 0
    _report_store(settings, check)
    listener = _listen(settings)
    if listener is None:
        return 1

    def announce() -> None:
        print(f"sidecar listening on {listener.address}\n{summary(settings)}", flush=True)

    with listener:
        if start.stopped():  # the exit was raised where Python ignores exceptions, such as in a finalizer
            return 0
        if settings.workers == 1:
            return serve(settings, listener, announce, store_check=check)
        workers = Workers(
            settings.workers, lambda control, ready: serve(settings, listener, ready, control, store_check=check)
        )
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


def _report_store(settings: Settings, check: StoreCheck) -> None:
    """Write that the store does not answer, or print what endangers its counters and its privacy."""
    if check.fault:
        report_fault(settings, check.fault, _write_stderr)
    path = settings.store.location.file(settings.folder)
    for each in (*check.warnings, *(() if path is None else _file_warnings(path))):
        print(f"sidecar: warning: store.url: {each}", file=sys.stderr)


def _file_warnings(path: Path) -> Iterator[str]:
    """Yield a warning if other users may read the SQLite file, and if it is on a network file system.

    Its mode is not changed: an administrator may have set it.
    """
    if files := open_to_others(path):
        yield f"other users may read {', '.join(files)}; run `chmod 600 {shlex.quote(str(path))}*`"
    if (warning := network_warning(path)) is not None:
        yield warning


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

    async def check_store(self, settings: Settings) -> StoreCheck:
        """Ask the store whether it answers; return early on a signal.  Raises what `check_store` raises."""
        loop, signalled = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(signalled.set)
        check, waiting = loop.create_task(check_store(settings)), loop.create_task(signalled.wait())
        await asyncio.wait([check, waiting], return_when=asyncio.FIRST_COMPLETED)
        if self._stopped:
            loop.set_exception_handler(lambda *_: None)  # the errors of the cancelled check are not logged
            return StoreCheck()
        waiting.cancel()
        return await check
