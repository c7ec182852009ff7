"""One attempt at one upstream: opened, read batch by batch, closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import httpx

from policies.event import Batch, Usage
from policies.upstream import UpstreamError

from .bounded import BROKEN, AnswerTooLarge, read_bounded, read_error
from .encodings import Decode, decoder
from .failures import broken_off, empty, from_object, interrupted, timed_out
from .patience import Patience
from .reading import Nonsense, Reading
from .sse import EventTooLarge, Reader

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.call import Call

    from .breaker import Pass
    from .upstream import HttpUpstream

MAX_ANSWER = 67_108_864
LESSONS = 3
"""How often a call is put otherwise to a server that refuses a field of ours."""
FINISH_GRACE = 10.0
"""Seconds that a server gets to end a stream after the last finish, for its usage chunk and end mark."""
TIMER_SLACK = 0.05
"""Seconds by which the loop's timers may be early."""
CLOSE_GRACE = 0.005
"""Seconds in which the end of a complete body is waited for, so that its connection can serve again."""


class Attempt:
    """See `policies.upstream.Stream`.  Leaving it closes the connection, unless the answer was read to its end."""

    def __init__(self, upstream: HttpUpstream, call: Call) -> None:
        self._upstream, self._call = upstream, call
        self._request = upstream.unsent
        self._response: httpx.Response | None = None
        self._bytes: AsyncIterator[bytes] | None = None
        self._reader = Reader()
        self._reading = Reading(shows_usage=_asked_for_usage(call))
        self._worked = self._over = self._failed = False
        self._broken: UpstreamError | None = None
        self._patience: Patience | None = None
        self._whole_until = 0.0
        self._decode: Decode | None = None
        self._model = ""
        self._leave: Pass | None = None

    @property
    def usage(self) -> Usage:
        """Upstream's report if it came; else the prompt as estimated and every token that was read.

        A lower bound for a call without `stream` that was left before its answer had arrived: nobody can say what upstream
        had made of it.  An attempt that upstream failed costs its prompt, and no more than what was read.
        """
        if not self._worked:
            return Usage()
        usage = self._reading.usage
        exact = self._call.stream or self._reading.done or self._failed
        return Usage(usage.input, usage.output, usage.cached, usage.unreported, exact=exact, model=self._model)

    async def __aenter__(self) -> Self:
        leave = self._leave = self._upstream.enter()
        try:
            await self._open()
        except UpstreamError as error:
            self._failed = True
            leave.failed(error)
            raise
        except BaseException as error:
            self._report(error)
            raise
        return self

    async def _open(self) -> None:
        call, upstream = self._call, self._upstream
        model = self._model = await upstream.model(call)
        for _ in range(LESSONS):
            self._request = upstream.chat_request(call, model)
            try:
                self._response = response = await upstream.send(
                    self._request, within=self._head_within(), reached=self._reached
                )
            except UpstreamError as error:
                self._worked = error.worked
                raise
            self._worked = True
            if response.status_code == httpx.codes.OK:
                return
            failure, text = await self._refused(response)
            if not upstream.dialect.learn(call, model, response.status_code, text):
                break
        raise failure

    def _reached(self) -> None:
        self._worked = True

    def _head_within(self) -> float:
        """Return the seconds to the head; a server that does not stream sends its head with its whole answer."""
        limits = self._upstream.settings
        if self._call.stream:
            return limits.head
        self._whole_until = asyncio.get_running_loop().time() + limits.whole
        return limits.whole

    async def _refused(self, response: httpx.Response) -> tuple[UpstreamError, str]:
        try:
            body = await read_error(response)
        finally:
            await self._close()
        failure = self._upstream.failure(response, self._request, body)
        self._worked = failure.worked
        return failure, body.decode("utf-8", "replace")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = isinstance(error, UpstreamError)
        self._report(error)
        if kind is None:
            try:
                await self._read_out()
            except BaseException:
                await self._close_now()
                raise
            await self._close()
        else:
            await self._close_now()

    async def _read_out(self) -> None:
        if not self._over or self._bytes is None:
            return
        try:
            async with asyncio.timeout(CLOSE_GRACE):
                await anext(self._bytes, None)
        except (TimeoutError, *BROKEN):
            pass

    async def _close_now(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._close()

    def _report(self, error: BaseException | None) -> None:
        if self._leave is None:
            return
        if self._reading.has_output or self._over:
            self._leave.worked()
        elif isinstance(error, UpstreamError):
            self._leave.failed(error)
        elif error is not None and _too_late(self._call):
            self._leave.failed(timed_out("first_token_timeout", self._request))
        else:
            self._leave.drop()

    async def _close(self) -> None:
        response, self._response = self._response, None
        if self._patience is not None:
            self._patience.stop()
        if response is not None:
            await response.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        if self._over:
            raise StopAsyncIteration
        if self._response is None:
            msg = "iterated before it was entered"
            raise RuntimeError(msg)
        if not (self._call.stream and _is_stream(self._response)):
            return await self._read_whole(self._response)
        while self._broken is None:
            batch = await self._read(self._response)
            if batch is not None:
                self._over = batch.last
                return batch
        raise self._broken

    async def _read(self, response: httpx.Response) -> Batch | None:
        """Return what the next network read gives to show; None for nothing yet, or for a stream that has broken."""
        reading, limits = self._reading, self._upstream.settings
        had = reading.progress
        try:
            if self._bytes is None or self._patience is None:
                self._bytes = aiter(response.stream)  # type: ignore[arg-type]  # an asynchronous transport's stream
                self._patience = Patience(limits.first_token)
                self._decode = decoder(response.headers)
            with self._patience:
                data = await anext(self._bytes, None)
            if self._decode is not None and data is not None:
                data = self._decode(data)
            batch = reading.take(self._reader.end() if data is None else self._reader.feed(data))
            if reading.progress != had:
                self._patience.progress(FINISH_GRACE if reading.finished else limits.idle)
                if not had:
                    self._report(None)
        except (TimeoutError, EventTooLarge, *BROKEN) as error:
            if reading.finished:
                return self._ended(None)
            self._broken = self._cut(error)
            return None
        if reading.failure is not None:
            self._broken = self._failure()
            return batch
        if reading.done or (data is None and reading.finished):
            return self._ended(batch)
        if data is None:
            self._broken = self._cut(EOFError("the stream ended before it was complete"))
        return batch

    def _ended(self, batch: Batch | None) -> Batch | None:
        reading = self._reading
        last = reading.last(batch)
        if reading.has_output or reading.says_why:
            return last
        self._broken = empty(self._request, last if reading.finished else None)
        return None

    async def _read_whole(self, response: httpx.Response) -> Batch:
        reading = self._reading
        try:
            until = self._whole_until or asyncio.get_running_loop().time() + self._upstream.settings.whole
            async with asyncio.timeout_at(until):
                body = await read_bounded(response, MAX_ANSWER)
        except (AnswerTooLarge, *BROKEN) as error:
            raise self._cut(error) from error
        batch = reading.take_whole(body, as_stream=self._call.stream)
        if batch is None:
            raise self._failure()
        self._over = True
        if reading.has_output or reading.says_why:
            return batch
        raise empty(self._request, batch)

    def _failure(self) -> UpstreamError:
        """Return what upstream said instead of an answer; an error object before any output did no work."""
        said = self._reading.failure
        self._worked = self._reading.has_output or isinstance(said, Nonsense)
        return from_object(said, self._request, secrets=self._upstream.secrets)

    def _cut(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            kind = "idle_timeout" if self._reading.has_output else "first_token_timeout"
            return timed_out(kind if self._call.stream else "head_timeout", self._request)
        if self._reading.has_output:
            return interrupted(self._request, str(error))
        return broken_off(error, self._request)


def _too_late(call: Call) -> bool:
    """Whether it is the call's deadline that ends it: without a word by then, upstream fails as if by a limit of its own."""
    return call.deadline is not None and call.process.monotonic() + TIMER_SLACK >= call.deadline


def _is_stream(response: httpx.Response) -> bool:
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _asked_for_usage(call: Call) -> bool:
    options = call.body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
