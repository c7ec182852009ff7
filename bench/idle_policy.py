"""What a policy costs per event that does not look at events: a chain with five of them, beside a chain without any."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Self

from policies import Call, Lease, Policy
from policies.api.event import Batch
from policies.api.usage import Usage
from policies.engine.chain import Chain
from policies.testing import make_call, make_services, piece

POLICIES, EVENTS = 5, 50_000


class Idle(Policy, frozen=True):
    """Holds a lease through the whole call, and looks at nothing."""

    async def admit(self, call: Call) -> Lease:
        """Return a lease that overrides no hook of events."""
        return Lease()


class Ready:
    """An upstream, and its only attempt, whose events are all there already."""

    def __init__(self) -> None:
        event = piece(" tok")
        self._batch, self._left = Batch(events=[event], raw=event.raw), EVENTS
        self.usage = Usage()

    def open(self, call: Call, name: str | None = None) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        self._left -= 1
        return self._batch if self._left else Batch(events=[], last=True)


async def _emit(_: Batch) -> None:
    return


async def _measured(times: int) -> float:
    services = make_services()

    async def cost(count: int) -> int:
        chain = Chain([Idle(name=f"idle-{at}") for at in range(count)], Ready(), services)
        call = make_call("hi", services=services)
        begun = time.process_time_ns()
        await chain.run(call, _emit)
        return time.process_time_ns() - begun

    more = []
    for at in range(times + 1):
        # In turn first and second, so that whatever goes one way in time falls out.
        first, second = (0, POLICIES) if at % 2 else (POLICIES, 0)
        costs = {first: await cost(first), second: await cost(second)}
        more.append((costs[POLICIES] - costs[0]) / EVENTS / POLICIES)
    return statistics.median(more[1:])


def idle_policy(times: int) -> float:
    """Return nanoseconds of CPU per event and policy, the median of *times*; what is left is noise where it is nothing."""
    return round(max(0.0, asyncio.run(_measured(times))), 1)
