"""Runs the application: one listening socket, one loop or several workers, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from policies.api.store import StoreDown
from policies.stores.opening import open_store
from sidecar.downstream.client_errors import draining

from .app import Application
from .http_protocol import Protocol
from .workers import Workers

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 4096
KEEPALIVE = 75
CLOSING = 5
"""Seconds that answers which have ended get to reach their clients."""

GENERATION = 5_000
"""Objects made before the collector looks at the young ones: most calls leave it nothing, and what others leave stays little."""

log = logging.getLogger("sidecar")


def run(settings: Settings) -> int:
    """Serve until a signal; return the exit code: 0 after a drain, 1 where it cannot listen, 2 for a file of no use."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    _allow_files()
    try:
        asyncio.run(_check_store(settings))
    except (StoreDown, ValueError, OSError) as error:
        print(f"sidecar: store.url: {error}", file=sys.stderr)
        if isinstance(error, ValueError) or settings.store.location.file(settings.folder) is not None:
            return 2
        # A server elsewhere may come back; until then calls are answered by what each policy says of it.
    host, port = settings.server.host, settings.server.port
    try:
        listener = _listen(host, port)
    except (OSError, OverflowError) as error:
        print(f"sidecar: cannot listen on {host}:{port}: {error}; choose another --host or --port", file=sys.stderr)
        return 1
    bound = listener.getsockname()[1]
    line = f"sidecar listening on http://{f'[{host}]' if ':' in host else host}:{bound}"

    def announce() -> None:
        print(line, flush=True)

    with listener:
        if settings.workers == 1:
            return serve(settings, listener, announce)
        return Workers(settings.workers, lambda ready: serve(settings, listener, ready)).run(announce)


def serve(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> int:
    """Serve on *listener* in this process; *ready* is called when it does."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, listener, ready))


async def _check_store(settings: Settings) -> None:
    store = open_store(settings.store.url, folder=settings.folder)
    try:
        await store.ping()
    finally:
        await store.aclose()


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)  # asyncio sets TCP_NODELAY only where it sees TCP
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> int:
    application = Application(settings)
    config = uvicorn.Config(
        application.asgi,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEPALIVE,
        timeout_graceful_shutdown=CLOSING,
    )
    server = _Server(config, ready)
    loop = asyncio.get_running_loop()
    stop = _Stop(application, server, settings.server.drain)
    for each in SIGNALS:
        loop.add_signal_handler(each, stop.signal)
    await server.serve(sockets=[listener])
    return 1 if server.force_exit or not server.started else 0


class _Server(uvicorn.Server):
    """uvicorn's server, with our own way to stop: it would close the door before the running streams have ended."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _freeze_gc()
            self._ready()


def _allow_files() -> None:
    """Open as many files as the system lets us: a stream needs two, and a shell's own limit is some 500 streams."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _freeze_gc() -> None:
    """Never look again at what was made before the first call: it stays, and looking costs a tenth of each call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GENERATION, 20, 20)


class _Stop:
    """What signals do: the first drains, the second ends at once; holds that are open then stay charged."""

    def __init__(self, application: Application, server: uvicorn.Server, seconds: float) -> None:
        self._application, self._server, self._seconds = application, server, seconds
        self._draining: asyncio.Task[None] | None = None

    def signal(self) -> None:
        """Take one signal."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._server.should_exit = self._server.force_exit = True

    async def _drain(self) -> None:
        if (gateway := self._application.gateway) is not None:
            await gateway.live.drain(self._seconds, draining())
        self._server.should_exit = True
