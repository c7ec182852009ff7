"""The body of an answer is delivered as it arrives, the same whatever the cuts, pauses and failures."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from chunks import delta, sse
from hypothesis import given
from hypothesis import strategies as st

from policies.api.event import Batch
from policies.api.upstream import UpstreamError
from policies.testing import make_call
from sidecar.config.upstream import ResolvedUpstream
from sidecar.upstream.answer_body import AnswerBody
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.progress_timeout import ProgressTimeout
from sidecar.upstream.transport.response import UpstreamResponse

pytestmark = pytest.mark.anyio

A, B = sse(delta(content="a")), sse(delta(content="b"))
FINISH, DONE = sse(delta(finish="stop")), b"data: [DONE]\n\n"
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
ERROR = sse({"error": {"message": "no"}})


class Told(UpstreamResponse):
    """A response whose bytes arrive when the test calls `arrive`."""

    def __init__(self) -> None:
        self.status, self._data, self.ended, self.broken = 200, b"", False, None
        self.fields = [(b"content-type", b"text/event-stream")]
        self.on_data = None

    def take(self) -> bytes:
        data, self._data = self._data, b""
        return data

    async def aclose(self) -> None:
        pass

    def arrive(self, data: bytes) -> None:
        self._data, self.ended = self._data + data, not data
        if self.on_data is not None:
            self.on_data(self.take())

    @property
    def heard(self) -> bool:
        return self.on_data is not None


def batches_of(answer: Told, *, idle: float = 60.0) -> tuple[AnswerBody, ProgressTimeout]:
    upstream = UpstreamClient(ResolvedUpstream("http://up.example/v1", idle=idle), _NoTransport(), clock=lambda: 0.0)
    patience = ProgressTimeout(60)
    return AnswerBody(upstream, make_call("hi"), answer, patience, None, streams=True), patience


class _NoTransport:
    async def send(self, *_: object) -> Told:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


async def pushed(reads: list[bytes], says: list[bool]) -> tuple[list[bytes], str]:
    """Deliver *reads*; the client takes a batch or, by *says*, pauses. Return what was delivered, and the verdict."""
    answer, shown, said = Told(), list[bytes](), list(says)
    batches, patience = batches_of(answer)

    def show(batch: Batch) -> bool:
        shown.append(batch.raw)
        return said.pop() if said else True

    async def takes() -> str:
        try:
            while not batches.over:
                await batches.deliver(show)
        except UpstreamError as error:
            return error.kind
        return "over"

    task = asyncio.get_running_loop().create_task(takes())
    try:
        for data in reads:
            await asyncio.sleep(0)
            answer.arrive(data)
        verdict = await asyncio.wait_for(task, 5)
        assert not answer.heard
        return shown, verdict
    finally:
        task.cancel()
        patience.stop()


@given(
    st.lists(st.sampled_from([A, B, FINISH, DONE, USAGE, ERROR, b": hm\n\n", b"data: nonsense\n\n"]), max_size=8),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.booleans(), max_size=6),
)
def test_any_cut_and_any_pause(parts: list[bytes], cuts: list[int], says: list[bool]) -> None:
    """However a stream is cut and however often the client pauses, it gets the bytes and the verdict of a single read."""
    stream = b"".join(parts)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[begin:end] for begin, end in pairwise(edges) if begin < end]

    async def both() -> None:
        shown, verdict = await pushed([*reads, b""], says)
        wanted, right = await pushed([stream, b""] if stream else [b""], [])
        assert (b"".join(shown), verdict) == (b"".join(wanted), right)

    asyncio.run(both())


async def test_cancelled() -> None:
    """After a cancellation nothing more is delivered."""
    answer, shown = Told(), list[Batch]()
    batches, patience = batches_of(answer)

    def show(batch: Batch) -> bool:
        shown.append(batch)
        return True

    task = asyncio.get_running_loop().create_task(batches.deliver(show))
    await asyncio.sleep(0)
    answer.arrive(A)
    task.cancel()
    answer.arrive(B)
    with pytest.raises(asyncio.CancelledError):
        await task
    answer.arrive(B)
    patience.stop()

    assert [batch.raw for batch in shown] in ([A], [A, B])
    assert not answer.heard


async def test_show_that_raises() -> None:
    """An exception of the receiver is raised by `deliver`, also a TimeoutError, which is not taken for upstream's."""
    for error in (ValueError("x"), TimeoutError("x")):
        answer = Told()
        batches, patience = batches_of(answer)

        def show(batch: Batch, error: Exception = error) -> bool:
            raise error

        task = asyncio.get_running_loop().create_task(batches.deliver(show))
        await asyncio.sleep(0)
        answer.arrive(A)
        with pytest.raises(type(error), match="x"):
            await task
        patience.stop()


async def test_silence() -> None:
    """An upstream that falls silent fails after the idle time."""
    answer = Told()
    batches, patience = batches_of(answer, idle=0.02)
    task = asyncio.get_running_loop().create_task(batches.deliver(lambda _: True))
    await asyncio.sleep(0)
    answer.arrive(A)
    with pytest.raises(UpstreamError) as failed:
        await task
    patience.stop()

    assert failed.value.kind == "idle_timeout"


async def test_in_the_same_turn() -> None:
    """Bytes that arrive in the iteration in which the time is over count: an error, and an end."""
    for last, verdict in ((ERROR, "server"), (DONE, "over")):
        answer = Told()
        batches, patience = batches_of(answer, idle=0.02)
        task = asyncio.get_running_loop().create_task(batches.deliver(lambda _: True))
        await asyncio.sleep(0)
        answer.arrive(A)
        asyncio.get_running_loop().call_later(0.01, answer.arrive, last)
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251  # the loop is held up: both are due in one turn
        try:
            await task
            ended = "over"
        except UpstreamError as error:
            ended = error.kind
        patience.stop()
        assert ended == verdict


async def test_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that has its finish, and then nothing, is complete after its grace period."""
    monkeypatch.setattr("sidecar.upstream.answer_body.FINISH_GRACE_SECONDS", 0.02)
    answer, shown = Told(), list[Batch]()
    batches, patience = batches_of(answer)
    answer.arrive(A + FINISH)

    def show(batch: Batch) -> bool:
        shown.append(batch)
        return True

    await batches.deliver(show)
    patience.stop()

    assert (shown[-1].last, batches.over) == (True, True)
