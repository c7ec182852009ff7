"""Test doubles for policies: no network, no waiting, fixed randomness.

from policies.testing import make_call, serve

served = await serve([NoSecrets()], make_call("my password is hunter2"))
assert served.rejection is not None and served.rejection.code == "secret_in_prompt"
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import anyio
import anyio.lowlevel
import msgspec

from policies.api.call import Call
from policies.api.event import Batch, Event
from policies.api.lease import Outcome
from policies.api.policy import Policy
from policies.api.rejection import Rejection
from policies.api.services import Services
from policies.api.upstream import UpstreamError
from policies.api.usage import Usage
from policies.engine.chain import Chain
from policies.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.store import Store


class FakeClock:
    """A clock in seconds that moves only by `advance` and `sleep`. `slept` lists the waits in seconds."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*."""
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        """Move the clock forward by *seconds* without waiting, and let other tasks run once."""
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


def make_services(
    *, clock: FakeClock | None = None, store: Store | None = None, upstreams: tuple[str, ...] = ("upstream-1",)
) -> Services:
    """Return `Services` with a fake clock, a fixed random seed and, unless *store* is given, a store in memory."""
    clock = clock or FakeClock()
    return Services(
        upstreams=upstreams,
        store=store or MemoryStore(clock=clock),
        clock=clock,
        monotonic=clock,
        sleep=clock.sleep,
        random=random.Random(0),  # noqa: S311  # not for secrets
    )


def make_process(
    *, clock: FakeClock | None = None, store: Store | None = None, upstreams: tuple[str, ...] = ("upstream-1",)
) -> Services:
    """Return `make_services(...)`, by its former name, with a `DeprecationWarning`."""
    message = "policies.testing.make_process is now policies.testing.make_services"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return make_services(clock=clock, store=store, upstreams=upstreams)


def make_call(
    *texts: str,
    services: Services | None = None,
    path: str = "/v1/chat/completions",
    messages: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Call:
    """Return a call with a user message for each of *texts*, or with *messages*.

    *more* are other fields of `Call`; `body` is merged into the default body.
    """
    body: dict[str, Any] = {
        "model": "test-model",
        "messages": messages if messages is not None else [{"role": "user", "content": text} for text in texts],
        "stream": True,
    }
    body |= more.pop("body", {})
    call_id = more.pop("id", uuid4().hex)
    return Call(id=call_id, path=path, body=body, services=services or make_services(), **more)


class Hang:
    """A step of a script in which upstream sends nothing until the call is cancelled. `reached` is set on arrival."""

    def __init__(self) -> None:
        self.reached = anyio.Event()


Step: TypeAlias = str | Batch | UpstreamError | Hang
Script: TypeAlias = Sequence[Step]


class ScriptedUpstream:
    """An upstream that plays one script per attempt; further attempts repeat the last one.

    A string is a piece of text, an `UpstreamError` fails the attempt, and `Hang()` waits until it is cancelled. A
    script that starts with a `Hang` or an error fails to connect. *usage* is upstream's usage report.

    `calls` holds the body of each attempt as it was sent, `names` the upstream that each attempt named, and
    `open_attempts` the number of open connections.
    """

    def __init__(self, *scripts: Script, usage: Usage | None = None) -> None:
        self._scripts = list(scripts) or [["Hello", " world"]]
        self._usage = usage
        self.calls: list[dict[str, Any]] = []
        self.names: list[str | None] = []
        self.open_attempts = 0

    def open(self, call: Call, name: str | None = None) -> ScriptedStream:
        """Return the next attempt at the upstream *name*."""
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.names.append(name)
        return ScriptedStream(self, call, script, self._usage)

    async def choose(self, call: Call) -> str:
        """Return the first upstream."""
        return call.services.upstreams[0]

    def another(self, call: Call, tried: Sequence[str]) -> str | None:
        """Return None: no other upstream serves the model."""
        return None


class ScriptedStream:
    """One attempt of a `ScriptedUpstream`."""

    def __init__(self, upstream: ScriptedUpstream, call: Call, script: Script, usage: Usage | None) -> None:
        self._upstream, self._call, self._script, self._reported = upstream, call, list(script), usage
        self.usage = Usage()
        self.has_finished = False

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Return one event with the finish `length`."""
        end = piece("", finish="length")
        return Batch(events=[end], raw=end.raw, last=True)

    async def __aenter__(self) -> Self:
        self._upstream.calls.append(msgspec.json.decode(msgspec.json.encode(self._call.body)))
        self.usage = Usage(unreported=1)
        if self._script and isinstance(self._script[0], Hang | UpstreamError):
            await self._play(self._script.pop(0))
        self._upstream.open_attempts += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._upstream.open_attempts -= 1

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Play the rest of the script. See `policies.api.upstream.Stream.deliver`."""
        while self._script:
            await anyio.lowlevel.checkpoint()
            if not to(await self._play(self._script.pop(0))):
                return
        await anyio.lowlevel.checkpoint()
        self.usage = self._reported or self.usage
        end = piece("", finish="stop")
        to(Batch(events=[end], raw=end.raw, last=True))

    async def _play(self, step: Step) -> Batch:
        if isinstance(step, UpstreamError):
            self.usage = self.usage if step.worked else Usage()
            raise step
        if isinstance(step, Hang):
            step.reached.set()
            await anyio.sleep_forever()
        if isinstance(step, str):
            step = Batch(events=[piece(step)])
        if isinstance(step, Batch):
            seen = sum(1 for event in step.events if event.is_output)
            self.usage += Usage(output=seen)
            step.outputs = self.usage.output
            self.has_finished = self.has_finished or any(event.finish for event in step.events)
            step.raw = step.raw or b"".join(event.encode() for event in step.events)
            return step
        msg = f"{step!r} is not a step of a script: use a string, a Batch, an UpstreamError or Hang()"
        raise TypeError(msg)


def piece(text: str, *, finish: str | None = None) -> Event:
    """Return one event with *text* as OpenAI's servers send it; *finish* is its finish reason."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    payload = msgspec.json.encode({"id": "chatcmpl-test", "object": "chat.completion.chunk", "choices": [choice]})
    return Event(raw=b"data: " + payload + b"\n\n", payload=payload, text=text, finish=finish)


class CollectingSink:
    """A client that reads all batches at once. See `policies.engine.sink.BatchSink`."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def write_nowait(self, batch: Batch) -> bool:
        """Store *batch*, and return True."""
        self._batches.append(batch)
        return True

    async def drain(self) -> None:
        """Return at once."""


class Served(msgspec.Struct):
    """The result of a call: the batches that the client got, and its outcome, rejection or failure."""

    batches: list[Batch]
    outcome: Outcome | None = None
    rejection: Rejection | None = None
    failure: UpstreamError | None = None

    @property
    def text(self) -> str:
        """All text that the client got."""
        return "".join(event.text for batch in self.batches for event in batch.events)


async def serve(
    policies: Sequence[Policy], call: Call, upstream: ScriptedUpstream | None = None, *, chain: Chain | None = None
) -> Served:
    """Run *call* through *policies*, or through *chain*, in front of *upstream*, and return the result.

    A `Rejection` and an `UpstreamError` are returned in it; other exceptions are raised.
    """
    chain = chain or Chain(policies, upstream or ScriptedUpstream(), call.services)
    served = Served([])
    try:
        served.outcome = await chain.run(call, CollectingSink(served.batches))
    except Rejection as rejection:
        served.rejection = rejection
    except UpstreamError as failure:
        served.failure = failure
    return served
