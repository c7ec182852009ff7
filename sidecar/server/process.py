"""One serving process: uvicorn on the listening sockets, until signals or the parent's end have drained it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from uvicorn.config import STARTUP_FAILURE

from sidecar.downstream.client_errors import draining
from sidecar.observers.process_log import ProcessLog

from .app import Application
from .gateway import Gateway
from .http1.http_protocol import HttpProtocol
from .listener import ACCEPT_BACKLOG, Listener
from .store_check import HEALTHY_STORE, StoreCheck
from .store_state import expect_store
from .workers import CANNOT_START_CODE, START_END_SIGNAL, STOP_SIGNALS, log_hangup

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

KEEPALIVE_SECONDS = 75
CLOSING_SECONDS = 5
"""Time that ended answers get to reach their clients."""
YOUNG_OBJECTS = 5_000
"""Objects made before the garbage collector looks at the youngest: most calls leave it none."""
CONTROL_BYTES = 16
LOG_CLOSE_SECONDS = 2.0
"""Time that log lines in the queue get to be written when the process ends."""
UVICORN_LOGGER = "uvicorn.error"

log = logging.getLogger("sidecar")


def serve(
    settings: Settings,
    listener: Listener,
    ready: Callable[[], None],
    control: int | None = None,
    *,
    store_check: StoreCheck = HEALTHY_STORE,
) -> int:
    """Serve on *listener* in this process until a stop is requested; return the exit code.

    *ready* is called when it serves. *control* is a worker's end of its parent's pipe, see `Workers`. *store_check* is what
    the check of the store at start has found and logged.
    """
    logging.getLogger(UVICORN_LOGGER).addFilter(is_no_cancellation)
    log = ProcessLog(settings.log, worker=None if control is None else os.getpid())
    expect_store(log.states, store_check.fault, time.time())
    for upstream in settings.upstreams:
        log.states.expect(f"breaker {upstream.name}", "closed")
    application = Application(
        settings, make_gateway=partial(Gateway, log=log, on_loopback=listener.is_loopback, store_check=store_check)
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(application, listener, ready, settings.server.drain, control))
    except SystemExit as error:
        return CANNOT_START_CODE if error.code == STARTUP_FAILURE else 1
    finally:
        log.close(LOG_CLOSE_SECONDS)


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Return whether *record* may be logged: uvicorn logs a request that it has cancelled itself with its traceback."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


async def _serve(
    application: Application, listener: Listener, ready: Callable[[], None], drain: float, control: int | None
) -> int:
    config = uvicorn.Config(
        application.asgi,
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPT_BACKLOG,
        timeout_keep_alive=KEEPALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    server = _Server(config, ready)
    loop = asyncio.get_running_loop()
    stop = _Stop(application, server, listener, drain)
    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, stop.signal)
    loop.add_signal_handler(signal.SIGHUP, log_hangup)
    if control is not None:
        loop.add_reader(control, stop.read_control, control)
        loop.add_signal_handler(START_END_SIGNAL, lambda: None)  # the pipe carries the same request
    await server.serve(sockets=listener.sockets)
    return 1 if server.force_exit or not server.started else 0


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would close the listening sockets before streams have ended."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            _freeze_startup_objects()
            self._ready()

    def stop_listening(self) -> None:
        """Accept no further connections; open ones go on."""
        if self.started:
            for each in self.servers:
                each.close()


class _Stop:
    """Ends the process: the first request to stop drains, the second ends at once and leaves open reservations charged.

    Requests by signal and by the parent's pipe are counted apart: a process group gets both for one stop.
    """

    def __init__(self, application: Application, server: _Server, listener: Listener, seconds: float) -> None:
        self._application, self._server, self._listener, self._seconds = application, server, listener, seconds
        self._draining: asyncio.Task[None] | None = None
        self._signals = self._requests = 0

    def signal(self) -> None:
        """Take one signal."""
        self._signals += 1
        self._stop(at_once=self._signals > 1)

    def read_control(self, control: int) -> None:
        """Take what the parent wrote: a byte for each request to stop, or the end of the file because it died."""
        requests = os.read(control, CONTROL_BYTES)
        if requests:
            self._requests += len(requests)
            self._stop(at_once=self._requests > 1)
            return
        asyncio.get_running_loop().remove_reader(control)
        log.error("the parent process ended; draining")
        # A successor must be able to listen now, also while this worker's streams still run.
        self._server.stop_listening()
        self._listener.close_sockets()
        self._stop(at_once=False)

    def _stop(self, *, at_once: bool) -> None:
        if at_once:
            log.warning("stopped again while draining: ending at once; open reservations stay charged")
            self._server.should_exit = self._server.force_exit = True
        elif self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        if (gateway := self._application.gateway) is not None:
            gateway.policy_services.state_changed(
                "server", "draining", f"{len(gateway.active_calls)} calls are running"
            )
            await gateway.active_calls.drain(self._seconds, draining())
        self._server.should_exit = True


def _freeze_startup_objects() -> None:
    """Exclude what was made before the first call from garbage collection: it stays, and scanning costs 10 % of each call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
