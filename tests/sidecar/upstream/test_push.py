"""AnswerBody that are pushed on as they arrive: the same ones as those that are waited for, whatever is in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from types import TracebackType
from typing import Self

import pytest
from chunks import delta, sse
from hypothesis import given
from hypothesis import strategies as st

from policies import Call, Event, Lease, Policy, Stop
from policies.api.event import Batch
from policies.api.lease import Outcome
from policies.api.upstream import PushedStream, UpstreamError
from policies.api.usage import Usage
from policies.engine.chain import Chain
from policies.engine.sink import ClientLeft
from policies.testing import make_call, piece
from sidecar.config.upstream import ResolvedUpstream
from sidecar.upstream.answer_body import AnswerBody
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.progress_timeout import ProgressTimeout
from sidecar.upstream.transport.response import OnData, UpstreamResponse

pytestmark = pytest.mark.anyio

A, B = sse(delta(content="a")), sse(delta(content="b"))
FINISH, DONE = sse(delta(finish="stop")), b"data: [DONE]\n\n"
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
ERROR = sse({"error": {"message": "no"}})


class Told(UpstreamResponse):
    """An answer whose bytes arrive when the test says so."""

    def __init__(self) -> None:
        self.status, self._data, self.ended, self.broken = 200, b"", False, None
        self.fields = [(b"content-type", b"text/event-stream")]
        self._arrived: OnData | None = None

    def take(self) -> bytes:
        data, self._data = self._data, b""
        return data

    async def aclose(self) -> None:
        pass

    def listen(self, arrived: OnData | None) -> None:
        self._arrived = arrived

    def arrive(self, data: bytes) -> None:
        self._data, self.ended = self._data + data, not data
        if self._arrived is not None:
            self._arrived()

    @property
    def heard(self) -> bool:
        return self._arrived is not None


def batches_of(answer: Told, *, idle: float = 60.0) -> tuple[AnswerBody, ProgressTimeout]:
    upstream = UpstreamClient(ResolvedUpstream("http://up.example/v1", idle=idle), _NoTransport(), clock=lambda: 0.0)
    patience = ProgressTimeout(60)
    return AnswerBody(upstream, make_call("hi"), answer, patience, None), patience


class _NoTransport:
    async def send(self, *_: object) -> Told:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


async def pushed(reads: list[bytes], says: list[bool]) -> tuple[list[bytes], str]:
    """Push what *reads* bring; the client takes or, by *says*, wants a pause.  Return what was shown, and the verdict."""
    answer, shown, said = Told(), list[bytes](), list(says)
    batches, patience = batches_of(answer)

    def show(batch: Batch) -> bool:
        shown.append(batch.raw)
        return said.pop() if said else True

    async def takes() -> str:
        try:
            while not batches.over:
                await batches.push(show)
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


async def pulled(reads: list[bytes]) -> tuple[list[bytes], str]:
    answer, shown = Told(), list[bytes]()
    batches, patience = batches_of(answer)
    for data in reads:
        answer.arrive(data)
    try:
        while not batches.over:
            shown.append((await batches.next()).raw)
    except UpstreamError as error:
        return shown, error.kind
    finally:
        patience.stop()
    return shown, "over"


@given(
    st.lists(st.sampled_from([A, B, FINISH, DONE, USAGE, ERROR, b": hm\n\n", b"data: nonsense\n\n"]), max_size=8),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.booleans(), max_size=6),
)
def test_as_if_waited_for(parts: list[bytes], cuts: list[int], says: list[bool]) -> None:
    """However a stream is cut and however often the client wants a pause, it gets the bytes and the verdict of a pull."""
    stream = b"".join(parts)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[begin:end] for begin, end in pairwise(edges) if begin < end]

    async def both() -> None:
        shown, verdict = await pushed([*reads, b""], says)
        wanted, right = await pulled([stream, b""] if stream else [b""])
        assert (b"".join(shown), verdict) == (b"".join(wanted), right)

    asyncio.run(both())


async def test_cancelled() -> None:
    """A push that is cancelled is let go of: what arrives from then on is shown to nobody."""
    answer, shown = Told(), list[Batch]()
    batches, patience = batches_of(answer)

    def show(batch: Batch) -> bool:
        shown.append(batch)
        return True

    task = asyncio.get_running_loop().create_task(batches.push(show))
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
    """What whoever is shown to raises is raised where it was asked for, also a time-out, which is not upstream's."""
    for error in (ValueError("x"), TimeoutError("x")):
        answer = Told()
        batches, patience = batches_of(answer)

        def show(batch: Batch, error: Exception = error) -> bool:
            raise error

        task = asyncio.get_running_loop().create_task(batches.push(show))
        await asyncio.sleep(0)
        answer.arrive(A)
        with pytest.raises(type(error), match="x"):
            await task
        patience.stop()


