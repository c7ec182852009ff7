"""A whole sidecar process in front of a scripted upstream, and what is checked after each case on either wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import governed_apis
import msgspec
from places import ROOT
from process import Program, program
from recorded_bytes import RecordingUpstream, recording_upstream, with_length
from scripts import whole_answer
from strict_http import Message
from watching import Settled
from wire import HEAD, chunk, sse, token

PROMPT_LIMIT = 4_000
"""Tokens that each model `small-*` may use."""
WAIT_SECONDS = 30.0
"""Seconds after which an answer, or the end of a connection, counts as missing."""
MAX_STEP_MS = 200.0
"""CPU time of one step of the event loop that counts as a stall, with the probe and on a slow machine."""
MAX_GROWTH_MB = 120.0
"""Resident memory that a process may gain after its first cases."""
WARM_CASES = 200
CHAT, COMPLETIONS, MODELS = "/api/chat", "/v1/chat/completions", "/v1/models"
CONFIGURATION = """
[server]
chat_deadline = 0
[store]
url = "memory://"
[[upstream]]
base_url = "{url}"
model = "m"
breaker = {{ calls = 0 }}
head = 20
whole = 20
first_token = 20
idle = 20
[[policy]]
use = "max_tokens"
output = 4096
request = 10_000_000
[[policy]]
use = "budget"
tokens = 9_000_000_000_000
[[policy]]
use = "budget"
name = "small"
tokens = {limit}
by = "model"
only = {{ model = "small-*" }}
reserve = "bound"
[[policy]]
use = "trim"
only = {{ path = "/api/chat" }}
max_messages = 20
[[policy]]
use = "retry"
attempts = 1
[[policy]]
use = "watching:Watching"
[[observer]]
use = "watching:Recording"
"""
USUAL = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ROLE = sse({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
STOP = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE = b"data: [DONE]\n\n"
STREAM = ROLE + token("a") + token("b") + STOP + DONE
STREAMED = HEAD + chunk(ROLE) + chunk(token("a") + token("b")) + chunk(STOP + DONE) + b"0\r\n\r\n"
WHOLE = whole_answer("ab")
LIST = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
MODEL = json.dumps({"id": "m", "object": "model"}).encode()
EVENTS = b'event: start\ndata: \n\nevent: token\ndata: "a"\n\nevent: token\ndata: "b"\n\nevent: done\ndata: \n\n'


def ordinary_answer(request: Message) -> Sequence[bytes]:
    """Return the complete answer to *request*, as an upstream that understands each field sends it."""
    path = request.start.split(b" ")[1]
    if request.start.startswith(b"GET"):
        return [with_length(LIST if path.endswith(b"/models") else MODEL)]
    try:
        streams = json.loads(request.body).get("stream") is True
    except (ValueError, AttributeError):
        return [with_length(b'{"error": {"message": "not JSON"}}', b"400 X")]
    if (other := governed_apis.answer(path, streams=streams)) is not None:
        return [other]
    return [STREAMED] if streams else [with_length(WHOLE)]


def known_refusals() -> dict[int, set[str]]:
    """Return the statuses and codes of the table of refusals in the documentation, and those of `/api/chat`."""
    text = (ROOT / "docs" / "failures.md").read_text().split("## Refusals\n")[1].split("\n## ")[0]
    known: dict[int, set[str]] = {}
    for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE):
        known.setdefault(int(status), set()).add(code)
    known[500].discard("internal_error")
    known.setdefault(429, set()).add("request_too_large")
    return known


class Fuzzed:
    """A running sidecar, and the upstream that it asks. *cases* counts the cases since the start of the process."""

    def __init__(
        self, running: Program, up: RecordingUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._running, self._reader, self._writer = running, reader, writer
        self.up = up
        self.refusals = known_refusals()
        self.port = running.port
        self.cases = 0
        self.worst_ms, self.worst_where = 0.0, ""
        self._warm_mb = self.grown_mb = 0.0

    async def settled(self) -> Settled:
        """Wait until all requests have ended; return what happened since the last call."""
        self._writer.write(b"\n")
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self._reader.readline()
        return msgspec.json.decode(line, type=Settled)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._running.popen.poll() is None

    def faults_of(self, settled: Settled) -> list[str]:
        """Return what is wrong inside the process after a case, whatever was sent."""
        faults = [f"error in the log: {entry}" for entry in settled.log]
        if settled.running:
            faults.append(f"requests leak: {settled.running}")
        if settled.reserved:
            faults.append(f"reservations leak: {settled.reserved}")
        if settled.step_ms > MAX_STEP_MS:
            faults.append(f"stall: {settled.step_ms} ms in {settled.where}")
        over = [
            each for each in settled.accounts if each.policy == "small" and each.spent + each.reserved > PROMPT_LIMIT
        ]
        faults += [f"over its limit: {each}" for each in over]
        faults += [f"request to upstream is not strict: {each}" for each in self.up.faults]
        if settled.step_ms > self.worst_ms:
            self.worst_ms, self.worst_where = settled.step_ms, settled.where
        self.cases += 1
        if self.cases <= WARM_CASES:
            self._warm_mb = max(self._warm_mb, settled.resident_mb)
        else:
            self.grown_mb = settled.resident_mb - self._warm_mb
            if self.grown_mb > MAX_GROWTH_MB:
                faults.append(f"memory grows: {self.grown_mb:.0f} MB since case {WARM_CASES}")
        return faults


@asynccontextmanager
async def fuzzed() -> AsyncIterator[Fuzzed]:
    """Run a sidecar process and its upstream while the block lasts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with recording_upstream() as up:
            up.answer = ordinary_answer
            (folder / "s.toml").write_text(CONFIGURATION.format(url=up.url, limit=PROMPT_LIMIT))
            environ = {"FUZZ_SOCKET": str(folder / "watch"), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'doubles'}"}
            command = [str(ROOT / "tests" / "fuzz" / "fuzz_target.py")]
            arguments = ("serve", "--config", "s.toml", "--port", "0")
            with program(*arguments, folder=folder, environ=environ, command=command, log=folder / "log") as running:
                assert running.line, (folder / "log").read_text()
                reader, writer = await asyncio.open_unix_connection(str(folder / "watch"), limit=2**26)
                target = Fuzzed(running, up, reader, writer)
                try:
                    await target.settled()  # the start is not measured
                    yield target
                finally:
                    writer.close()


