"""The adapter over plain ASGI servers whose `receive` fails, whose `send` blocks, or that cancel a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from recording import HI, V1, Keeps
from scripts import endless, silent
from serving import settings_of
from wire import TIMEOUT_SECONDS, Script, Upstream, eventually, upstream

from sidecar.downstream.asgi_connection import AsgiConnection
from sidecar.downstream.client_connection import Head
from sidecar.server.app import Application

pytestmark = pytest.mark.anyio

DISCONNECT = {"type": "http.disconnect"}


class Server:
    """A plain ASGI server: one request, whose client disconnects once `left` is set."""

    def __init__(self) -> None:
        self.left, self.sent = asyncio.Event(), list[Any]()
        self.send_blocks = self.receive_fails = False

    async def receive(self) -> dict[str, Any]:
        """Wait for the disconnect."""
        if self.receive_fails:
            raise RuntimeError("receive")
        await self.left.wait()
        return DISCONNECT

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if self.send_blocks:
            await asyncio.Event().wait()

    async def call(self, app: Any, body: object) -> None:
        """Serve a POST with *body* by *app*."""
        raw: bytes | None = json.dumps(body).encode()

        async def receive() -> dict[str, Any]:
            nonlocal raw
            if raw is None:
                return await self.receive()
            part, raw = raw, None
            return {"type": "http.request", "body": part, "more_body": False}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": V1,
            "raw_path": V1.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("x", 1),
            "state": {},
        }
        await app(scope, receive, self.send)


@asynccontextmanager
async def application(folder: Path, up: Upstream, keeps: Keeps) -> AsyncIterator[Application]:
    """Run the application without a server while the block lasts."""
    app = Application(msgspec.structs.replace(settings_of(folder, up.url), observers=(keeps,)))
    messages, started = asyncio.Queue[Any](), asyncio.Event()

    async def send(_: Any) -> None:
        started.set()

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    lifespan = asyncio.create_task(app.asgi(scope, messages.get, send))
    messages.put_nowait({"type": "lifespan.startup"})
    await started.wait()
    yield app
    messages.put_nowait({"type": "lifespan.shutdown"})
    await lifespan


async def test_failing_receive_is_a_disconnect() -> None:
    """A server whose `receive` raises has lost its client."""
    server, left = Server(), asyncio.Event()
    server.receive_fails = True
    connection = AsgiConnection(server.receive, server.send)
    connection.watch(left.set)
    await asyncio.wait_for(left.wait(), TIMEOUT_SECONDS)
    connection.write_nowait(Head(200, []), b"a", more=True)
    await connection.finish()

    assert server.sent == []


async def test_blocked_send_does_not_outlast_the_disconnect() -> None:
    """A `send` that blocks after the client's disconnect does not keep the request waiting."""
    server, left = Server(), asyncio.Event()
    server.send_blocks = True
    connection = AsgiConnection(server.receive, server.send)
    connection.watch(left.set)
    connection.write_nowait(Head(200, []), b"a", more=False)
    await eventually(lambda: bool(server.sent))
    server.left.set()
    await asyncio.wait_for(left.wait(), TIMEOUT_SECONDS)
    await asyncio.wait_for(connection.finish(), TIMEOUT_SECONDS)


async def test_cancelled_finish_ends_its_writer() -> None:
    """A request whose task is cancelled while it waits for its writes leaves no task."""
    server, before = Server(), asyncio.all_tasks()
    server.send_blocks = True
    connection = AsgiConnection(server.receive, server.send)
    connection.write_nowait(Head(200, []), b"a", more=False)
    await eventually(lambda: bool(server.sent))
    finishing = asyncio.create_task(connection.finish())
    await asyncio.sleep(0)
    finishing.cancel()
    await asyncio.wait([finishing])

    await eventually(lambda: asyncio.all_tasks() == before)


@pytest.mark.parametrize("fault", ["receive_fails", "send_blocks"])
async def test_call_ends_with_a_faulty_server(tmp_path: Path, fault: str) -> None:
    """A call ends as cancelled if the server's `receive` fails, or if its `send` blocks behind a disconnect."""
    keeps, server = Keeps(), Server()
    setattr(server, fault, True)
    async with upstream(endless) as up, application(tmp_path, up, keeps) as app:
        request = asyncio.create_task(server.call(app.asgi, HI))
        if fault == "send_blocks":
            await eventually(lambda: bool(server.sent))
            server.left.set()
        await asyncio.wait_for(request, TIMEOUT_SECONDS)

    (record,) = keeps.records
    assert record.ending == "cancelled"


@pytest.mark.parametrize(
    ("script", "status"),
    [(silent, 503), (endless, 200)],
    ids=["before the head", "in mid-stream"],
)
async def test_request_that_the_server_cancels_ends_as_draining(tmp_path: Path, script: Script, status: int) -> None:
    """A server that cancels a request, as after its grace period, gives its client `draining`."""
    keeps, server = Keeps(), Server()
    async with upstream(script) as up, application(tmp_path, up, keeps) as app:
        request = asyncio.create_task(server.call(app.asgi, HI))
        await eventually(lambda: bool(server.sent) if status == 200 else bool(up.requests))
        request.cancel()
        await asyncio.wait([request])

    (record,) = keeps.records
    assert request.cancelled()
    assert (record.status, record.ending, record.code) == (status, "failed", "draining")
    assert b'"code":"draining"' in server.sent[-1]["body"].replace(b'": "', b'":"')
    assert server.sent[0]["status"] == status