async def test_silence() -> None:
    """An upstream that says nothing more is given up after its time, also where nobody is woken for what it says."""
    answer = Told()
    batches, patience = batches_of(answer, idle=0.02)
    task = asyncio.get_running_loop().create_task(batches.push(lambda _: True))
    await asyncio.sleep(0)
    answer.arrive(A)
    with pytest.raises(UpstreamError) as failed:
        await task
    patience.stop()

    assert failed.value.kind == "idle_timeout"


async def test_in_the_same_turn() -> None:
    """What upstream says in the turn in which its time is over counts: its error, and its end."""
    for last, verdict in ((ERROR, "server"), (DONE, "over")):
        answer = Told()
        batches, patience = batches_of(answer, idle=0.02)
        task = asyncio.get_running_loop().create_task(batches.push(lambda _: True))
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


@pytest.mark.parametrize("way", ["pulled", "pushed"])
async def test_grace(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A stream that has its finish, and then nothing, is over when its grace is."""
    monkeypatch.setattr("sidecar.upstream.answer_body.FINISH_GRACE", 0.02)
    answer, shown = Told(), list[Batch]()
    batches, patience = batches_of(answer)
    answer.arrive(A + FINISH)

    def show(batch: Batch) -> bool:
        shown.append(batch)
        return True

    if way == "pushed":
        await batches.push(show)
    else:
        while not batches.over:
            shown.append(await batches.next())
    patience.stop()

    assert (shown[-1].last, batches.over) == (True, True)


class Pushed(PushedStream):
    """Shows its texts in one turn each."""

    usage = Usage(output=1)

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[Batch]:
        raise NotImplementedError

    async def push(self, show: Callable[[Batch], bool]) -> None:
        while self._texts:
            event = piece(self._texts.pop(0))
            await asyncio.sleep(0)
            if not show(Batch(events=[event], raw=event.raw)):
                return
        end = piece("", finish="stop")
        show(Batch(events=[end], raw=end.raw, last=True))


class Upstream:
    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def open(self, call: Call, name: str | None = None) -> Pushed:
        return Pushed(self.texts)


class Client:
    """Takes *room* batches, then wants to be drained."""

    def __init__(self, room: int, *, gone: bool = False) -> None:
        self.room, self.gone, self.texts, self.drains = room, gone, list[str](), 0

    def put(self, batch: Batch) -> bool:
        if self.gone:
            raise ConnectionResetError
        self.texts += [event.text for event in batch.events]
        return len(self.texts) % self.room != 0

    async def drained(self) -> None:
        self.drains += 1


class Shouts(Policy, frozen=True):
    """Makes all text loud, and stops at an exclamation mark."""

    async def admit(self, call: Call) -> Lease:
        return Loud()


class Loud(Lease):
    settled: list[Outcome] = []  # noqa: RUF012  # shared on purpose: the test looks at it

    def event(self, event: Event) -> Event | None:
        if event.text == "!":
            raise Stop
        return event.with_text(event.text.upper()) if event.text else event

    async def settle(self, outcome: Outcome) -> None:
        self.settled.append(outcome)


async def run(client: Client, *texts: str, policies: tuple[Policy, ...] = ()) -> list[Batch]:
    call, emitted = make_call("hi"), list[Batch]()

    async def emit(batch: Batch) -> None:
        emitted.append(batch)

    await Chain(policies, Upstream(*texts), call.services).run(call, emit, sink=client)
    return emitted


async def test_a_slow_client() -> None:
    """A client that takes no more is waited for; it gets every batch, the last one by `emit`."""
    client = Client(room=2)
    emitted = await run(client, "a", "b", "c", "d", "e")

    assert (client.texts, client.drains) == (["a", "b", "c", "d", "e"], 2)
    assert [batch.last for batch in emitted] == [True]


async def test_policies_see_it() -> None:
    """Leases change and stop what is pushed as they do what is waited for."""
    Loud.settled.clear()
    client = Client(room=9)
    emitted = await run(client, "a", "b", "!", "c", policies=(Shouts(name="s"),))

    assert client.texts == ["A", "B"]
    assert [event.finish for batch in emitted for event in batch.events] == ["content_filter"]
    assert len(Loud.settled) == 1


async def test_a_client_that_left() -> None:
    """A sink that raises is a client that left: the call ends, and everything is settled."""
    Loud.settled.clear()
    with pytest.raises(ClientLeft):
        await run(Client(room=9, gone=True), "a", policies=(Shouts(name="s"),))

    assert len(Loud.settled) == 1
