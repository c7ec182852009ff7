"""One attempt at one upstream: opened, read batch by batch, closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from policies.api.event import Batch
from policies.api.upstream import PushedStream, UpstreamError
from policies.api.usage import Usage
from sidecar.upstream.errors.classify import from_exception, timed_out
from sidecar.upstream.transport.limited_read import (
    ERROR_BODY_SECONDS,
    READ_ERRORS,
    read_error_body,
)

from .answer_body import AnswerBody, Show
from .progress_timeout import ProgressTimeout

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call
    from sidecar.upstream.transport.response import UpstreamResponse

    from .circuit_breaker import Permit
    from .client import UpstreamClient

OK = 200
LARGE = 262_144
LESSONS = 3
"""How often a call is put otherwise to a server that refuses a field of ours."""
TIMER_SLACK = 0.05
"""Seconds by which the loop's timers may be early."""
UNREAD = Usage(unreported=1)
"""What an attempt has cost whose answer has not begun."""
CLOSE_GRACE = 0.005
"""Seconds in which the end of a complete body is waited for, so that its connection can serve again."""


class Attempt(PushedStream):
    """See `policies.upstream.Stream`.  Leaving it closes the connection, unless the answer was read to its end."""

    _answer: UpstreamResponse | None = None
    _batches: AnswerBody | None = None
    _patience: ProgressTimeout | None = None
    _leave: Permit | None = None
    _worked = _failed = False
    _model = ""

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    @property
    def usage(self) -> Usage:
        """Upstream's report if it came; else the prompt as estimated and every token that was read.

        A lower bound for a call without `stream` that was left before its answer had arrived: nobody can say what upstream
        had made of it.  An attempt that upstream failed costs its prompt, and no more than what was read.
        """
        batches = self._batches
        worked = self._worked if batches is None or batches.worked is None else batches.worked
        if not worked:
            return Usage()
        usage = UNREAD if batches is None else batches.reading.usage
        exact = self._call.stream or self._failed or (batches is not None and batches.reading.done)
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
        model = self._model = upstream.name_of(call.model, substituted=not call.names_model) or await upstream.model(
            call
        )
        manner = known = upstream.dialect.manner(model)
        limits = upstream.settings
        # A server that does not stream sends its head with its whole answer.
        patience = self._patience = ProgressTimeout(limits.head if call.stream else limits.whole)
        for _ in range(LESSONS):
            if call.size is not None and call.size.bytes > LARGE:
                await asyncio.sleep(0)  # to measure it, and to write it, are a turn each
            body = upstream.chat_body(call, model, manner)
            try:
                with patience:
                    answer = self._answer = await upstream.send(call, body, self._reached)
            except (TimeoutError, *READ_ERRORS) as error:
                failed = from_exception(error, self._upstream.asked, sent=True)
                self._worked = self._worked and failed.worked
                raise failed from error
            if answer.status == OK:
                upstream.dialect.learn(model, known, manner)
                if call.stream:
                    patience.progress(limits.first_token)
                self._batches = AnswerBody(upstream, call, answer, patience, self._leave)
                return
            status = answer.status
            failure, words = await self._refused(answer)
            other = upstream.dialect.otherwise(call, manner, status, words)
            if other is None:
                break
            manner = other
            patience.progress(limits.head if call.stream else limits.whole)
        raise failure

    def _reached(self) -> None:
        self._worked = True

    async def _refused(self, answer: UpstreamResponse) -> tuple[UpstreamError, str]:
        try:
            body = await read_error_body(answer, within=min(ERROR_BODY_SECONDS, self._upstream.settings.head))
            failure = self._upstream.failure(answer, body)
        finally:
            self._answer = None
            await answer.aclose()
        self._worked = failure.worked
        return failure, body.decode("utf-8", "replace")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed = self._at_fault(error)
        self._report(error)
        try:
            if kind is None and self._answer is not None and not self._answer.ended:
                await self._read_out(self._answer)
        finally:
            await self._close()

    async def _read_out(self, answer: UpstreamResponse) -> None:
        """Wait a moment for the end of a complete body, so that its connection can serve again."""
        if self._batches is None or not self._batches.over:
            return
        try:
            async with asyncio.timeout(CLOSE_GRACE):
                await answer.read()
        except (TimeoutError, *READ_ERRORS):
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
        elif self._batches is not None and (self._batches.reading.has_output or self._batches.over):
            self._leave.worked()
        elif error is not None and _too_late(self._call):
            self._leave.failed(timed_out("first_token_timeout", self._upstream.asked))
        else:
            self._leave.drop()

    async def _close(self) -> None:
        answer, self._answer = self._answer, None
        if self._patience is not None:
            self._patience.stop()
        if answer is not None:
            await answer.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        batches = self._opened()
        if batches.over:
            raise StopAsyncIteration
        return await batches.next()

    async def push(self, show: Show) -> None:
        """See `PushedStream.push`."""
        await (self._batches or self._opened()).push(show)

    def _opened(self) -> AnswerBody:
        if self._batches is None:
            msg = "iterated before it was entered"
            raise RuntimeError(msg)
        return self._batches


def _too_late(call: Call) -> bool:
    """Whether it is the call's deadline that ends it: without a word by then, upstream fails as if by a limit of its own."""
    return call.deadline is not None and call.services.monotonic() + TIMER_SLACK >= call.deadline
