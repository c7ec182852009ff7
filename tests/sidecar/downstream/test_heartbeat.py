"""Heartbeats to clients, in virtual time and over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts import silent
from serving import settings_of, sidecar
from virtual_loop import VirtualLoop
from wire import HEAD, Connection, token, upstream

from sidecar.downstream.heartbeat import Heartbeats

INTERVAL = 15.0
FAST = "[server]\nheartbeat = 0.05\n"


class QuietResponse:
    """A response to which nothing but pings is sent."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.last_sent_at, self.pings = loop, loop.now, list[float]()

    def ping(self) -> None:
        self.pings.append(self.loop.now)


class BrokenResponse(QuietResponse):
    """A response whose pings fail."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self.attempts: list[float] = []

    def ping(self) -> None:
        self.attempts.append(self.loop.now)
        raise ConnectionError


def heartbeats(loop: VirtualLoop) -> Heartbeats:
    return Heartbeats(INTERVAL, clock=loop.time, call_at=loop.call_at)


def test_silent_client_gets_a_ping_every_interval() -> None:
    """A client to which nothing is sent gets its pings at least `heartbeat` and less than two intervals apart."""
    loop = VirtualLoop()
    beats, quiet = heartbeats(loop), QuietResponse(loop)
    beats.watch(quiet)
    start = loop.now
    loop.advance(10 * INTERVAL)

    gaps = [later - earlier for earlier, later in pairwise([start, *quiet.pings])]
    assert gaps
    assert all(INTERVAL <= gap < 2 * INTERVAL for gap in gaps)


def test_sent_data_delays_the_ping() -> None:
    """No ping is sent within an interval after other data; the next one comes within two."""
    loop = VirtualLoop()
    beats, quiet = heartbeats(loop), QuietResponse(loop)
    beats.watch(quiet)
    loop.advance(INTERVAL * 0.9)
    quiet.last_sent_at = loop.now
    loop.advance(INTERVAL * 0.99)
    assert quiet.pings == []
    loop.advance(INTERVAL)
    assert len(quiet.pings) == 1


@given(st.lists(st.tuples(st.sampled_from(["new", "send", "stop", "wait"]), st.floats(0.01, 20)), max_size=40))
def test_all_clients_share_one_timer(steps: list[tuple[str, float]]) -> None:
    """Any number of clients needs one timer; each is silent for less than two intervals, and none is pinged after its end."""
    loop = VirtualLoop()
    beats = heartbeats(loop)
    waiting: list[QuietResponse] = []
    for step, seconds in steps:
        if step == "new":
            quiet = QuietResponse(loop)
            beats.watch(quiet)
            waiting.append(quiet)
        elif step == "send" and waiting:
            waiting[0].last_sent_at = loop.now
        elif step == "stop" and waiting:
            quiet = waiting.pop()
            beats.forget(quiet)
            before = list(quiet.pings)
            loop.advance(seconds)
            assert quiet.pings == before
        else:
            loop.advance(seconds)
        assert len(loop.pending) <= 1
        assert all(loop.now - quiet.last_sent_at < 2 * INTERVAL for quiet in waiting)


def test_ended_responses_are_released() -> None:
    """A response that has ended is not referenced any more, and after two intervals nothing of it is left."""
    loop = VirtualLoop()
    beats, long, short = heartbeats(loop), QuietResponse(loop), QuietResponse(loop)
    references = sys.getrefcount(long)
    beats.watch(long)
    loop.advance(INTERVAL * 1.5)
    beats.watch(short)
    assert len(beats) == 2
    beats.forget(short)
    beats.forget(long)
    pings = len(long.pings)
    assert sys.getrefcount(long) == sys.getrefcount(short) == references
    loop.advance(2 * INTERVAL)
    assert (len(beats), len(loop.pending), len(long.pings), short.pings) == (0, 0, pings, [])


def test_failed_ping_does_not_stop_the_others() -> None:
    """A ping that raises stops no ping of other clients, and is tried again after an interval."""
    loop = VirtualLoop()
    beats, broken, others = heartbeats(loop), BrokenResponse(loop), [QuietResponse(loop) for _ in range(3)]
    for each in (others[0], broken, *others[1:]):
        beats.watch(each)
    while len(broken.attempts) < 3:
        with contextlib.suppress(ConnectionError):  # the loop would log it
            loop.advance(INTERVAL)
    loop.advance(0)

    assert all(later - earlier >= INTERVAL for earlier, later in pairwise(broken.attempts))
    assert all(len(other.pings) >= 3 for other in others)


async def stall_inside_an_event(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a") + b'data: {"choices"')
    await connection.hang()


@pytest.mark.anyio
async def test_chat_nest_pings_follow_the_start_event(tmp_path: Path) -> None:
    """On /api/chat pings are sent after `start`, also before the first token."""
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, FAST)) as served:
        client = await served.client()
        await client.post("/api/chat", {"messages": [{"role": "user", "content": "hi"}]})
        assert b"event: start\n" in await client.until(b"event: ping\ndata: \n\n")
        await client.until(b"event: ping\ndata: \n\n")
        client.close()


@pytest.mark.anyio
async def test_openai_pings_are_comments_between_events(tmp_path: Path) -> None:
    """On /v1 the first ping sends the head; pings are comments with one newline, and never inside an event."""
    async with upstream(stall_inside_an_event) as up, sidecar(settings_of(tmp_path, up.url, FAST)) as served:
        client = await served.client()
        await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True})
        status, _ = await client.head()
        read = await client.until(b": ping\n") + await client.until(b": ping\n")
        client.close()

    data = b"".join(line for line in read.split(b"\r\n") if not line.isalnum())
    assert status == 200
    assert data.endswith(token("a") + b": ping\n: ping\n")


@pytest.mark.anyio
async def test_failure_behind_a_ping_is_an_error_event(tmp_path: Path) -> None:
    """A failure after the first ping is an error event in the stream, because the status 200 is sent."""
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
