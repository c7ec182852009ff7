"""An upstream that never pauses cannot keep a call from being cancelled, by whatever ends it."""

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
from wire import HEAD, PATIENCE, Client, eventually, sse, token

from policies.api.event import Batch
from policies.testing import make_call
from sidecar.downstream.active_calls import ActiveCall
from sidecar.downstream.client_connection import OverASGI
from sidecar.downstream.client_errors import draining
from sidecar.downstream.response import OpenAIStream

pytestmark = pytest.mark.anyio

OPENAI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
ROUTES = pytest.mark.parametrize(
    ("path", "body"), [("/api/chat", CHAT), ("/v1/chat/completions", OPENAI)], ids=["chat", "openai"]
)
SHOWN = token("x" * 2_000) * 16
SILENT = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}) * 400


POUR = """
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
"""Answers one request without end, until the other side has gone."""


class Flood:
    """An upstream in a process of its own, so that its bytes are there whenever the sidecar looks."""

    def __init__(self, events: bytes) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            self.services = subprocess.Popen(
                [sys.executable, "-c", POUR, str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
            )
        assert self.services.stdin is not None
        with self.services.stdin as script:
            script.write(b"%r\n" % (HEAD + chunk(token("a"))) + chunk(events))

    async def ended(self) -> None:
        """Wait until it has seen its connection close."""
        await eventually(lambda: self.services.poll() is not None)

    def stop(self) -> None:
        self.services.kill()
        self.services.wait()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextmanager
def flood(events: bytes) -> Iterator[Flood]:
    poured = Flood(events)
    try:
        yield poured
    finally:
        poured.stop()


@ROUTES
@pytest.mark.parametrize("events", [SHOWN, SILENT], ids=["output", "nothing to show"])
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_client_leaves(
    tmp_path: Path, path: str, body: object, events: bytes, leave: Callable[[Client], None]
) -> None:
    """The client's leaving ends the call, and closes upstream."""
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
@pytest.mark.parametrize("events", [SHOWN, SILENT], ids=["output", "nothing to show"])
async def test_deadline_and_drain(tmp_path: Path, path: str, body: object, events: bytes) -> None:
    """The deadline and the end of the process end the call, and its client is told."""
    for text, code, seconds in [
        ("chat_deadline = 0.3\ndeadline = 0.3", b"upstream_timeout", None),
        ("", b"draining", 0.1),
    ]:
        with flood(events) as up:
            async with sidecar(settings_of(tmp_path, up.url, "[server]\n" + text)) as served:
                client = await served.client()
                await client.post(path, body)
                await client.until(b'"a"')
                reading = asyncio.create_task(_rest(client))
                if seconds is not None:
                    await asyncio.wait_for(served.gateway.live.drain(seconds, draining()), PATIENCE)
                end = await asyncio.wait_for(reading, PATIENCE)
                account = await served.account()
                await up.ended()

        assert code in end
        assert account.reserved == 0


async def _rest(client: Client) -> bytes:
    """Return the last bytes of an answer, and none of the many before."""
    end = b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        data = await client.reader.read(1 << 20)
        if not data:
            break
        end = (end + data)[-2_000:]
    return end


@pytest.mark.parametrize("ends", ["left", "interrupted"])
async def test_emit_ends_it(ends: str) -> None:
    """Whoever pushes batches without ever waiting is ended at the next one, whatever ended the call."""

    async def send(message: object) -> None:
        pass

    answer = OpenAIStream(OverASGI(send), "r", chat_path=False, clock=lambda: 0.0)
    answer.call = make_call("hi")
    live = ActiveCall(answer)
    sent = 0
    with live:
        while sent < 10:
            await answer.emit(Batch(events=[], raw=SHOWN))
            sent += 1
            if sent == 3:
                live.leave() if ends == "left" else live.interrupt(draining())

    assert (sent, live.cut, answer.call.abandoned) == (3, True, True)


async def test_last_batch_is_not_cut() -> None:
    """An answer that is settled and whole is sent, although its deadline passes just then."""
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    answer = OpenAIStream(OverASGI(send), "r", chat_path=False, clock=lambda: 0.0)
    answer.call = make_call("hi")
    live = ActiveCall(answer)
    with live:
        live.interrupt(draining())
        await answer.emit(Batch(events=[], raw=b"data: x\n\n", last=True))
    await live.spared()

    assert sent[-1] == {"type": "http.response.body", "body": b"data: x\n\ndata: [DONE]\n\n", "more_body": False}


async def test_failing_ping(caplog: pytest.LogCaptureFixture) -> None:
    """A ping that cannot be sent means that the client has left: its call ends, and nothing is left to complain of."""

    async def send(message: object) -> None:
        raise RuntimeError

    answer = OpenAIStream(OverASGI(send), "r", chat_path=False, clock=lambda: 0.0)
    answer.call = make_call("hi")
    live = ActiveCall(answer)
    with live:
        answer.ping()
        await asyncio.Event().wait()
    gc.collect()
    await asyncio.sleep(0)

    assert live.left
    assert live.cut
    assert not caplog.records
