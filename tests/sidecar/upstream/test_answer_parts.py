"""Large and compressed reads of an answer are delivered in parts, between which the event loop runs."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Generator
from typing import Self

import pytest
from chunks import delta, sse
from scripted_body import ScriptedResponse, body_of

from policies.api.event import Batch
from policies.api.upstream import UpstreamError
from sidecar.upstream.read_parts import MAX_PART_BYTES, in_steps, parts_of
from sidecar.wire.decoding.repair import MAX_REPAIRED_BYTES

pytestmark = pytest.mark.anyio

TOKEN, STOP, DONE = sse(delta(content="a")), sse(delta(finish="stop")), b"data: [DONE]\n\n"


class Turns:
    """Counts the iterations of the event loop while a task runs."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


def test_parts_are_all_of_a_read() -> None:
    """The parts of a read are at most 16 kB each, and together the read."""
    data = bytes(range(256)) * 1_000
    parts = list(parts_of(data))

    assert b"".join(parts) == data
    assert max(map(len, parts)) == MAX_PART_BYTES


async def test_other_tasks_run_between_steps() -> None:
    """`in_steps` returns the result, and yields to the event loop once per step."""

    def steps() -> Generator[None, None, int]:
        for _ in range(7):
            yield
        return 3

    async with Turns() as turns:
        assert await in_steps(steps()) == 3
    assert turns.count >= 7


async def delivered(*reads: bytes, coding: bytes = b"") -> tuple[list[Batch], int]:
    """Return the batches of an answer that arrives in *reads*, and the iterations that they took."""
    answer = ScriptedResponse()
    if coding:
        answer.fields = [*answer.fields, (b"content-encoding", coding)]
    body, _ = body_of(answer)
    batches: list[Batch] = []

    def to(batch: Batch) -> bool:
        batches.append(batch)
        return True

    async with Turns() as turns:
        delivering = asyncio.create_task(body.deliver(to))
        for read in reads:
            await asyncio.sleep(0)
            answer.arrive(read)
        answer.arrive(b"")
        await delivering
    return batches, turns.count


@pytest.mark.parametrize("count", [10, 5_000])
async def test_large_read_gives_the_same_events(count: int) -> None:
    """A read of any size gives its events in order; a large one in several batches and iterations."""
    stream = TOKEN * count + STOP + DONE
    batches, turns = await delivered(stream)

    assert b"".join(batch.raw for batch in batches) == TOKEN * count + STOP
    assert [event.text for batch in batches for event in batch.events] == ["a"] * count + [""]
    assert batches[-1].last
    assert max(len(batch.raw) for batch in batches) <= MAX_PART_BYTES + len(TOKEN)
    assert turns >= len(stream) // MAX_PART_BYTES


async def test_compressed_read_gives_the_same_events() -> None:
    """A compressed read is inflated in parts: 10 kB of gzip hold 1 MB."""
    stream = TOKEN * 12_000 + STOP + DONE
    packed = gzip.compress(stream)
    batches, turns = await delivered(packed[:1_000], packed[1_000:], coding=b"gzip")

    assert len(packed) < len(stream) // 100
    assert b"".join(batch.raw for batch in batches) == TOKEN * 12_000 + STOP
    assert turns >= len(stream) // MAX_PART_BYTES


async def test_large_event_in_small_reads_is_delivered_once() -> None:
    """A large event that arrives in small reads is delivered once, with what follows it."""
    large = sse(delta(content="x" * (2 * MAX_REPAIRED_BYTES)))
    stream = TOKEN + large + TOKEN + STOP + DONE
    reads = [stream[at : at + 20_000] for at in range(0, len(stream), 20_000)]
    batches, _ = await delivered(*reads)

    assert b"".join(batch.raw for batch in batches) == TOKEN + large + TOKEN + STOP


async def test_delivery_goes_on_where_a_slow_client_stopped_it() -> None:
    """A client that is slow in the middle of a large read gets the rest of it later."""
    answer = ScriptedResponse()
    body, _ = body_of(answer)
    answer.arrive(TOKEN * 5_000 + STOP + DONE)
    batches: list[Batch] = []

    def to(batch: Batch) -> bool:
        batches.append(batch)
        return False

    while not body.over:
        await body.deliver(to)

    assert len(batches) > 5
    assert b"".join(batch.raw for batch in batches) == TOKEN * 5_000 + STOP


class Flood(ScriptedResponse):
    """A response that always has more comments."""

    def take(self) -> bytes:
        return b": wait\n\n" * 5_000


async def test_flood_of_comments_ends_with_the_wait() -> None:
    """Comments that arrive faster than they are read extend the wait for the first output as slow ones do, not without end."""
    body, _ = body_of(Flood(), limit=0.001)
    with pytest.raises(UpstreamError) as raised:
        async with asyncio.timeout(10):
            await body.deliver(lambda _: True)

    assert raised.value.kind == "first_token_timeout"


async def test_cancellation_between_parts_ends_the_delivery() -> None:
    """A client that leaves in the middle of a large read gets nothing more."""
    answer = ScriptedResponse()
    body, timeout = body_of(answer)
    answer.arrive(TOKEN * 20_000)
    seen = list[int]()

    def to(batch: Batch) -> bool:
        seen.append(len(batch.raw))
        return True

    delivering = asyncio.create_task(body.deliver(to))
    while not seen:
        await asyncio.sleep(0)
    delivering.cancel()
    await asyncio.wait([delivering])
    timeout.stop()

    assert delivering.cancelled()
    assert sum(seen) < len(TOKEN) * 20_000


async def test_json_answer_instead_of_a_stream_is_read_in_steps() -> None:
    """A large JSON answer to a call that streams is one batch, and the event loop runs while it is read."""
    text = "Hello, world. " * 100_000
    whole = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
    batches, turns = await delivered(whole)

    assert [event.text for batch in batches for event in batch.events] == [text]
    assert turns > len(whole) // MAX_PART_BYTES
