"""Measure the cost per event of policies without event hooks: a chain with five of them against an empty one."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Self

from policies import Call, Lease, Policy
from policies.api.event import Batch
from policies.api.usage import Usage
from policies.engine.chain import Chain
from policies.testing import make_call, make_services, piece

POLICY_COUNT, EVENT_COUNT = 5, 50_000


class Idle(Policy, frozen=True):
    """A policy whose lease overrides no hook."""

    async def admit(self, call: Call) -> Lease:
        """Return a lease without event hooks."""
        return Lease()


class Ready:
    """An upstream and its only attempt, whose events are all available at once."""

    def __init__(self) -> None:
        event = piece(" tok")
        self._batch = Batch(events=[event], raw=event.raw)
        self.usage, self.has_finished = Usage(), False

    def open(self, call: Call, name: str | None = None) -> Self:
        return self

    async def choose(self, call: Call) -> str:
        return call.services.upstreams[0]

    def another(self, call: Call, tried: Sequence[str]) -> str | None:
        return None

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        for _ in range(EVENT_COUNT):
            to(self._batch)
        to(Batch(events=[], last=True))


class _Client:
    """A client that discards all batches."""

    def write_nowait(self, batch: Batch) -> bool:
        return True

    async def drain(self) -> None:
        return


async def _measured(times: int) -> float:
    services = make_services()

    async def cost(count: int) -> int:
        chain = Chain([Idle(name=f"idle-{at}") for at in range(count)], Ready(), services)
        call = make_call("hi", services=services)
        begun = time.process_time_ns()
        await chain.run(call, _Client())
        return time.process_time_ns() - begun

    more = []
    for at in range(times + 1):
        # The order alternates, so that a trend over time cancels out.
        first, second = (0, POLICY_COUNT) if at % 2 else (POLICY_COUNT, 0)
        costs = {first: await cost(first), second: await cost(second)}
        more.append((costs[POLICY_COUNT] - costs[0]) / EVENT_COUNT / POLICY_COUNT)
    return statistics.median(more[1:])


def idle_policy(times: int) -> float:
    """Return nanoseconds of CPU per event and policy, the median of *times* runs; a value near 0 is noise."""
    return round(max(0.0, asyncio.run(_measured(times))), 1)
