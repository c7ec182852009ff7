"""Corrections of budgets by another process, and changed limits, as clients and the log of running sidecars see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from process import Program, program, ran
from redis_server import RedisServer, with_own_prefix
from scripts import hello
from serving import settings_of, sidecar
from wire import Client, Upstream, eventually, upstream

from policies.api.claim import Claim
from policies.api.store import CorrectableStore
from policies.api.window import Calendar

pytestmark = pytest.mark.anyio

V1, USAGE = "/v1/chat/completions", "/v1/usage"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 60}
CONFIG = '[[policy]]\nuse = "budget"\ntokens = 70\nfloor = 20\n'


def store_url(kind: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a store of this *kind* for one test."""
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return with_own_prefix(server.url)
    return {"memory": "memory://", "sqlite": "sqlite:///counters.db"}[kind]


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_granted_room_is_shown_to_clients(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """After a grant, `GET /v1/usage`, the headers and refusals show the room beyond the limit, and a larger call fits."""
    text = f'[store]\nurl = "{store_url(kind, request)}"\n{CONFIG}'
    large = HI | {"max_tokens": 200, "messages": [{"role": "user", "content": "word " * 100}]}
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        assert (await served.post(V1, large))[0] == 429
        store = served.gateway.policy_services.store
        assert isinstance(store, CorrectableStore)
        claim = Claim(policy="budget", identity="default", unit="tokens", limit=70, window=Calendar("day"), base=0)
        await store.correct([claim], 1_000, "granted for a test")

        _, _, body = await served.get(USAGE)
        (limit,) = json.loads(body)["limits"]
        assert (limit["limit"], limit["spent"], limit["held"], limit["left"]) == (70, -1_000, 0, 1_070)
        status, headers, _ = await served.post(V1, large)
        assert status == 200
        assert int(headers["x-ratelimit-limit-tokens"]) == 70 < int(headers["x-ratelimit-remaining-tokens"]) < 1_070
        status, headers, body = await served.post(V1, {**HI, "messages": [{"role": "user", "content": "w " * 9_000}]})
        error = json.loads(body)["error"]
        assert (status, error["case"], error["used"] < 0) == (429, "never_fits", True)
        assert "more than the whole limit and the " in error["message"]


async def status_of(running: Program) -> int:
    client = await Client.to(running.port)
    try:
        await client.post(V1, HI)
        return (await client.answer())[0]
    finally:
        client.close()


def served(up: Upstream, folder: Path, *flags: str, log: Path) -> Any:
    (folder / "s.toml").exists() or (folder / "s.toml").write_text(CONFIG)
    arguments = ("serve", "--config", "s.toml", "--upstream", up.url, "--model", "m", "--port", "0", *flags)
    return program(*arguments, folder=folder, log=log)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_running_sidecars_follow_a_correction(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """A reset by another process admits the next call, and each worker logs the note at its next heartbeat."""
    url, log = store_url(kind, request), tmp_path / "log"
    store = ("--store", url)
    async with upstream(hello) as up:
        with served(up, tmp_path, "--workers", "2", *store, log=log) as running:
            while await status_of(running) == 200:
                pass
            code, out, err = ran(
                "budget", "reset", "--config", "s.toml", "--tenant", "default", *store, folder=tmp_path
            )
            assert (code, "budget  default  day     70" in out) == (0, True), err
            assert await status_of(running) == 200
            code, _, err = ran("budget", "grant", "--config", "s.toml", "--tenant", "default", "--tokens", "500", *store, folder=tmp_path)  # fmt: skip
            assert code == 0, err
            assert [await status_of(running) for _ in range(3)] == [200] * 3
            notes = ("budget 'budget' of tenant 'default' was reset: ", "was granted 500 tokens, by the command line")
            await eventually(lambda: all(log.read_text().count(note) == 2 for note in notes))
            lines = [line for line in log.read_text().splitlines() if notes[0] in line]
            assert {line.partition("worker=")[2] for line in lines} == {str(pid) for pid in running.workers}
            assert all(" WARNING log logger=sidecar.store " in line for line in lines)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_changed_limit_is_logged_once(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """A start with a changed time zone logs one line for all workers; the first start and an unchanged one log none."""
    url, log = store_url(kind, request), tmp_path / "log"
    changed = "limit 'budget' has changed its window from day@UTC to day@Asia/Tokyo: it counts anew from now"
    texts: Mapping[str, int] = {CONFIG: 0, f'{CONFIG}timezone = "Asia/Tokyo"\n': 1, f'{CONFIG}timezone = "Asia/Tokyo"\nanswer = 9\n': 0}  # fmt: skip
    async with upstream(hello) as up:
        for text, count in texts.items():
            (tmp_path / "s.toml").write_text(text)
            with served(up, tmp_path, "--workers", "2", "--store", url, log=log) as running:
                assert await status_of(running) == 200
                if count:
                    await eventually(lambda: changed in log.read_text())
                assert running.stop() == 0
            assert log.read_text().count("limit 'budget'") == count
