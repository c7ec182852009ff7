"""No request of a hostile client holds the event loop of a sidecar for long, whatever its body."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from hostile_bodies import floats
from hostile_requests import CASES, Case, Refusing, configuration
from probe import Probed, probed
from wire import Client, upstream

from sidecar.wire.request.json_body import json_object

pytestmark = pytest.mark.anyio

MOST_RUNS = 6
"""Runs of a case: other programs on the machine only add to its CPU time, so the least of them counts."""
REFERENCE_MS = 13.0
"""CPU time for the decoding of `floats`, on the machine whose limits are tested. On a slower one they grow with it."""


def test_table_has_at_least_100_cases() -> None:
    """The table of hostile requests has at least 100 cases, each with a unique name."""
    assert len({case.name for case in CASES}) == len(CASES) >= 100


async def test_no_request_holds_the_loop(tmp_path: Path) -> None:
    """No step of the loop takes more than 20 ms of CPU for a body of up to 1 MB, or 100 ms for a larger one.

    A body beyond a limit is refused, and the message names the limit.
    """
    too_long: list[str] = []
    wrong: list[str] = []
    script = Refusing()
    async with upstream(script) as up:
        (tmp_path / "s.toml").write_text(configuration(up.url))
        with probed("serve", "--config", "s.toml", "--port", "0", folder=tmp_path) as served:
            for case in CASES:
                body = case.body()
                limit = case.most_ms(len(body))
                best = math.inf
                for _ in range(MOST_RUNS):
                    script.refusal = case.refusal
                    status, answer = await sent(served, case, body)
                    up.requests.clear()
                    sample = served.sample()
                    best = min(best, sample.step_ms)
                    if best <= limit * slowness():
                        break
                else:
                    too_long.append(f"{case.name}: {best} ms, {sample.where}")
                if case.is_admitted not in (None, status == 200) or case.limit not in answer:
                    wrong.append(f"{case.name}: {status} {answer[:200]!r}")

    assert not too_long
    assert not wrong


async def sent(served: Probed, case: Case, body: bytes) -> tuple[int, str]:
    """Return status and body of the answer to the request of *case*."""
    client = await Client.to(served.port)
    try:
        await client.post(case.path, body, *case.headers)
        status, _, answer = await client.answer()
    finally:
        client.close()
    return status, answer.decode()


def slowness() -> float:
    """Return by what factor this machine is slower now than the one of `REFERENCE_MS`; at least 1."""
    begun = time.thread_time()
    json_object(floats())
    return max(1.0, (time.thread_time() - begun) * 1000 / REFERENCE_MS)
