"""The breaker: when it opens, what it lets through, and how soon it closes; alone, and in front of real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest
from serving import CHAT, Sidecar, settings_of, sidecar
from wire import HEAD, Connection, eventually, upstream

from policies.api.upstream import UpstreamError
from policies.testing import FakeClock
from sidecar.config.upstream import BreakerSettings
from sidecar.upstream.circuit_breaker import SICK, Breaker, BreakerOpen, Permit

QUICK = BreakerSettings(calls=4, rate=0.5, window=10, probe=5)
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}


def failure(kind: str = "server") -> UpstreamError:
    return UpstreamError(RuntimeError("boom"), kind)


def made(settings: BreakerSettings = QUICK) -> tuple[Breaker, FakeClock, list[str]]:
    clock, told = FakeClock(), list[str]()
    return Breaker(settings, clock, tell=told.append), clock, told


def opened() -> tuple[Breaker, FakeClock, list[str]]:
    breaker, clock, told = made()
    for _ in range(4):
        breaker.enter().failed(failure())
    assert breaker.state == "open"
    return breaker, clock, told


def refused(breaker: Breaker) -> float:
    with pytest.raises(BreakerOpen) as found:
        breaker.enter()
    return found.value.wait


def test_opens() -> None:
    """It opens when enough attempts were made and enough of them failed, and says when it can be asked again."""
    breaker, _, told = made()
    for _ in range(2):
        breaker.enter().worked()
    breaker.enter().failed(failure())
    assert breaker.state == "closed", "a third of three"
    breaker.enter().failed(failure("connect"))
    assert (breaker.state, told) == ("open", ["open"])
    with pytest.raises(BreakerOpen) as found:
        breaker.enter()
    assert (found.value.wait, found.value.cause.kind) == (5.0, "connect")


def test_few() -> None:
    """Less than `calls` attempts say nothing."""
    breaker, _, _ = made()
    for _ in range(3):
        breaker.enter().failed(failure())
    assert breaker.state == "closed"


def test_window() -> None:
    """What is older than the window is forgotten, a tenth of it at a time."""
    breaker, clock, told = made()
    for _ in range(3):
        breaker.enter().failed(failure())
    clock.advance(10)
    breaker.enter().failed(failure())
    clock.advance(9.9)
    breaker.enter().failed(failure())
    assert told == []
    for _ in range(2):
        breaker.enter().failed(failure())
    assert told == ["open"]


@pytest.mark.parametrize("kind", ["rate", "quota", "auth", "request", "context", "empty"])
def test_healthy(kind: str) -> None:
    """A server that says no is a server that answers."""
    assert kind not in SICK
    breaker, _, _ = made()
    for _ in range(20):
        breaker.enter().failed(failure(kind))
    assert breaker.state == "closed"


def test_left() -> None:
    """Attempts that the client left count as nothing, and each attempt counts once."""
    breaker, _, _ = made()
    for _ in range(20):
        breaker.enter().drop()
    leave = breaker.enter()
    for _ in range(20):
        leave.failed(failure())
    assert breaker.state == "closed"


def test_probe() -> None:
    """After `probe` seconds one call goes through, and one in each further `probe` seconds; a success closes it."""
    breaker, clock, told = opened()
    clock.advance(4)
    assert refused(breaker) == 1.0
    clock.advance(1)
    slow = breaker.enter()
    assert (breaker.state, refused(breaker)) == ("half-open", 5.0)
    clock.advance(5)
    breaker.enter().failed(failure())
    assert (breaker.state, refused(breaker)) == ("half-open", 5.0), "the slow one is still on its way"
    slow.worked()
    assert (breaker.state, told) == ("closed", ["open", "closed"])
    breaker.enter().worked()


def test_probe_left() -> None:
    """A probe whose client left was sent all the same: the next one waits for its time, however many clients come and go."""
    breaker, clock, _ = opened()
    clock.advance(5)
    breaker.enter().drop()
    assert (breaker.state, refused(breaker)) == ("open", 5.0)
    clock.advance(5)
    assert breaker.enter().probe


@pytest.mark.parametrize("how", ["left", "failed"])
def test_probes_overlap(how: str) -> None:
    """It is half-open until the last of its probes has ended, whatever became of the others."""
    breaker, clock, _ = opened()
    clock.advance(5)
    slow = breaker.enter()
    clock.advance(5)
    second = breaker.enter()
    if how == "left":
        second.drop()
    else:
        second.failed(failure())
    seen = [breaker.state]
    slow.drop()
    assert [*seen, breaker.state] == ["half-open", "open"]


@pytest.mark.parametrize("kind", ["rate", "quota", "auth", "request", "context", "empty"])
def test_probe_refused(kind: str) -> None:
    """A probe that is refused closes it: a server that says no is back."""
    breaker, clock, told = opened()
    clock.advance(5)
    breaker.enter().failed(failure(kind))
    assert told == ["open", "closed"]


def test_late() -> None:
    """What began before it opened says nothing any more when it ends."""
    breaker, clock, told = made()
    old: list[Permit] = [breaker.enter() for _ in range(10)]
    for leave in old[:4]:
        leave.failed(failure())
    old[4].worked()
    assert told == ["open"]
    clock.advance(5)
    breaker.enter().worked()
    for leave in old[5:]:
        leave.failed(failure())
    assert told == ["open", "closed"]


def test_off() -> None:
    """With `calls = 0` it never opens."""
    breaker, _, _ = made(BreakerSettings(calls=0))
    for _ in range(1000):
        breaker.enter().failed(failure())
    assert breaker.state == "closed"


class Patient:
    """An upstream that is dead, or alive, as it is told."""

    def __init__(self) -> None:
        self.dead, self.seen = True, 0

    async def __call__(self, connection: Connection) -> None:
        self.seen += 1
        if self.dead:
            await connection.answer(503, b'{"error": {"message": "down"}}')
        elif connection.body.get("stream"):
            await connection.stream("fine")


async def ask(served: Sidecar, times: int, *, at_once: int = 50) -> list[tuple[int, dict[str, str], bytes]]:
    gate = asyncio.Semaphore(at_once)

    async def one() -> tuple[int, dict[str, str], bytes]:
        async with gate:
            return await served.post("/v1/chat/completions", HI)

    return await asyncio.gather(*(one() for _ in range(times)))


@pytest.mark.anyio
async def test_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In an outage an upstream gets its calls until the breaker opens, then probes alone; it is back with the first."""
    up_is = Patient()
    caplog.set_level(logging.WARNING, logger="sidecar")
    async with upstream(up_is) as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nbreaker = {{ calls = 20, probe = 0.3 }}\n"
        text += "[[policy]]\nuse = 'retry'\nbase = 0.001\ncap = 0.001\n"
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            answers = await ask(served, 200)
            ready = json.loads((await served.get("/readyz"))[2])
            seen, up_is.dead = up_is.seen, False
            await eventually(lambda: served.gateway.upstream.states["upstream-1"] != "closed")
            async with asyncio.timeout(5):
                while (await served.post("/v1/chat/completions", HI))[0] != httpx.codes.OK:
                    await asyncio.sleep(0.01)  # between two looks, of which the timeout above bounds the number
            closed = json.loads((await served.get("/readyz"))[2])

    statuses = {status for status, _, _ in answers}
    assert statuses == {502, 503}
    assert seen < 100, "50 at once before it opens, their retries, some probes"
    unasked = next(each for each in answers if each[0] == 502)
    assert json.loads(unasked[2])["error"]["code"] == "upstream_unavailable"
    assert (unasked[1]["retry-after"], unasked[1]["x-should-retry"]) == ("1", "false")
    assert (ready["status"], ready["upstreams"], closed["upstreams"]) == (
        "ready",
        {"upstream-1": "open"},
        {"upstream-1": "closed"},
    )
    assert "the breaker of upstream-1 is now open" in caplog.text
    assert "the breaker of upstream-1 is now closed" in caplog.text


