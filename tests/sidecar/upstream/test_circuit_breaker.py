"""The circuit breaker: when it opens, what it lets through and when it closes, alone and with real sockets."""

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
from sidecar.upstream.circuit_breaker import UNHEALTHY_KINDS, Breaker, BreakerOpen, Change, Permit

QUICK = BreakerSettings(calls=4, rate=0.5, window=10, probe=5)
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}


def failure(kind: str = "server") -> UpstreamError:
    return UpstreamError(RuntimeError("boom"), kind)


class OneTenant:
    """The breaker as one tenant with one model uses it, and the states that it reports."""

    def __init__(self, settings: BreakerSettings = QUICK) -> None:
        self.clock, self.changes = FakeClock(), list[Change]()
        self.breaker = Breaker(settings, self.clock, on_change=self.changes.append)

    @property
    def state(self) -> str:
        return self.breaker.state

    @property
    def states(self) -> list[str]:
        return [change.state for change in self.changes]

    def enter(self) -> Permit:
        return self.breaker.enter("t", "m")


def made(settings: BreakerSettings = QUICK) -> tuple[OneTenant, FakeClock]:
    breaker = OneTenant(settings)
    return breaker, breaker.clock


def opened() -> tuple[OneTenant, FakeClock]:
    breaker, clock = made()
    for _ in range(4):
        breaker.enter().failed(failure())
    assert breaker.state == "open"
    return breaker, clock


def refused(breaker: OneTenant) -> float:
    with pytest.raises(BreakerOpen) as found:
        breaker.enter()
    return found.value.wait


def test_opens_above_the_failure_rate() -> None:
    """It opens at a failure rate of `rate` over at least `calls` attempts, and names the time of the next probe."""
    breaker, _ = made()
    for _ in range(2):
        breaker.enter().succeeded()
    breaker.enter().failed(failure())
    assert breaker.state == "closed", "a third of three"
    breaker.enter().failed(failure("overloaded"))
    assert (breaker.state, breaker.states) == ("open", ["open"])
    with pytest.raises(BreakerOpen) as found:
        breaker.enter()
    assert (found.value.wait, found.value.cause.kind) == (5.0, "overloaded")


def test_refusals_are_known_without_an_attempt() -> None:
    """`refuses` tells what `enter` would do, and takes no probe from the attempts that are made."""
    breaker, clock = opened()
    ask = breaker.breaker
    assert (ask.refuses("t", "m"), ask.refuses("t", "other"), made()[0].breaker.refuses("t", "m")) == (
        True,
        False,
        False,
    )
    clock.advance(5)
    assert not any(ask.refuses("t", "m") for _ in range(3))
    breaker.enter()
    assert ask.refuses("t", "m")


def test_few_attempts_do_not_open() -> None:
    """Fewer than `calls` attempts never open it."""
    breaker, _ = made()
    for _ in range(3):
        breaker.enter().failed(failure())
    assert breaker.state == "closed"


def test_window_slides() -> None:
    """Results older than the window are dropped, a tenth of the window at a time."""
    breaker, clock = made()
    for _ in range(3):
        breaker.enter().failed(failure())
    clock.advance(10)
    breaker.enter().failed(failure())
    clock.advance(9.9)
    breaker.enter().failed(failure())
    assert breaker.states == []
    for _ in range(2):
        breaker.enter().failed(failure())
    assert breaker.states == ["open"]


@pytest.mark.parametrize("kind", ["rate", "quota", "auth", "request", "context", "empty"])
def test_refusals_do_not_open(kind: str) -> None:
    """Refusals never open it: a server that refuses is a server that answers."""
    assert kind not in UNHEALTHY_KINDS
    breaker, _ = made()
    for _ in range(20):
        breaker.enter().failed(failure(kind))
    assert breaker.state == "closed"


def test_released_permits_do_not_count() -> None:
    """Attempts cancelled by the client do not count, and each attempt counts once."""
    breaker, _ = made()
    for _ in range(20):
        breaker.enter().release()
    permit = breaker.enter()
    for _ in range(20):
        permit.failed(failure())
    assert breaker.state == "closed"


def test_probe_closes() -> None:
    """One call is let through after each `probe` seconds; a success closes the breaker."""
    breaker, clock = opened()
    clock.advance(4)
    assert refused(breaker) == 1.0
    clock.advance(1)
    slow = breaker.enter()
    assert (breaker.state, refused(breaker)) == ("half-open", 5.0)
    clock.advance(5)
    breaker.enter().failed(failure())
    assert (breaker.state, refused(breaker)) == ("half-open", 5.0), "the slow one is still running"
    slow.succeeded()
    assert (breaker.state, breaker.states) == ("closed", ["open", "closed"])
    breaker.enter().succeeded()


def test_released_probe_delays_the_next() -> None:
    """After a probe that the client cancelled, the next one still waits `probe` seconds."""
    breaker, clock = opened()
    clock.advance(5)
    breaker.enter().release()
    assert (breaker.state, refused(breaker)) == ("open", 5.0)
    clock.advance(5)
    assert breaker.enter().probes


