"""Heartbeats, in virtual time and on the wire."""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import settings_of, sidecar
from wire import HEAD, Connection, token, upstream

from sidecar.downstream.heartbeat import Heartbeats

INTERVAL = 15.0
FAST = "[server]\nheartbeat = 0.05\n"


class Loop:
    """Virtual time: callbacks run when it is moved past their moment."""

    def __init__(self) -> None:
        self.now, self.timers, self.count = 100.0, list[tuple[float, int, Callable[[], None]]](), 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.timers, (when, self.count, callback))

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, _, callback = heapq.heappop(self.timers)
            callback()
        self.now = end


class Quiet:
    def __init__(self, loop: Loop) -> None:
        self.loop, self.last_sent_at, self.pings = loop, loop.now, list[float]()

    def ping(self) -> None:
        self.pings.append(self.loop.now)


class Broken(Quiet):
    def ping(self) -> None:
        raise ConnectionError


def test_every_interval() -> None:
    """A client to which nothing is sent gets a ping every interval, to the moment."""
    loop = Loop()
    heart, quiet = Heartbeats(INTERVAL, clock=loop.time, call_at=loop.call_at), Quiet(loop)
    heart.watch(quiet)
    loop.advance(50)

    assert quiet.pings == [115.0, 130.0, 145.0]


def test_sending_puts_it_off() -> None:
    """What is sent puts the next ping off by a whole interval."""
    loop = Loop()
    heart, quiet = Heartbeats(INTERVAL, clock=loop.time, call_at=loop.call_at), Quiet(loop)
    heart.watch(quiet)
    loop.advance(14)
    quiet.last_sent_at = loop.now
    loop.advance(14.9)
    assert quiet.pings == []
    loop.advance(0.2)
    assert quiet.pings == [129.0]


@given(st.lists(st.tuples(st.sampled_from(["new", "send", "stop", "wait"]), st.floats(0.01, 20)), max_size=40))
def test_one_timer(steps: list[tuple[str, float]]) -> None:
    """However many clients wait, one timer is set; none goes longer than an interval without a sign, none that left gets one."""
    loop = Loop()
    heart = Heartbeats(INTERVAL, clock=loop.time, call_at=loop.call_at)
    waiting = []
    for step, seconds in steps:
        if step == "new":
            quiet = Quiet(loop)
            heart.watch(quiet)
            waiting.append(quiet)
        elif step == "send" and waiting:
            waiting[0].last_sent_at = loop.now
        elif step == "stop" and waiting:
            quiet = waiting.pop()
            heart.forget(quiet)
            before = list(quiet.pings)
            loop.advance(seconds)
            assert quiet.pings == before
        else:
            loop.advance(seconds)
        assert len(loop.timers) <= 1
        assert all(loop.now - quiet.last_sent_at < INTERVAL + 1e-6 for quiet in waiting)


def test_nothing_is_left() -> None:
    """An answer that is over leaves nothing in the queue, if it was never looked at; else until its next look, without the call."""
    loop = Loop()
    heart, long, short = Heartbeats(INTERVAL, clock=loop.time, call_at=loop.call_at), Quiet(loop), Quiet(loop)
    heart.watch(long)
    loop.advance(20)
    heart.watch(short)
    assert len(heart) == 2
    heart.forget(short)
    heart.forget(long)
    assert len(heart) == 1
    assert sys.getrefcount(long) == sys.getrefcount(short)
    loop.advance(15)
    assert (len(heart), long.pings, short.pings) == (0, [115.0], [])


def test_a_ping_that_fails() -> None:
    """One that cannot be pinged takes no others with it, and is tried again after an interval."""
    loop = Loop()
    heart = Heartbeats(INTERVAL, clock=loop.time, call_at=loop.call_at)
    broken, others = Broken(loop), [Quiet(loop) for _ in range(3)]
    for each in (others[0], broken, *others[1:]):
        heart.watch(each)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            loop.advance(15)
        loop.advance(0)

    assert [other.pings for other in others] == [[115.0, 130.0]] * 3


async def stall(connection: Connection) -> None:
    await connection.hang()


async def stall_inside(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a") + b'data: {"choices"')
    await connection.hang()


@pytest.mark.anyio
async def test_chat_nest(tmp_path: Path) -> None:
    """On /api/chat pings come after `start`, before the first token too."""
    async with upstream(stall) as up, sidecar(settings_of(tmp_path, up.url, FAST)) as served:
        client = await served.client()
        await client.post("/api/chat", {"messages": [{"role": "user", "content": "hi"}]})
        assert b"event: start\n" in await client.until(b"event: ping\ndata: \n\n")
        await client.until(b"event: ping\ndata: \n\n")
        client.close()


@pytest.mark.anyio
async def test_openai(tmp_path: Path) -> None:
    """On /v1 the first ping brings the head; pings are comments with one newline, between events and never inside one."""
    async with upstream(stall_inside) as up, sidecar(settings_of(tmp_path, up.url, FAST)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True})
        status, _ = await client.head()
        read = await client.until(b": ping\n") + await client.until(b": ping\n")
        client.close()

    data = b"".join(line for line in read.split(b"\r\n") if not line.isalnum())
    assert status == 200
    assert data.endswith(token("a") + b": ping\n: ping\n")


@pytest.mark.anyio
async def test_ping_before_failure(tmp_path: Path) -> None:
    """A failure after the first ping is an error object in the stream; before it, a true status."""
    pinged = asyncio.Event()

    async def late(connection: Connection) -> None:
        await pinged.wait()
        await connection.answer(400, b'{"error": {"message": "no", "code": "context_length_exceeded"}}')

    async with upstream(late) as up, sidecar(settings_of(tmp_path, up.url, FAST)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True})
        assert (await client.head())[0] == 200
        await client.until(b": ping\n")
        pinged.set()
        body = await client.until(b"0\r\n\r\n")

    assert b'"code":"context_length_exceeded"' in body
    assert b"data: [DONE]\n\n" in body