@pytest.mark.anyio
async def test_fallback(tmp_path: Path) -> None:
    """While one upstream's breaker is open, calls go to the next without asking it, and cost it no retry."""
    up_is = Patient()

    async def good(connection: Connection) -> None:
        await connection.stream("fine")

    async with upstream(up_is) as first, upstream(good) as second:
        text = f"[[upstream]]\nbase_url = '{first.url}'\nbreaker = {{ calls = 20, probe = 60 }}\n"
        text += f"[[upstream]]\nbase_url = '{second.url}'\n[[policy]]\nuse = 'fallback'\n"
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            answers = await ask(served, 200, at_once=10)

    assert {status for status, _, _ in answers} == {200}
    assert len(second.requests) == 200
    assert up_is.seen <= 30


@pytest.mark.anyio
@pytest.mark.parametrize("head", [False, True], ids=["before the head", "before the first token"])
async def test_deadline(tmp_path: Path, head: bool) -> None:  # noqa: FBT001  # a column
    """An upstream that says nothing until a call's deadline has failed; one whose client left has not."""

    async def hangs(connection: Connection) -> None:
        if head:
            await connection.send(HEAD)
        await connection.hang()

    async with upstream(hangs) as up:
        text = "[server]\nchat_deadline = 0.1\n"
        text += f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm'\nbreaker = {{ calls = 3 }}\n"
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(5):
                client = await served.client()
                await client.post("/v1/chat/completions", HI)
                await eventually(lambda: up.open > 0)
                client.close()
                await eventually(lambda: len(served.gateway.active_calls) == 0)
            left = dict(served.gateway.upstream.states)
            for _ in range(3):
                await served.post("/api/chat", CHAT)
            late = dict(served.gateway.upstream.states)

    assert (left, late) == ({"upstream-1": "closed"}, {"upstream-1": "open"})
