"""Turn the bytes of an answer's body into batches, delivered in the event-loop iteration in which they arrive.

A large or compressed read is delivered in parts, one in each iteration, and a JSON answer is read in steps: no answer holds
the event loop for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import httpx

from policies.api.event import Batch
from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.classify import broken_off, empty
from sidecar.upstream.transport.content_encoding import Decode, decoder
from sidecar.upstream.transport.limited_read import READ_ERRORS, ResponseTooLarge, read_limited
from sidecar.wire.answer_form import MAX_ANSWER_BYTES, AnswerForm
from sidecar.wire.operations.registry import operation_of
from sidecar.wire.sse_reader import EventTooLarge

from .answer_failures import cut_by, stop_iteration
from .read_parts import MAX_PART_BYTES, has_comment, in_steps, parts_of

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.upstream.transport.response import UpstreamResponse
    from sidecar.wire.sse_reader import Frame, SSEReader

    from .circuit_breaker import Permit
    from .client import UpstreamClient
    from .progress_timeout import ProgressTimeout

EVENT_STREAM = b"text/event-stream"
FINISH_GRACE_SECONDS = 10.0
"""Seconds that a server gets to end a stream after the last finish, for its usage chunk and end mark."""

Deliver: TypeAlias = Callable[[Batch], bool]


class AnswerBody:
    """The body of one answer; it can be read once. *streams*: a stream was requested.

    The first bytes decide whether it is a stream: some servers send one under another type, or a JSON object instead.
    `over` is True once the last batch was delivered. `reading` holds the usage and the output so far.
    """

    def __init__(
        self,
        upstream: UpstreamClient,
        call: Call,
        response: UpstreamResponse,
        timeout: ProgressTimeout,
        permit: Permit | None,
        *,
        streams: bool,
    ) -> None:
        self._response, self._timeout, self._permit, self._streams = response, timeout, permit, streams
        self._call, self._upstream = call, upstream
        self._request, self._idle = upstream.asked, upstream.settings.idle
        self.reading = operation_of(call).reading(call)
        self.over = False
        self._broken: UpstreamError | None = None
        fields = dict(reversed(response.fields))  # the first one of a repeated field
        kind = fields.get(b"content-type", b"")
        declared = kind == EVENT_STREAM or kind.partition(b";")[0].strip().lower() == EVENT_STREAM
        self._form = AnswerForm(declared=declared, echo=upstream.echo(call))
        self._reader: SSEReader | None = None
        self._decode = _decoder(response, self._request) if b"content-encoding" in fields else None
        self._at_once = MAX_PART_BYTES if self._decode is None else 0
        """Bytes of a read up to which it is delivered in the iteration in which it arrived."""
        self._parts: Iterator[bytes] | None = None
        """The rest of any other read."""
        self._whole_has_ended = False

    async def deliver(self, to: Deliver) -> None:
        """See `policies.api.upstream.Stream.deliver`."""
        if not self._streams:
            to(await self._read_whole())
            return
        while self._parts is None or await self._deliver_parts(to):
            try:
                waits = self._deliver_arrived(self._response.take(), to)
            except StopIteration as error:
                raise stop_iteration(error) from None
            if waits:
                await self._deliver_arriving(to)
            if self._whole_has_ended:
                await self._deliver_whole(to)
            if self._parts is None:
                break
        if (broken := self._broken) is not None:
            self._broken = None  # else the traceback of the error would refer to the error: a reference cycle
            try:
                raise broken
            finally:
                del broken

    async def _deliver_arriving(self, to: Deliver) -> None:
        """Deliver batches in the event-loop iterations in which their bytes arrive, until *to* or the end stops that."""
        response = self._response
        done = asyncio.get_running_loop().create_future()

        def on_data(data: bytes) -> None:
            if done.done():  # cancelled in this iteration
                return
            try:
                if self._deliver_arrived(data, to):
                    return
                done.set_result(None)
            except StopIteration as error:
                done.set_exception(stop_iteration(error))
            except BaseException as error:  # noqa: BLE001  # raised by `await done` below
                done.set_exception(error)
            response.on_data = None

        response.on_data = on_data
        try:
            with self._timeout:
                await done
        except TimeoutError as error:
            if not done.cancelled():
                done.result()  # bytes of the same iteration count, and so do errors that they raised
            elif (last := self._on_failure(error)) is not None:
                self.over = True
                to(last)
        finally:
            response.on_data = None
            if done.done() and not done.cancelled():
                done.exception()  # mark it as retrieved: a cancellation in the same iteration takes precedence

    def _deliver_arrived(self, data: bytes, to: Deliver) -> bool:
        """Deliver *data* and, behind it, the end or failure of the body; return False if nothing more is to be delivered now.

        It is also False where `_deliver_parts` or `_deliver_whole` must go on, for which their field is set.
        """
        response = self._response
        if len(data) > self._at_once:
            self._parts = parts_of(data) if self._decode is None else self._decode(data)
            return False
        while self._broken is None:
            if not data and response.broken is not None:
                batch = self._on_failure(response.broken)
            elif data or response.ended:
                if not data and self._form.whole is not None:
                    self._whole_has_ended = True
                    return False
                batch = self._decode_batch(data)
            else:
                return True
            if batch is not None:
                self.over = batch.last
                if not to(batch) or batch.last:
                    return False
            elif self._reader is not None and self._reader.holds_large_event:
                self._at_once = 0
            data = b""
        return False

    async def _deliver_parts(self, to: Deliver) -> bool:
        """Deliver the parts of a read, one in each iteration; return as `_deliver_arrived`."""
        try:
            with self._timeout:
                return await self._deliver_each_part(to)
        except TimeoutError as error:
            if not isinstance(error.__cause__, asyncio.CancelledError):
                raise  # of a policy
            if (last := self._on_failure(error)) is not None:
                self.over = True
                to(last)
            return False

    async def _deliver_each_part(self, to: Deliver) -> bool:
        while self._broken is None:
            batch = None
            try:
                if (part := next(self._parts or iter(()), None)) is None:
                    self._parts = None
                    is_large = self._reader is not None and self._reader.holds_large_event
                    self._at_once = 0 if is_large or self._decode is not None else MAX_PART_BYTES
                    return True
                if part and self._reader is not None and self._reader.holds_large_event:
                    frames = self._reader.feed(part)
                    await asyncio.sleep(0)
                    batch = self._decode_batch(part, frames)
                    await asyncio.sleep(0)
                elif part:
                    batch = self._decode_batch(part)
            except (EventTooLarge, *READ_ERRORS) as error:
                batch = self._on_failure(error)
            if batch is not None:
                self.over = batch.last
                if not to(batch) or batch.last:
                    return False
            await asyncio.sleep(0)
        return False

    async def _deliver_whole(self, to: Deliver) -> None:
        """Deliver an answer that came as one JSON object."""
        self._whole_has_ended = False
        batch = await in_steps(self.reading.take_whole_steps(self._form.take_whole(), as_stream=True))
        if self.reading.failure is not None:
            self._broken = self._upstream.failure_in(self.reading, self._call)
        elif (last := self._ended(batch)) is not None:
            self.over = True
            to(last)

    def _on_failure(self, error: Exception) -> Batch | None:
        """Return the last batch where *error* comes too late to matter; else the stream has broken."""
        if self.reading.finished:
            return self._ended(None)
        self._broken = self._cut(error)
        return None

    def _decode_batch(self, data: bytes, frames: Sequence[Frame] | None = None) -> Batch | None:
        """Return the batch that *data* completes, whose *frames* may be read already. None if there is nothing to deliver.

        Empty *data* is the end of the body.
        """
        reading = self.reading
        had, over = reading.outputs + reading.finishes, not data
        try:
            if over:
                batch = self._take_end()
            else:
                if frames is None:
                    frames = self._first_frames(data) if self._reader is None else self._reader.feed(data)
                batch = reading.take(frames)
        except (EventTooLarge, *READ_ERRORS) as error:
            return self._on_failure(error)
        if reading.outputs + reading.finishes != had and not reading.done:
            timeout, limit = self._timeout, FINISH_GRACE_SECONDS if reading.all_finished else self._idle
            if timeout.waiting and limit == timeout.limit:
                timeout.since = timeout.now()
            else:
                timeout.reset(limit)
            if self._permit is not None and self._permit.probes and reading.has_output and reading.failure is None:
                self._permit.succeeded()
        elif not reading.has_output and self._form.whole is None and (not frames or has_comment(data)):
            self._timeout.extend()  # the server has sent a comment or a blank line
        if reading.failure is not None:
            self._broken = self._upstream.failure_in(self.reading, self._call)
            return batch
        if reading.done or (over and reading.finished):
            return self._ended(batch)
        if over:
            self._broken = self._cut(EOFError("the stream ended before it was complete"))
        return batch

    def _first_frames(self, data: bytes) -> list[Frame]:
        """Take *data* while the answer is not known to be a stream."""
        frames, self._reader = self._form.feed(data), self._form.reader
        return frames

    def _take_end(self) -> Batch | None:
        """Take the end of the body."""
        frames, reading = self._form.end(), self.reading
        if (whole := self._form.whole) is not None:
            return reading.take_whole(self._form.echoed(b"".join(whole)), as_stream=True)
        return reading.take(frames)

    def _ended(self, batch: Batch | None) -> Batch | None:
        reading = self.reading
        last = batch or reading.held()
        last.last = True
        if reading.has_output or reading.says_why or reading.is_answered:
            return last
        self._broken = empty(self._request, last if reading.finished or self._form.whole is not None else None)
        return None

    async def _read_whole(self) -> Batch:
        reading = self.reading
        try:
            with self._timeout:
                body = await read_limited(self._response, MAX_ANSWER_BYTES, self._timeout.extend)
        except (ResponseTooLarge, TimeoutError, *READ_ERRORS) as error:
            raise self._cut(error) from error
        batch = await in_steps(reading.take_whole_steps(self._form.echoed(body), as_stream=False))
        if batch is None:
            raise self._upstream.failure_in(self.reading, self._call)
        self.over = True
        if reading.has_output or reading.says_why or reading.is_answered:
            return batch
        raise empty(self._request, batch)

    def _cut(self, error: Exception) -> UpstreamError:
        return cut_by(self.reading, self._request, error, self._upstream.secrets)


def _decoder(response: UpstreamResponse, request: httpx.Request) -> Decode | None:
    try:
        return decoder(response.header(b"content-encoding"))
    except httpx.DecodingError as error:
        raise broken_off(error, request) from error
