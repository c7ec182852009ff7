"""Delivery by the chain: from upstream, through the leases, to a client that may pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Self

import anyio
import openai
import pytest

from policies import Batch, Call, Chain, Event, Lease, Outcome, Policy, Stop, UpstreamError, Usage
from policies.testing import Hang, ScriptedUpstream, make_call, piece

pytestmark = pytest.mark.anyio

BROKEN = UpstreamError(openai.OpenAIError("cut"), "interrupted", worked=True)
TENANT: ContextVar[str] = ContextVar("TENANT")


class Client:
    """Takes *room* batches, then pauses until it is drained."""

    def __init__(self, room: int = 100) -> None:
        self.room, self.batches, self.drains = room, list[Batch](), 0

    @property
    def texts(self) -> list[str]:
        return [event.text for batch in self.batches for event in batch.events if not event.finish]

    def write_nowait(self, batch: Batch) -> bool:
        self.batches.append(batch)
        return len(self.batches) % self.room != 0

    async def drain(self) -> None:
        self.drains += 1


class Shouts(Policy, frozen=True):
    """Changes text to upper case, and stops at an exclamation mark."""

    async def admit(self, call: Call) -> Lease:
        return Loud()


class Loud(Lease):
    settled: list[Outcome] = []  # noqa: RUF012  # shared on purpose: the test reads it

    def on_event(self, event: Event) -> Event | None:
        if event.text == "!":
            raise Stop
        return event.with_text(event.text.upper()) if event.text else event

    async def settle(self, outcome: Outcome) -> None:
        self.settled.append(outcome)


class HoldsBack(Policy, frozen=True):
    """Delays each piece of text by one piece."""

    async def admit(self, call: Call) -> Lease:
        return Late()


class Late(Lease):
    def __init__(self) -> None:
        self.held = ""

    def on_event(self, event: Event) -> Event | None:
        if not event.text:
            return event
        held, self.held = self.held, event.text
        return event.with_text(held) if held else None

    def flush(self) -> list[Event]:
        held, self.held = self.held, ""
        return [piece(held)] if held else []


async def run(client: Client, *script: str | Hang | UpstreamError, policies: tuple[Policy, ...] = ()) -> None:
    """Run one call of *client* against an upstream that plays *script*."""
    call = make_call("hi")
    await Chain(policies, ScriptedUpstream(list(script)), call.services).run(call, client)


async def test_chain_waits_for_a_slow_client() -> None:
    """The chain waits for a client that pauses; it receives every batch, and the last one is marked."""
    client = Client(room=2)
    await run(client, "a", "b", "c", "d", "e")

    assert (client.texts, client.drains) == (["a", "b", "c", "d", "e"], 2)
    assert [batch.last for batch in client.batches] == [False] * 5 + [True]


async def test_leases_change_and_stop_the_delivery() -> None:
    """Leases change delivered text, and stop the delivery, which settles the call once."""
    Loud.settled.clear()
    client = Client()
    await run(client, "a", "b", "!", "c", policies=(Shouts(name="s"),))

    assert client.texts == ["A", "B"]
    assert [event.finish for event in client.batches[-1].events] == ["content_filter"]
    assert len(Loud.settled) == 1


@pytest.mark.parametrize("room", [1, 2, 100])
async def test_broken_stream_flushes_held_text(room: int) -> None:
    """Text that a lease holds back reaches the client when the stream breaks, through the leases in front of it."""
    client = Client(room)
    with pytest.raises(UpstreamError):
        await run(client, "a", "b", "c", BROKEN, policies=(Shouts(name="s"), HoldsBack(name="h")))

    assert "".join(client.texts) == "ABC"
    assert not any(batch.last for batch in client.batches)


async def test_cancelled_call_flushes_held_text() -> None:
    """Text that a lease holds back reaches the client when the call is cancelled, for example by its deadline."""
    client, hang = Client(), Hang()
    async with anyio.create_task_group() as group:

        async def serve() -> None:
            await run(client, "a", "b", hang, policies=(HoldsBack(name="h"),))

        group.start_soon(serve)
        await hang.reached.wait()
        group.cancel_scope.cancel()

    assert client.texts == ["a", "b"]


async def test_nothing_is_flushed_before_output() -> None:
    """An attempt that fails before its first output flushes nothing, because the next attempt starts again."""
    client = Client()
    with pytest.raises(UpstreamError):
        await run(client, BROKEN, policies=(HoldsBack(name="h"),))

    assert client.batches == []


class Names(Policy, frozen=True):
    """Records the tenant in whose context each event is filtered."""

    async def admit(self, call: Call) -> Lease:
        TENANT.set(call.tenant)
        return Naming()


class Naming(Lease):
    seen: list[str] = []  # noqa: RUF012  # shared on purpose: the test reads it

    def on_event(self, event: Event) -> Event | None:
        self.seen.append(TENANT.get("none"))
        return event


async def test_leases_run_in_the_context_of_their_call() -> None:
    """Leases run in the context of their own call, also if upstream's bytes arrive in another one."""
    Naming.seen.clear()
    call = make_call("hi", tenant="acme")
    upstream = FromAnotherContext(["a", "b"])
    await asyncio.create_task(Chain([Names(name="n")], upstream, call.services).run(call, Client()))

    assert set(Naming.seen) == {"acme"}


class FromAnotherContext:
    """Delivers each text from a callback whose context belongs to another tenant."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        TENANT.set("other")

    def open(self, call: Call, name: str | None = None) -> Callbacks:
        return Callbacks(self._texts, copy_context())

    async def choose(self, call: Call) -> str:
        return call.services.upstreams[0]

    def another(self, call: Call, tried: Sequence[str]) -> str | None:
        return None


class Callbacks:
    """The attempt of `FromAnotherContext`."""

    usage = Usage(output=1)
    has_finished = False

    def __init__(self, texts: list[str], context: Context) -> None:
        self._texts, self._context = texts, context

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def arrive() -> None:
            if self._texts:
                event = piece(self._texts.pop(0))
                to(Batch(events=[event], raw=event.raw))
                loop.call_soon(arrive, context=self._context)
            else:
                end = piece("", finish="stop")
                to(Batch(events=[end], raw=end.raw, last=True))
                done.set()

        loop.call_soon(arrive, context=self._context)
        await done.wait()
