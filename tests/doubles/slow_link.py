"""A TCP link to a server on this machine, with a delay, that can be cut and that counts round trips."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wire import TIMEOUT_SECONDS

READ_BYTES = 65_536


class SlowLink:
    """Relays connections to the server at *port*. Each direction takes half of `delay` seconds."""

    def __init__(self, port: int) -> None:
        self._target, self.port = port, 0
        self.delay, self.is_up = 0.0, True
        self.round_trips = 0
        """How often a client sent something after it had received something, since it was set to 0."""
        self._has_received = True
        self._writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection, or close it while the link is cut."""
        if not self.is_up:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._connect(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(
                self._relay(reader, far_writer, is_client=True), self._relay(far_reader, writer, is_client=False)
            )
        finally:
            self._writers -= {writer, far_writer}
            writer.close()
            far_writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                if is_client and self._has_received:
                    self.round_trips, self._has_received = self.round_trips + 1, False
                asyncio.get_running_loop().call_later(self.delay / 2, self._pass_on, writer, data, is_client)
        asyncio.get_running_loop().call_later(self.delay / 2, writer.close)

    def _pass_on(self, writer: asyncio.StreamWriter, data: bytes, is_client: bool) -> None:  # noqa: FBT001  # a callback
        self._has_received = self._has_received or not is_client
        writer.write(data)

    def cut(self) -> None:
        """Close all connections, and each new one."""
        self.is_up = False
        for writer in self._writers:
            writer.close()

    def mend(self, delay: float) -> None:
        """Relay connections again, with *delay* seconds for a round trip."""
        self.is_up, self.delay, self.round_trips, self._has_received = True, delay, 0, True


@asynccontextmanager
async def slow_link(port: int) -> AsyncIterator[SlowLink]:
    """Run a link to *port* on a free port while the block lasts."""
    link = SlowLink(port)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        for task in list(link.tasks):
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*link.tasks, return_exceptions=True), TIMEOUT_SECONDS)
