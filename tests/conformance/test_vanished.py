"""Clients that disconnect without a normal close: they close one side, read nothing, or vanish without FIN."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path

import pytest
from scripts import mid_stream
from serving import settings_of, sidecar
from wire import HEAD, Client, Connection, eventually, token, until_unchanged, upstream

from sidecar.server.http1.client_protocol import KEEPALIVE_OPTIONS
from sidecar.server.http1.http_protocol import HttpProtocol

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
QUICK = '[server]\nheartbeat = 0.05\n[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
TCP_REPAIR = 19
"""Linux: a socket in repair mode closes without a FIN or RST."""
LARGE_EVENT = token("x" * 16_384)
LARGE_EVENTS = 4_000


async def test_half_close_is_a_disconnect(tmp_path: Path) -> None:
    """A client that closes its side of the connection has disconnected."""
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", HI)
        await client.until(b'"a"')
        client.writer.write_eof()
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()

    assert (account.reserved, len(up.requests)) == (0, 1)


def can_repair() -> bool:
    """Whether this process may put a socket into repair mode."""
    with socket.socket() as tried:
        try:
            tried.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except (OSError, AttributeError):
            return False
    return True


@pytest.mark.skipif(not can_repair(), reason="needs Linux's TCP_REPAIR and the capability to use it")
async def test_heartbeat_finds_a_client_without_fin(tmp_path: Path) -> None:
    """The heartbeat detects a client that vanished without a FIN."""
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        raw = socket.create_connection(("127.0.0.1", served.port))
        client = Client(*await asyncio.open_connection(sock=raw))
        await client.post("/v1/chat/completions", HI)
        await client.until(b'"a"')
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        client.writer.transport.abort()
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()

    assert (account.reserved, len(up.requests)) == (0, 1)


async def test_client_that_never_reads_uses_bounded_memory(tmp_path: Path) -> None:
    """A client that does not read slows only its own upstream, and uses bounded memory."""
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.send(HEAD)
        for _ in range(LARGE_EVENTS):
            await connection.chunk(LARGE_EVENT)
            sent += 1
        await connection.hang()

    async with upstream(flood) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)  # asyncio requires it
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", served.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
        client = Client(reader, writer)
        await client.post("/v1/chat/completions", HI)
        await asyncio.wait_for(up.arrived.wait(), 5)
        stuck = await until_unchanged(lambda: sent)
        other = (await served.get("/healthz"))[0]
        client.reset()
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        await eventually(lambda: len(served.gateway.active_calls) == 0)
        account = await served.account()

    assert other == 200
    assert stuck < LARGE_EVENTS / 2, f"{stuck * len(LARGE_EVENT) / 1e6:.0f} MB went into buffers"
    assert account.reserved == 0


async def test_client_sockets_have_tcp_keepalive(tmp_path: Path) -> None:
    """Each client socket has TCP keepalive, which detects silent clients to which nothing is sent."""
    async with upstream(mid_stream) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", HI)
        await client.until(b'"a"')
        here = client.writer.get_extra_info("sockname")
        # Not `isinstance`: it reads `__class__` of every object, which loads what lazy objects of libraries stand for.
        found = [each for each in gc.get_objects() if type(each) is HttpProtocol]
        ours = next(each.transport for each in found if each.transport.get_extra_info("peername") == here)
        raw = ours.get_extra_info("socket")
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
        options += [(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE_OPTIONS if hasattr(socket, name)]
        values = [raw.getsockopt(level, option) for level, option in options]

    assert values == [1, *(value for name, value in KEEPALIVE_OPTIONS.items() if hasattr(socket, name))]