async def received(
    port: int, pieces: Sequence[bytes], enough: Callable[[bytes], bool], *, leave: bool
) -> tuple[bytes, str]:
    """Send *pieces*, read until the server closes, or until *enough*, then close this side and read the rest.

    Returns all bytes, and how the connection ended: `server`, `client`, `reset` or `timeout`. *leave*: close this side behind
    the pieces, whatever arrives. Bytes that arrived before a reset are returned, as the kernel delivers them.
    """
    loop, raw, left = asyncio.get_running_loop(), b"", leave
    with socket.socket() as opened:
        opened.setblocking(False)  # asyncio requires it
        await loop.sock_connect(opened, ("127.0.0.1", port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sending = loop.create_task(_send(opened, pieces, leave=leave))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while data := await loop.sock_recv(opened, 65_536):
                    raw += data
                    if not left and enough(raw):
                        left = True
                        await sending
                        opened.shutdown(socket.SHUT_WR)
                return raw, "client" if left else "server"
        except TimeoutError:
            return raw, "timeout"
        except OSError:
            return raw, "reset"
        finally:
            sending.cancel()


async def _send(opened: socket.socket, pieces: Sequence[bytes], *, leave: bool) -> None:
    """Send *pieces*, each in a network write of its own if the other side reads in between; stop at a reset."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        for piece in pieces:
            await loop.sock_sendall(opened, piece)
            await asyncio.sleep(0)
        if leave:
            opened.shutdown(socket.SHUT_WR)
