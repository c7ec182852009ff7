"""Policies of a deployment in the running sidecar: one running object each, and no private data in the log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_keys import key
from places import ROOT
from scripts import hello
from serving import settings_of, sidecar
from wire import Connection, eventually, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
PROMPT, KEY = "my password is hunter2", "sk-client-secret"
CALL = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
LIMITS = "limits = { rate = { requests = 9 } }"
WRONG = """
from policies import Call, Lease, Outcome, Policy


class Revealing:
    def __init__(self, call): self.call = call
    def __repr__(self): return repr(self.call)


class WrongLease(Policy, frozen=True):
    async def admit(self, call: Call): return Revealing(call)


class Failing(Revealing, Lease):
    async def settle(self, outcome: Outcome): raise ValueError(self.call.text)


class FailingLease(Policy, frozen=True):
    async def admit(self, call: Call): return Failing(call)
"""


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the modules that a test imported."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("concurrency", "wrong_policies"):
            del sys.modules[name]


async def test_keys_and_profiles_share_one_running_policy(tmp_path: Path) -> None:
    """A concurrency limit of 2 is 2, however many keys with limits of their own and profiles there are."""
    (tmp_path / "concurrency.py").write_text((ROOT / "examples" / "concurrency.py").read_text())
    text = '[[policy]]\nuse = "rate"\nrequests = 9\n[[policy]]\nuse = "concurrency:Concurrency"\nlimit = 2\n'
    text += key("secret-a", "a", LIMITS) + key("secret-b", "b", LIMITS) + "[profile.calm]\ntemperature = 0.5\n"
    release = asyncio.Event()

    async def held(connection: Connection) -> None:
        await release.wait()
        await connection.stream("hi")

    async with upstream(held) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        assert len(served.gateway.chains) > 2
        calls = [
            asyncio.create_task(served.post(V1, CALL, f"authorization: Bearer secret-{tenant}", *profile))
            for tenant in "ab"
            for profile in ([], ["x-profile: calm"])
        ]
        await eventually(lambda: len(served.gateway.active_calls) == 4 and len(up.requests) == 2)
        await asyncio.sleep(0)  # one more iteration: a third request would be sent by now
        assert len(up.requests) == 2
        release.set()
        assert [(await call)[0] for call in calls] == [200] * 4


@pytest.mark.parametrize(("policy", "status"), [("WrongLease", 500), ("FailingLease", 200)])
async def test_log_holds_no_prompt_and_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: str, status: int
) -> None:
    """A wrong object from `admit`, and a lease that fails, are logged by class, without the prompt and the key."""
    (tmp_path / "wrong_policies.py").write_text(WRONG)
    text = f'[[policy]]\nuse = "wrong_policies:{policy}"\n'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        found, _, body = await served.post(V1, CALL, f"authorization: Bearer {KEY}")

    assert found == status
    assert {"WrongLease": "WrongLease.admit returned a Revealing", "FailingLease": "Failing.settle failed"}[
        policy
    ] in caplog.text
    for text in (caplog.text, body.decode()):
        assert "hunter2" not in text
        assert KEY not in text
