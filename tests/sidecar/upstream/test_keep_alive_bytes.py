"""Comments and blank lines of upstream extend the waits before the first output; afterwards only output counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from chunks import delta, sse
from jumping_clock import JumpingClock
from scripted_body import ScriptedResponse, body_of
from scripts import whole_answer
from serving import settings_of, sidecar
from wire import HEAD, Connection, Script, chunk, eventually, upstream

from policies.api.upstream import UpstreamError
from sidecar.config.upstream import UpstreamSettings
from sidecar.upstream.progress_timeout import MAX_EXTENSION, ProgressTimeout

pytestmark = pytest.mark.anyio

HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STEP_SECONDS = 5.0
TOKEN, FINISH, DONE = sse(delta(content="a")), sse(delta(finish="stop")), b"data: [DONE]\n\n"
ROLE = sse(delta(role="assistant", content=""))
DEFAULTS = UpstreamSettings(base_url="http://up.example/v1")


class Ticks:
    """What an upstream sends every 5 seconds: it waits for `go` before each piece."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def next(self) -> None:
        await self.go.wait()
        self.go.clear()


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the times at which a wait was extended: by them a test knows that bytes have been read."""
    seen: list[float] = []
    extend = ProgressTimeout.extend

    def noting(self: ProgressTimeout) -> None:
        extend(self)
        seen.append(self.now())

    monkeypatch.setattr(ProgressTimeout, "extend", noting)
    return seen


def before_the_head(piece: bytes) -> Any:
    """Return a script that sends *piece* every 5 seconds, then an answer."""

    def script(ticks: Ticks, count: int) -> Script:
        async def slow(connection: Connection) -> None:
            for _ in range(count):
                await ticks.next()
                await connection.send(piece)
            await ticks.next()
            await connection.stream("fine")

        return slow

    return script


def in_the_stream(piece: bytes) -> Any:
    """Return a script that sends the head, *piece* every 5 seconds, then the answer."""

    def script(ticks: Ticks, count: int) -> Script:
        async def slow(connection: Connection) -> None:
            await connection.send(HEAD)
            for _ in range(count):
                await ticks.next()
                await connection.chunk(piece)
            await ticks.next()
            await connection.chunk(TOKEN + FINISH + DONE)
            await connection.send(b"0\r\n\r\n")

        return slow

    return script


def before_an_object(ticks: Ticks, count: int) -> Script:
    """Send the head of one JSON object, a blank line every 5 seconds, then the object."""

    async def slow(connection: Connection) -> None:
        await connection.send(HEAD.replace(b"text/event-stream", b"application/json"))
        for _ in range(count):
            await ticks.next()
            await connection.chunk(b"\r\n")
        await ticks.next()
        await connection.send(chunk(whole_answer("fine")) + b"0\r\n\r\n")

    return slow


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        pytest.param(in_the_stream(b": OPENROUTER PROCESSING\n\n"), True, id="comments"),
        pytest.param(in_the_stream(b":\r\n\r\n"), True, id="empty comments in CRLF"),
        pytest.param(in_the_stream(b"\n"), True, id="blank lines"),
        pytest.param(in_the_stream(b"event: ping\ndata: {}\n\n"), True, id="pings"),
        pytest.param(in_the_stream(ROLE + b": waiting\n\n"), True, id="comments behind empty pieces"),
        pytest.param(before_an_object, True, id="blank lines before one object"),
        pytest.param(before_an_object, False, id="blank lines without stream"),
        pytest.param(before_the_head(b"HTTP/1.1 102 Processing\r\n\r\n"), True, id="102 before the head"),
        pytest.param(before_the_head(b"\r\n"), True, id="blank lines before the head"),
    ],
)
async def test_slow_upstream_that_is_alive_is_served_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extensions: list[float],
    script: Any,
    stream: bool,  # noqa: FBT001  # a column of the table
) -> None:
    """An upstream that answers after more than the limit, with a sign of life every 5 s, is served, and asked once."""
    limit = DEFAULTS.first_token if stream else DEFAULTS.whole
    count = int((limit + 20) / STEP_SECONDS)
    ticks = Ticks()
    async with upstream(script(ticks, count)) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        clock = JumpingClock(monkeypatch)
        client = await served.client()
        await client.post("/v1/chat/completions", HI | {"stream": stream})
        for at in range(count):
            await eventually(lambda: bool(up.requests))
            await clock.jump(STEP_SECONDS)
            ticks.go.set()
            await eventually(lambda at=at: len(extensions) > at)  # type: ignore[misc]  # a default of a lambda
        await clock.jump(STEP_SECONDS)
        ticks.go.set()
        status, _, body = await client.answer()

    assert (status, len(up.requests), clock.passed > limit) == (200, 1, True)
    assert b"error" not in body


class Delivery:
    """A body that is being delivered, with a limit of 300 seconds for the first output."""

    def __init__(self, idle: float = 300.0) -> None:
        self.answer = ScriptedResponse()
        self.task = asyncio.get_running_loop().create_task(self._deliver(idle))

    async def _deliver(self, idle: float) -> str:
        """Return the kind of the failure that ends the body."""
        body, timeout = body_of(self.answer, idle=idle, limit=300)
        with pytest.raises(UpstreamError) as failed:
            await body.deliver(lambda _: True)
        timeout.stop()
        return failed.value.kind


async def test_extension_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments extend the wait to 12 times the limit, also where no deadline ends the call."""
    clock, delivery = JumpingClock(monkeypatch), Delivery()
    await asyncio.sleep(0)
    while not delivery.task.done():
        delivery.answer.arrive(b": waiting\n\n")
        await clock.jump(50)
        assert clock.passed <= MAX_EXTENSION * 300 + 50

    assert await delivery.task == "first_token_timeout"
    assert clock.passed > (MAX_EXTENSION - 1) * 300


@pytest.mark.parametrize("piece", [ROLE, sse({"choices": []})], ids=["a role", "no choices"])
async def test_empty_pieces_extend_nothing(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    """Events with data but without output are no sign of life: the wait ends after its limit."""
    clock, delivery = JumpingClock(monkeypatch), Delivery()
    await asyncio.sleep(0)
    while not delivery.task.done():
        delivery.answer.arrive(piece)
        await clock.jump(50)

    assert await delivery.task == "first_token_timeout"
    assert clock.passed == 300


async def test_comments_after_output_extend_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first output only output counts: a stream of comments ends at the idle limit."""
    clock, delivery = JumpingClock(monkeypatch), Delivery(idle=100)
    await asyncio.sleep(0)
    delivery.answer.arrive(b": waiting\n\n" + TOKEN)
    while not delivery.task.done():
        delivery.answer.arrive(b": waiting\n\n")
        await clock.jump(20)

    assert await delivery.task == "idle_timeout"
    assert clock.passed == 100


async def test_text_with_colons_is_no_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colons in the data of empty pieces are no comments."""
    clock, delivery = JumpingClock(monkeypatch), Delivery()
    await asyncio.sleep(0)
    while not delivery.task.done():
        delivery.answer.arrive(sse(delta(role="assistant") | {"x": "\n: a"}) + sse({"choices": [], "y": ":"}))
        await clock.jump(50)

    assert await delivery.task == "first_token_timeout"
    assert clock.passed == 300
