"""One attempt at one upstream: opened, read batch by batch, closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import httpx

from policies.event import Batch, Usage
from policies.upstream import UpstreamError

from .bounded import BROKEN, ERROR_WITHIN, AnswerTooLarge, read_bounded, read_error
from .encodings import Decode, decoder
from .failures import broken_off, empty, from_exception, from_object, interrupted, timed_out
from .patience import Patience
from .reading import Nonsense, Reading
from .sse import EventTooLarge, Reader

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.call import Call

    from .breaker import Pass
    from .exchange import Answer
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
        self._request = upstream.asked
        self._answer: Answer | None = None
        self._reader = Reader()
        self._reading = Reading(shows_usage=_asked_for_usage(call), answers=call.shown)
        self._worked = self._over = self._failed = False
        self._broken: UpstreamError | None = None
        self._patience: Patience | None = None
        self._decode: Decode | None = None
        self._streams = False
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
        self._leave = self._upstream.enter()
        try:
            await self._open()
        except BaseException as error:
            self._failed = self._at_fault(error)
            self._report(error)
            await self._close()
            raise
        return self

    async def _open(self) -> None:
        call, upstream = self._call, self._upstream
        model = self._model = await upstream.model(call)
        manner = known = upstream.dialect.manner(model)
        limits = upstream.settings
        # A server that does not stream sends its head with its whole answer.
        patience = self._patience = Patience(limits.head if call.stream else limits.whole)
        for _ in range(LESSONS):
            body = upstream.chat_body(call, model, manner)
            patience.progress(limits.head if call.stream else limits.whole)
            try:
                with patience:
                    answer = self._answer = await upstream.send(call, body, self._reached)
            except (TimeoutError, *BROKEN) as error:
                failed = from_exception(error, self._request, sent=True)
                self._worked = self._worked and failed.worked
                raise failed from error
            if answer.status == httpx.codes.OK:
                upstream.dialect.learn(model, known, manner)
                self._streams = call.stream and _is_stream(answer)
                if call.stream:
                    patience.progress(limits.first_token)
                self._decode = _decoder(answer, self._request)
                return
            failure, words = await self._refused(answer)
            other = upstream.dialect.otherwise(call, manner, answer.status, words)
            if other is None:
                break
            manner = other
        raise failure

    def _reached(self) -> None:
        self._worked = True

    async def _refused(self, answer: Answer) -> tuple[UpstreamError, str]:
        try:
            body = await read_error(answer, within=min(ERROR_WITHIN, self._upstream.settings.head))
        finally:
            self._answer = None
            await answer.close()
        failure = self._upstream.failure(answer, body)
        self._worked = failure.worked
        return failure, body.decode("utf-8", "replace")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = error is not None and self._at_fault(error)
        self._report(error)
        try:
            if kind is None:
                await self._read_out()
        finally:
            await self._close()

    async def _read_out(self) -> None:
        """Wait a moment for the end of a complete body, so that its connection can serve again."""
        answer = self._answer
        if not self._over or answer is None or answer.ended:
            return
        try:
            async with asyncio.timeout(CLOSE_GRACE):
                await answer.read()
        except (TimeoutError, *BROKEN):
            pass

    def _at_fault(self, error: BaseException) -> bool:
        """Whether it is upstream that ends the attempt, by a failure or by saying nothing until the deadline."""
        return isinstance(error, UpstreamError) or _too_late(self._call)

    def _report(self, error: BaseException | None) -> None:
        """Tell the breaker how it ended: one that breaks off has failed, however much it gave before."""
        if self._leave is None:
            return
        if isinstance(error, UpstreamError):
            self._leave.failed(error)
        elif self._reading.has_output or self._over:
            self._leave.worked()
        elif error is not None and _too_late(self._call):
            self._leave.failed(timed_out("first_token_timeout", self._request))
        else:
            self._leave.drop()

    async def _close(self) -> None:
        answer, self._answer = self._answer, None
        if self._patience is not None:
            self._patience.stop()
        if answer is not None:
            await answer.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        if self._over:
            raise StopAsyncIteration
        if self._answer is None:
            msg = "iterated before it was entered"
            raise RuntimeError(msg)
        if not self._streams:
            return await self._read_whole(self._answer)
        while self._broken is None:
            if self._call.abandoned:
                # A read whose bytes are there already cannot be cancelled, and each may be such a one.
                await anyio.lowlevel.checkpoint()
            batch = await self._read(self._answer)
            if batch is not None:
                self._over = batch.last
                return batch
        raise self._broken

    async def _read(self, answer: Answer) -> Batch | None:
        """Return what the next network read gives to show; None for nothing yet, or for a stream that has broken."""
        reading, limits = self._reading, self._upstream.settings
        had = reading.progress
        patience = self._patience
        assert patience is not None  # for the type: it was opened
        try:
            with patience:
                data = await answer.read()
            over = not data
            if self._decode is not None and data:
                data = self._decode(data)
            batch = reading.take(self._reader.end() if over else self._reader.feed(data))
            if reading.progress != had:
                patience.progress(FINISH_GRACE if reading.all_finished else limits.idle)
                if self._leave is not None and self._leave.probe and reading.has_output and reading.failure is None:
                    self._leave.worked()
        except (TimeoutError, EventTooLarge, *BROKEN) as error:
            if reading.finished:
                return self._ended(None)
            self._broken = self._cut(error)
            return None
        if reading.failure is not None:
            self._broken = self._failure()
            return batch
        if reading.done or (over and reading.finished):
            return self._ended(batch)
        if over:
            self._broken = self._cut(EOFError("the stream ended before it was complete"))
        return batch

    def _ended(self, batch: Batch | None) -> Batch | None:
        reading = self._reading
        last = reading.last(batch)
        if reading.has_output or reading.says_why:
            return last
        self._broken = empty(self._request, last if reading.finished else None)
        return None

    async def _read_whole(self, answer: Answer) -> Batch:
        reading, patience = self._reading, self._patience
        assert patience is not None  # for the type: it was opened
        try:
            with patience:
                body = await read_bounded(answer, MAX_ANSWER)
        except (AnswerTooLarge, TimeoutError, *BROKEN) as error:
            raise self._cut(error) from error
        batch = reading.take_whole(body, as_stream=self._call.stream)
        if batch is None:
            raise self._failure()
        self._over = True
        if reading.has_output or reading.says_why:
            return batch
        raise empty(self._request, batch)

    def _failure(self) -> UpstreamError:
        """Return what upstream said instead of an answer; an error object before any output or report did no work."""
        said, reported = self._reading.failure, self._reading.usage
        worked = self._reading.has_output or bool(reported.input or reported.output)
        self._worked = worked or isinstance(said, Nonsense)
        return from_object(said, self._request, secrets=self._upstream.secrets)

    def _cut(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return timed_out("idle_timeout" if self._reading.has_output else "first_token_timeout", self._request)
        if self._reading.has_output:
            return interrupted(self._request, str(error))
        return broken_off(error, self._request)


def _too_late(call: Call) -> bool:
    """Whether it is the call's deadline that ends it: without a word by then, upstream fails as if by a limit of its own."""
    return call.deadline is not None and call.process.monotonic() + TIMER_SLACK >= call.deadline


def _decoder(answer: Answer, request: httpx.Request) -> Decode | None:
    try:
        return decoder(answer.headers)
    except httpx.DecodingError as error:
        raise broken_off(error, request) from error


def _is_stream(answer: Answer) -> bool:
    content_type = answer.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _asked_for_usage(call: Call) -> bool:
    options = call.body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