def test_counts_begin_anew_after_closing() -> None:
    """Failures from before the breaker closed do not count any more."""
    breaker, clock = opened()
    clock.advance(5)
    breaker.enter().succeeded()
    for _ in range(3):
        breaker.enter().failed(failure())
    assert breaker.state == "closed"
    breaker.enter().failed(failure())
    assert breaker.state == "open"


@pytest.mark.parametrize("how", ["released", "failed"])
def test_probes_overlap(how: str) -> None:
    """It is half-open until the last of its probes has ended."""
    breaker, clock = opened()
    clock.advance(5)
    slow = breaker.enter()
    clock.advance(5)
    second = breaker.enter()
    if how == "released":
        second.release()
    else:
        second.failed(failure())
    seen = [breaker.state]
    slow.release()
    assert [*seen, breaker.state] == ["half-open", "open"]


@pytest.mark.parametrize("kind", ["rate", "quota", "auth", "request", "context", "empty"])
def test_refused_probe_closes(kind: str) -> None:
    """A probe that is refused closes it: the server answers again."""
    breaker, clock = opened()
    clock.advance(5)
    breaker.enter().failed(failure(kind))
    assert breaker.states == ["open", "closed"]


def test_results_from_before_a_change_are_ignored() -> None:
    """The result of an attempt that started before the breaker opened is ignored."""
    breaker, clock = made()
    old: list[Permit] = [breaker.enter() for _ in range(10)]
    for permit in old[:4]:
        permit.failed(failure())
    old[4].succeeded()
    assert breaker.states == ["open"]
    clock.advance(5)
    breaker.enter().succeeded()
    for permit in old[5:]:
        permit.failed(failure())
    assert breaker.states == ["open", "closed"]


def test_zero_calls_disable_it() -> None:
    """With `calls = 0` it never opens."""
    breaker, _ = made(BreakerSettings(calls=0))
    for _ in range(1000):
        breaker.enter().failed(failure())
    assert breaker.state == "closed"


class SwitchableUpstream:
    """An upstream that answers 503 while `dead` is set."""

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
async def test_outage_opens_the_breaker_until_a_probe_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In an outage an upstream gets calls until the breaker opens, then only probes; the first success closes it."""
    switch = SwitchableUpstream()
    caplog.set_level(logging.WARNING, logger="sidecar")
    async with upstream(switch) as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nbreaker = {{ calls = 20, probe = 0.3 }}\n"
        text += "[[policy]]\nuse = 'retry'\nbase = 0.001\ncap = 0.001\n"
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            answers = await ask(served, 200)
            ready = json.loads((await served.get("/readyz"))[2])
            seen, switch.dead = switch.seen, False
            await eventually(lambda: served.gateway.upstream.states["upstream-1"] != "closed")
            async with asyncio.timeout(5):
                while (await served.post("/v1/chat/completions", HI))[0] != httpx.codes.OK:
                    await asyncio.sleep(0.01)  # between two polls, bounded by the timeout above
            closed = json.loads((await served.get("/readyz"))[2])

    statuses = {status for status, _, _ in answers}
    assert statuses == {502, 503}
    assert seen < 100, "50 at once before it opens, their retries, some probes"
    unasked = next(each for each in answers if each[0] == 502)
    assert json.loads(unasked[2])["error"]["code"] == "upstream_unavailable"
    assert (unasked[1]["retry-after"], "x-should-retry" in unasked[1]) == ("1", False), (
        "an SDK may retry after the probe"
    )
    assert (ready["status"], ready["upstreams"], closed["upstreams"]) == (
        "ready",
        {"upstream-1": "failing"},
        {"upstream-1": "ok"},
    )
    assert "breaker upstream-1 model m tenant default is open" in caplog.text
    assert "breaker upstream-1 model m tenant default is closed" in caplog.text


@pytest.mark.anyio
async def test_open_breaker_sends_calls_to_the_next_upstream(tmp_path: Path) -> None:
    """While one upstream's breaker is open, calls go to the next one without a request to it and without a retry."""
    switch = SwitchableUpstream()

    async def good(connection: Connection) -> None:
        await connection.stream("fine")

    async with upstream(switch) as first, upstream(good) as second:
        text = f"[[upstream]]\nbase_url = '{first.url}'\nbreaker = {{ calls = 20, probe = 60 }}\n"
        text += f"[[upstream]]\nbase_url = '{second.url}'\n[[policy]]\nuse = 'fallback'\n"
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            answers = await ask(served, 200, at_once=10)

    assert {status for status, _, _ in answers} == {200}
    assert len(second.requests) == 200
    assert switch.seen <= 30


@pytest.mark.anyio
@pytest.mark.parametrize("head", [False, True], ids=["before the head", "before the first token"])
async def test_deadline_counts_as_a_failure(tmp_path: Path, head: bool) -> None:  # noqa: FBT001  # a column
    """An upstream without an answer until the call's deadline counts as failed; one whose client left does not."""

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
