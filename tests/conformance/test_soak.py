"""Thousands of failed and aborted calls leak nothing, and large prompts do not block the event loop.

`make soak` makes ten thousand calls, and more of the large prompts.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hostile import CASES, Case
from playing import plays
from probe import BLOCKED_SECONDS, probed
from process import program
from serving import CHAT, Sidecar, settings_of, sidecar
from wire import Client, Connection, eventually, upstream

from sidecar.upstream.transport.http_transport import HttpTransport

pytestmark = pytest.mark.anyio

CALLS = int(os.environ.get("SOAK", "400"))
AT_ONCE = 20
POLICIES = """
[[policy]]
use = "budget"
tokens = 9_000_000_000_000
[[policy]]
use = "retry"
base = 0.001
cap = 0.002
"""
LARGE_CASE_BYTES = 100_000
SMALL_CASES = [case for case in CASES if sum(map(len, case.pieces)) < LARGE_CASE_BYTES]


SERVE = ("serve", "--config", "s.toml", "--model", "mock", "--port", "0")
LIMITLESS = """
[[policy]]
use = "rate"
requests = 1_000_000
[[policy]]
use = "trim"
only = { path = "/api/chat" }
max_messages = 20
[[policy]]
use = "max_tokens"
output = 4096
request = 10_000_000
[[policy]]
use = "budget"
tokens = 9_000_000_000_000
[[policy]]
use = "retry"
"""
BLOCKING = """
import time

from policies import Call, Lease, Policy


def block():
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass


class Blocking(Lease):
    def on_event(self, event):
        block()
        return event


class Slow(Policy, frozen=True):
    how: str

    async def admit(self, call: Call):
        if self.how == "event":
            return Blocking()
        block()
"""


def open_files() -> int:
    """Return the number of open file descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class MixedUpstream:
    """An upstream that plays a random case of the table, or stops in a random phase of its answer."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, connection: Connection) -> None:
        case: Case = self._chance.choice(SMALL_CASES)
        kind = self._chance.random()
        if kind < 0.1:
            await connection.hang()
        elif kind < 0.3:
            await connection.send(case.pieces[0])
            await connection.hang()
        elif kind < 0.5:
            await connection.stream(*"abc", done=False)
            await connection.hang()
        else:
            await plays(case)(connection)
            connection.close()


async def one(served: Sidecar, chance: random.Random) -> None:
    """Make one call in a random form, and disconnect at a random moment in a random way."""
    client = await Client.to(served.port)
    path, body = chance.choice(
        [
            ("/api/chat", CHAT),
            ("/v1/chat/completions", {"model": "m", "stream": True, "max_tokens": 40, **CHAT}),
            ("/v1/chat/completions", {"model": "m", "max_tokens": 40, **CHAT}),
        ]
    )
    await client.post(path, body)
    seconds = chance.choice([0.0, 0.001, 0.01, 0.05, 0.2])
    try:
        async with asyncio.timeout(seconds):
            await client.answer()
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        pass
    chance.choice([client.close, client.reset])()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in Linux's /proc")
async def test_failures_and_aborts_leak_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After mixed failures and aborts no pooled connection in use, task, file descriptor or reservation is left."""
    transports: list[HttpTransport] = []

    def make_transport(**options: Any) -> HttpTransport:
        transports.append(HttpTransport(**options))
        return transports[-1]

    monkeypatch.setattr("sidecar.server.gateway.HttpTransport", make_transport)
    chance = random.Random(11)
    async with upstream(plays(CASES[0]), MixedUpstream(random.Random(12))) as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\nidle = 5\n" + POLICIES
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await one(served, chance)
            await eventually(lambda: len(served.gateway.active_calls) == 0)
            tasks, opened = len(asyncio.all_tasks()), open_files()
            gate = asyncio.Semaphore(AT_ONCE)

            async def guarded() -> None:
                async with gate:
                    await one(served, chance)

            await asyncio.gather(*(guarded() for _ in range(CALLS)))
            await eventually(lambda: len(served.gateway.active_calls) == 0)
            account = await served.account()
            (transport,) = transports
            await eventually(lambda: transport.open_count == transport.idle_count)
            await transport.aclose()
            await eventually(lambda: up.open == 0)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            gc.collect()
            await eventually(lambda: open_files() <= opened)

    assert (account.reserved, account.spent > 0) == (0, True)
    assert len(up.requests) >= CALLS / 2


LARGE_PROMPTS: dict[str, list[str]] = {
    "one message of 1 MB": ["The quick brown fox. " * 47_000],
    "one message of 1 MB, half of it no ASCII": ["Fünf süße Füchse, « allô », Ω! " * 25_000],
    "1,000 messages, 1 MB": ["The quick brown fox. " * 45] * 1000,
    "1,000 short messages": ["fox"] * 1000,
}
CALLS_PER_PROMPT = max(5, CALLS // 80)


@pytest.mark.parametrize(
    ("path", "stream"), [("/v1/chat/completions", True), ("/v1/chat/completions", False), ("/api/chat", True)]
)
async def test_large_prompt_does_not_block_the_loop(path: str, tmp_path: Path, *, stream: bool) -> None:
    """A prompt of 1 MB or of 1,000 messages blocks the event loop for at most 10 ms."""
    (tmp_path / "s.toml").write_text(LIMITLESS)
    with (
        program("mock", "--port", "0", "--tokens", "8", folder=tmp_path) as mock,
        probed(*SERVE, "--upstream", mock.url, folder=tmp_path) as served,
    ):
        for name, texts in LARGE_PROMPTS.items():
            messages = [{"role": "user", "content": text} for text in texts]
            body = json.dumps({"messages": messages, "stream": stream}, ensure_ascii=False).encode()
            turns = []
            for _ in range(CALLS_PER_PROMPT):
                client = await Client.to(served.port)
                await client.post(path, body)
                assert (await client.answer())[0] == 200, name
                client.close()
                sample = served.sample()
                turns.append(sample.turn_ms)
            print(f"{path} {name}: {min(turns)} to {max(turns)} ms")
            # The minimum is the work itself; other processes on the machine only add to it.
            assert min(turns) <= BLOCKED_SECONDS * 1000, (name, sample.where)


@pytest.mark.parametrize("how", ["admit", "event"])
async def test_probe_detects_a_blocked_loop(how: str, tmp_path: Path) -> None:
    """The probe reports a policy that blocks the loop for 20 ms, with its place: in a task, or in an event hook."""
    (tmp_path / "slow.py").write_text(BLOCKING)
    (tmp_path / "s.toml").write_text(f'[store]\nurl = "memory://"\n[[policy]]\nuse = "slow:Slow"\nhow = "{how}"\n')
    with (
        program("mock", "--port", "0", folder=tmp_path) as mock,
        probed(*SERVE, "--upstream", mock.url, folder=tmp_path) as served,
    ):
        client = await Client.to(served.port)
        await client.post("/v1/chat/completions", {"stream": True, "model": "mock-1-0-0", **CHAT})
        assert (await client.answer())[0] == 200
        client.close()
        sample = served.sample()

    assert sample.turn_ms >= 20
    assert sample.step_ms >= 20
    assert "block" in sample.where
