"""An upstream that sends without pause cannot prevent the cancellation of its call."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import CHAT, settings_of, sidecar
from wire import HEAD, TIMEOUT_SECONDS, Client, chunk, eventually, sse, token

from policies.api.event import Batch
from sidecar.downstream.active_calls import ActiveCall
from sidecar.downstream.asgi_connection import AsgiConnection
from sidecar.downstream.client_errors import draining
from sidecar.downstream.refusal_form import OPENAI_REFUSALS
from sidecar.downstream.response import OpenAIResponse
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS

pytestmark = pytest.mark.anyio

OPENAI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
ROUTES = pytest.mark.parametrize(
    ("path", "body"), [("/api/chat", CHAT), ("/v1/chat/completions", OPENAI)], ids=["chat", "openai"]
)
OUTPUT_EVENTS = token("x" * 2_000) * 16
EMPTY_EVENTS = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}) * 400


ENDLESS_UPSTREAM = """
import socket, sys
connection, _ = socket.socket(fileno=int(sys.argv[1])).accept()
first, piece = sys.stdin.buffer.readline(), sys.stdin.buffer.read()
connection.recv(65_536)
try:
    connection.sendall(eval(first))
    while True:
        connection.sendall(piece)
except OSError:
    pass
"""
"""A program that answers one request without end, until the other side closes."""


class Flood:
    """An upstream in a process of its own, so that the sidecar always finds bytes to read."""

    def __init__(self, events: bytes) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            self.process = subprocess.Popen(
                [sys.executable, "-c", ENDLESS_UPSTREAM, str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
            )
        assert self.process.stdin is not None
        with self.process.stdin as script:
            script.write(b"%r\n" % (HEAD + chunk(token("a"))) + chunk(events))

    async def ended(self) -> None:
        """Wait until it has noticed that its connection closed."""
        await eventually(lambda: self.process.poll() is not None)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def flood(events: bytes) -> Iterator[Flood]:
    """Run an upstream that repeats *events* while the block lasts."""
    running = Flood(events)
    try:
        yield running
    finally:
        running.stop()


@ROUTES
@pytest.mark.parametrize("events", [OUTPUT_EVENTS, EMPTY_EVENTS], ids=["output", "no output"])
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_disconnect_ends_the_call(
    tmp_path: Path, path: str, body: object, events: bytes, leave: Callable[[Client], None]
) -> None:
    """A disconnect of the client ends the call, and closes the upstream connection."""
    with flood(events) as up:
        async with sidecar(settings_of(tmp_path, up.url)) as served:
            client = await served.client()
            await client.post(path, body)
            await client.until(b'"a"')
            leave(client)
            account = await served.account()
            await up.ended()

    assert account.reserved == 0


@ROUTES
@pytest.mark.parametrize("events", [OUTPUT_EVENTS, EMPTY_EVENTS], ids=["output", "no output"])
async def test_deadline_and_drain_end_the_call(tmp_path: Path, path: str, body: object, events: bytes) -> None:
    """The deadline and the drain of the process end the call with an error event."""
    for text, code, seconds in [
        ("chat_deadline = 0.3\ndeadline = 0.3", b"upstream_timeout", None),
        ("", b"draining", 0.1),
    ]:
        with flood(events) as up:
            async with sidecar(settings_of(tmp_path, up.url, "[server]\n" + text)) as served:
                client = await served.client()
                await client.post(path, body)
                await client.until(b'"a"')
                reading = asyncio.create_task(_end_of(client))
                if seconds is not None:
                    await asyncio.wait_for(served.gateway.active_calls.drain(seconds, draining()), TIMEOUT_SECONDS)
                end = await asyncio.wait_for(reading, TIMEOUT_SECONDS)
                account = await served.account()
                await up.ended()

        assert code in end
        assert account.reserved == 0


async def _end_of(client: Client) -> bytes:
    """Return the last bytes of a response."""
    end = b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        data = await client.reader.read(1 << 20)
        if not data:
            break
        end = (end + data)[-2_000:]
    return end


async def test_last_batch_is_not_cut() -> None:
    """The last batch of a settled call is written, although its deadline passes in the same iteration."""
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    connection = AsgiConnection(_silent, send)
    response = OpenAIResponse(connection, "r", operation=CHAT_COMPLETIONS, refusals=OPENAI_REFUSALS, clock=lambda: 0.0)
    active = ActiveCall(response)
    with active:
        active.cancel_with(draining())
        response.write_nowait(Batch(events=[], raw=b"data: x\n\n", last=True))
    await active.absorb_late_cancel()
    await connection.finish()

    assert sent[-1] == {"type": "http.response.body", "body": b"data: x\n\ndata: [DONE]\n\n", "more_body": False}


async def test_failed_ping_means_a_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    """A ping that cannot be sent cancels the call as a disconnect does, and no error is logged."""

    async def send(message: object) -> None:
        raise RuntimeError

    connection = AsgiConnection(_silent, send)
    response = OpenAIResponse(connection, "r", operation=CHAT_COMPLETIONS, refusals=OPENAI_REFUSALS, clock=lambda: 0.0)
    active = ActiveCall(response)
    connection.watch(active.client_left)
    with active:
        response.ping()
        await asyncio.Event().wait()
    connection.unwatch()
    await connection.finish()
    gc.collect()
    await asyncio.sleep(0)

    assert active.left
    assert active.was_cancelled
    assert not caplog.records


async def _silent() -> object:
    """Receive nothing: the server reports no disconnect."""
    await asyncio.Event().wait()
    raise AssertionError
