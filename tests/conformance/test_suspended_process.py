"""A process that is suspended for longer than the grace period, on the stores that processes share."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from growing import Gate, GatedUpstream, budget
from redis_server import with_own_prefix

from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.stores.opening import open_store
from policies.testing import CollectingSink, FakeClock, make_call, make_services

pytestmark = pytest.mark.anyio

STREAMS, PROMPT_TOKENS, TOKENS_BEFORE, TOKENS_AFTER = 48, 5, 25, 30
SUSPENDED_SECONDS = 33.0
"""Longer than the 30 seconds after which a process without heartbeats counts as dead."""


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_suspended_process_settles_its_own_calls(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Another process charges its streams in full meanwhile; when it wakes, they go on and are charged what they used."""
    url = with_own_prefix(request.getfixturevalue("redis").url) if kind == "redis" else "sqlite:///s.db"
    clock = FakeClock()
    own, other = (open_store(url, folder=tmp_path, clock=clock) for _ in range(2))
    services = make_services(clock=clock, store=own)
    policy, ledger, gates = budget(10_000_000, answer=2_048), Ledger(services), [Gate() for _ in range(STREAMS)]
    await own.heartbeat()
    async with anyio.create_task_group() as group:
        for gate in gates:
            upstream = GatedUpstream([*["x"] * TOKENS_BEFORE, gate, *["x"] * TOKENS_AFTER])
            chain = Chain([policy], upstream, services, ledger=ledger)
            group.start_soon(chain.run, make_call("hi", services=services), CollectingSink([]))
        for gate in gates:
            await gate.reached.wait()
        clock.advance(SUSPENDED_SECONDS)
        await other.heartbeat()
        (charged,) = await other.accounts()
        for gate in gates:
            gate.opened.set()
    await own.heartbeat()
    (account,) = await own.accounts()
    await own.aclose()
    await other.aclose()

    used = STREAMS * (PROMPT_TOKENS + TOKENS_BEFORE + TOKENS_AFTER)
    print(f"\n{kind}: used {used}, charged while it was suspended {charged.spent}, at the end {account.spent}")
    assert (charged.spent, charged.reserved) == (STREAMS * (PROMPT_TOKENS + 2_048), 0)
    assert (account.spent, account.reserved, ledger.pending_settlements) == (used, 0, 0)
