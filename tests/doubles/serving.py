"""The sidecar on a real socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from wire import Client, eventually

from policies.api.policy import Policy
from policies.api.store import Account
from sidecar.config.loader import load
from sidecar.config.settings import Flags, Settings
from sidecar.server.app import Application
from sidecar.server.gateway import Gateway
from sidecar.server.http1.http_protocol import HttpProtocol

CHAT = {"messages": [{"role": "user", "content": "Hello there"}]}
DATE_SECONDS = 1.0
"""Seconds between two updates of the `date` header, as in uvicorn."""


class Sidecar:
    """A running sidecar, and the clients that it closes at its end."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway, self.port = gateway, port
        self.url = f"http://127.0.0.1:{port}"
        self.clients: list[Client] = []

    async def post(self, path: str, body: Any, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one call on a connection of its own."""
        client = await Client.to(self.port)
        try:
            await client.post(path, body, *headers)
            return await client.answer()
        finally:
            client.close()

    async def get(self, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        client = await Client.to(self.port)
        try:
            named = [each.lower().partition(":")[0] for each in headers]
            lines = [f"{method} {path} HTTP/1.1", *([] if "host" in named else ["host: localhost"]), *headers]
            client.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            return await client.answer()
        finally:
            client.close()

    async def client(self) -> Client:
        """Return a client that is closed with the sidecar."""
        self.clients.append(await Client.to(self.port))
        return self.clients[-1]

    async def account(self, policy: str = "budget") -> Account:
        """Return the only counter of *policy*, after all calls have ended."""
        await eventually(lambda: len(self.gateway.active_calls) == 0)
        found = [each for each in await self.gateway.policy_services.store.accounts() if each.policy == policy]
        assert len(found) == 1, found
        return found[0]


def settings_of(
    folder: Path,
    upstream: str | None,
    text: str = "",
    *,
    environ: Mapping[str, str] | None = None,
    model: str | None = "test-model",
) -> Settings:
    """Return the shipped settings changed by TOML *text*, with a store in memory unless *text* names another."""
    path = folder / "sidecar.toml"
    if "[store]" not in text:
        text = '[store]\nurl = "memory://"\n' + text
    path.write_text(text)
    return load(path, environ=environ or {}, flags=Flags(upstream=upstream, model=model if upstream else None))


def with_policies(settings: Settings, *policies: Policy, alone: bool = False) -> Settings:
    """Return *settings* with *policies* after those of the default profile, or *alone*."""
    kept = () if alone else settings.base.policies
    base = msgspec.structs.replace(settings.base, policies=(*kept, *policies))
    return msgspec.structs.replace(settings, base=base)


class PromptServer(uvicorn.Server):
    """A server without the pauses of uvicorn, which takes 100 to 200 ms to end; thousands of tests start one."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Begin to shut down."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), DATE_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections and requests as uvicorn does, but stop waiting as soon as all have ended."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:
                    await asyncio.sleep(0.001)
        except TimeoutError:
            for task in list(state.tasks):
                task.cancel()
        await self.lifespan.shutdown()


@asynccontextmanager
async def sidecar(
    settings: Settings,
    *,
    make_gateway: Callable[[Settings], Gateway] = Gateway,
    protocol: type[asyncio.Protocol] = HttpProtocol,
) -> AsyncIterator[Sidecar]:
    """Run a sidecar on a free port while the block lasts; a *protocol* other than its own uses plain ASGI."""
    application = Application(settings, make_gateway=make_gateway)
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        application.asgi, http=protocol, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=2
    )
    server = PromptServer(config)
    # Not `serve`, which would also replace the signal handlers of the test process.
    running = asyncio.create_task(server._serve(sockets=[listener]))
    await eventually(lambda: server.started or running.done())
    assert application.gateway is not None
    served = Sidecar(application.gateway, listener.getsockname()[1])
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()
        server.stop()
        for connection in list(server.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.close()
        await running


def events(body: bytes) -> list[tuple[str, str]]:
    """Parse a Chat Nest stream as its client does: blocks split at blank lines, values trimmed."""
    read = []
    blocks = body.decode().split("\n\n")
    assert blocks[-1] == "", "the last event has its blank line"
    for block in blocks[:-1]:
        lines = dict(line.split(":", 1) for line in block.split("\n"))
        read.append((lines["event"].strip(), lines.get("data", "").strip()))
    return read
