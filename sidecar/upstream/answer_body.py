"""What an answer's body gives to show, batch by batch: waited for, or pushed on as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel
import httpx

from policies.api.event import Batch
from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.classify import broken_off, empty, from_object, interrupted, timed_out
from sidecar.upstream.transport.content_encoding import Decode, decoder
from sidecar.upstream.transport.limited_read import READ_ERRORS, ResponseTooLarge, read_limited
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.sse_reader import EventTooLarge, SSEReader

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.upstream.transport.response import UpstreamResponse

    from .circuit_breaker import Permit
    from .client import UpstreamClient
    from .progress_timeout import ProgressTimeout

MAX_ANSWER = 67_108_864
STREAM = "text/event-stream"
FINISH_GRACE = 10.0
"""Seconds that a server gets to end a stream after the last finish, for its usage chunk and end mark."""

Show: TypeAlias = Callable[[Batch], bool]


class AnswerBody:
    """The body of one answer, read once.

    `over`: the last batch has been handed out.  `worked`: what upstream said in place of an answer may have cost the prompt;
    None while it said nothing of the kind.
    """

    def __init__(
        self,
        upstream: UpstreamClient,
        call: Call,
        answer: UpstreamResponse,
        patience: ProgressTimeout,
        leave: Permit | None,
    ) -> None:
        self._call, self._answer, self._patience, self._leave = call, answer, patience, leave
        self._request, self._secrets, self._idle = upstream.asked, upstream.secrets, upstream.settings.idle
        options = call.body.get("stream_options")
        self.reading = AnswerReader(shows_usage=options is not None and _asked_for_usage(options), answers=call.shown)
        self.over = False
        self.worked: bool | None = None
        self._reader = SSEReader()
        self._broken: UpstreamError | None = None
        kind = answer.header(b"content-type")
        self._streams = call.stream and (kind == STREAM or kind.partition(";")[0].strip().lower() == STREAM)
        coding = answer.header(b"content-encoding")
        self._decode = _decoder(coding, self._request) if coding else None

    async def next(self) -> Batch:
        """Wait for the next batch and return it; the last one is marked.  Raises `UpstreamError`."""
        if not self._streams:
            return await self._read_whole()
        while self._broken is None:
            if self._call.abandoned:
                # A read whose bytes are there already cannot be cancelled, and each may be such a one.
                await anyio.lowlevel.checkpoint()
            batch = await self._read()
            if batch is not None:
                self.over = batch.last
                return batch
        raise self._broken

    async def _read(self) -> Batch | None:
        """Return what the next network read gives to show; None for nothing yet, or for a stream that has broken."""
        try:
            with self._patience:
                data = await self._answer.read()
        except (TimeoutError, *READ_ERRORS) as error:
            return self._fails(error)
        return self._taken(data)

    async def push(self, show: Show) -> None:
        """See `PushedStream.push`: batches go out in the very turn in which their bytes came in."""
        answer = self._answer
        if not self._streams:
            while not self.over and show(await self.next()):
                pass
            return
        if self._shows(answer, show):
            await self._listens(answer, show)
        if self._broken is not None:
            raise self._broken

    async def _listens(self, answer: UpstreamResponse, show: Show) -> None:
        done = asyncio.get_running_loop().create_future()

        def arrived() -> None:
            if done.done():
                return
            try:
                if not self._shows(answer, show):
                    done.set_result(None)
            except StopIteration as error:  # as in a coroutine (PEP 479)
                done.set_exception(RuntimeError("a policy raised StopIteration").with_traceback(error.__traceback__))
            except BaseException as error:  # noqa: BLE001  # it is raised where the batches are waited for
                done.set_exception(error)

        answer.listen(arrived)
        try:
            with self._patience:
                await done
        except TimeoutError as error:
            if not done.cancelled():
                done.result()  # what was shown in the very turn in which the time was over counts, and what it raised
            elif (last := self._fails(error)) is not None:
                self.over = True
                show(last)
        finally:
            answer.listen(None)
            if done.done() and not done.cancelled():
                done.exception()  # it has been heard of, even where a cancellation came in the same turn

    def _shows(self, answer: UpstreamResponse, show: Show) -> bool:
        """Show what there is; False where that was the last of it, or is enough for now."""
        while self._broken is None:
            data = answer.take()
            if not data and answer.broken is not None:
                batch = self._fails(answer.broken)
            elif data or answer.ended:
                batch = self._taken(data)
            else:
                return True
            if batch is not None:
                self.over = batch.last
                if not show(batch) or batch.last:
                    return False
        return False

    def _fails(self, error: Exception) -> Batch | None:
        """Return the last batch where *error* comes too late to matter; else the stream has broken."""
        if self.reading.finished:
            return self._ended(None)
        self._broken = self._cut(error)
        return None

    def _taken(self, data: bytes) -> Batch | None:
        """Return what *data*, empty at the body's end, gives to show."""
        reading = self.reading
        had, over = reading.outputs + reading.finishes, not data
        try:
            if self._decode is not None and data:
                data = self._decode(data)
            batch = reading.take(self._reader.end() if over else self._reader.feed(data))
        except (EventTooLarge, *READ_ERRORS) as error:
            return self._fails(error)
        if reading.outputs + reading.finishes != had and not reading.done:
            self._patience.progress(FINISH_GRACE if reading.all_finished else self._idle)
            if self._leave is not None and self._leave.probe and reading.has_output and reading.failure is None:
                self._leave.worked()
        if reading.failure is not None:
            self._broken = self._failure()
            return batch
        if reading.done or (over and reading.finished):
            return self._ended(batch)
        if over:
            self._broken = self._cut(EOFError("the stream ended before it was complete"))
        return batch

    def _ended(self, batch: Batch | None) -> Batch | None:
        reading = self.reading
        last = reading.last(batch)
        if reading.has_output or reading.says_why:
            return last
        self._broken = empty(self._request, last if reading.finished else None)
        return None

    async def _read_whole(self) -> Batch:
        reading = self.reading
        try:
            with self._patience:
                body = await read_limited(self._answer, MAX_ANSWER)
        except (ResponseTooLarge, TimeoutError, *READ_ERRORS) as error:
            raise self._cut(error) from error
        batch = reading.take_whole(body, as_stream=self._call.stream)
        if batch is None:
            raise self._failure()
        self.over = True
        if reading.has_output or reading.says_why:
            return batch
        raise empty(self._request, batch)

    def _failure(self) -> UpstreamError:
        """Return what upstream said instead of an answer; an error object before any output or report did no work."""
        said, reported = self.reading.failure, self.reading.usage
        worked = self.reading.has_output or bool(reported.input or reported.output)
        self.worked = worked or isinstance(said, MalformedAnswer)
        return from_object(said, self._request, secrets=self._secrets)

    def _cut(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return timed_out("idle_timeout" if self.reading.has_output else "first_token_timeout", self._request)
        if self.reading.has_output:
            return interrupted(self._request, str(error))
        return broken_off(error, self._request)


def _decoder(coding: str, request: httpx.Request) -> Decode | None:
    try:
        return decoder(coding)
    except httpx.DecodingError as error:
        raise broken_off(error, request) from error


def _asked_for_usage(options: object) -> bool:
    return isinstance(options, dict) and options.get("include_usage") is True
