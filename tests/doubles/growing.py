"""Streams without a ceiling, and a store whose answers about further parts a test controls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from policies import Batch, Budget, Call, Claim, Grant, Rejection
from policies.engine.chain import Chain
from policies.stores.memory import MemoryStore
from policies.testing import (
    CollectingSink,
    FakeClock,
    Hang,
    ScriptedStream,
    ScriptedUpstream,
    Served,
    Step,
    make_call,
    make_services,
    serve,
)

PROMPT = 5
"""Estimated tokens of the prompt "hi"."""


class PartStore(MemoryStore):
    """A store in memory. Parts after the first wait for `answers` and fail while `failure` is set."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.answers = anyio.Event()
        self.answers.set()
        self.failure: Exception | None = None
        self.asked = anyio.Event()
        self.ceilings: list[int] = []
        """Of each grant, the first included."""
        self.most_held = 0

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        if part:
            self.asked.set()
            await self.answers.wait()
            if self.failure is not None:
                raise self.failure
        grant = await super().reserve(call_id, claims, ceiling, part)
        if grant.refused is None:
            self.ceilings.append(grant.ceiling)
        self.most_held = max([self.most_held, *(account.reserved for account in await self.accounts())])
        return grant

    async def totals(self) -> tuple[int, int]:
        """Return what is spent and reserved in the only counter."""
        (account,) = await self.accounts()
        return account.spent, account.reserved


def budget(tokens: int, *, answer: int = 20, floor: int = 4, **more: object) -> Budget:
    """Return a budget whose streams grow by *answer* tokens at a time."""
    return Budget(name="b", tokens=tokens, answer=answer, floor=floor, **more)  # type: ignore[arg-type]  # any option


class Gate(Hang):
    """A step of a script at which upstream sends nothing until `opened` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = anyio.Event()


class GatedUpstream(ScriptedUpstream):
    """A `ScriptedUpstream` whose scripts may have gates."""

    def open(self, call: Call, name: str | None = None) -> ScriptedStream:
        """Return the next attempt."""
        opened = super().open(call, name)
        opened.__class__ = _GatedStream
        return opened


class _GatedStream(ScriptedStream):
    async def _play(self, step: Step) -> Batch:
        if isinstance(step, Gate):
            step.reached.set()
            await step.opened.wait()
            return Batch(events=[])
        return await super()._play(step)


@asynccontextmanager
async def running(call: Call, policy: Budget, *script: Step) -> AsyncIterator[Served]:
    """Run *call* through *policy* while the block runs; cancel it at the end if it still runs."""
    served = Served([])
    chain = Chain([policy], GatedUpstream(script), call.services)

    async def run() -> None:
        try:
            served.outcome = await chain.run(call, CollectingSink(served.batches))
        except Rejection as rejection:
            served.rejection = rejection

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        yield served
        group.cancel_scope.cancel()


async def streamed(store: PartStore, clock: FakeClock, policy: Budget, *script: Step, **body: object) -> Served:
    """Return the result of one stream of *script* without a ceiling; each text is one token."""
    call = make_call("hi", services=make_services(clock=clock, store=store), body=body)
    return await serve([policy], call, GatedUpstream(script))


def finish_of(served: Served) -> str | None:
    """Return the finish of the answer."""
    return served.batches[-1].events[-1].finish
