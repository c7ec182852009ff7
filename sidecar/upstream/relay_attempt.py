"""One attempt of a relayed call: send its request, and deliver the answer as bytes.

It bypasses the circuit breaker in both directions, as lists of models do. A failing route of an engine must not block chat
completions, and an open circuit of one model must not block other routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx

from policies.api.event import Batch
from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from policies.api.usage import Usage
from sidecar.upstream.errors.classify import broken_off, from_exception, interrupted, timed_out
from sidecar.upstream.transport.body_sender import UploadBroken
from sidecar.upstream.transport.content_encoding import inflater
from sidecar.upstream.transport.limited_read import ERROR_BODY_SECONDS, READ_ERRORS, read_error_body
from sidecar.wire.answer_headers import passed_headers
from sidecar.wire.relay.answer_head import answer_head
from sidecar.wire.relay.relayed_request import UploadFault, relayed
from sidecar.wire.relay.reported_tokens import TokenReports

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call
    from sidecar.upstream.transport.content_encoding import Inflater
    from sidecar.upstream.transport.response import UpstreamResponse
    from sidecar.wire.relay.relayed_request import AnswerHead, RelayedBody, Upload

    from .client import UpstreamClient

SUCCESSFUL_STATUSES = range(200, 300)


class RelayAttempt:
    """See `policies.api.upstream.Stream`. Its batches have bytes and no events."""

    has_finished = False
    _response: UpstreamResponse | None = None
    _upload: _TimedUpload | None = None
    """The body of the request while it may still be sent."""
    _reports: TokenReports | None = None
    _inflater: Inflater | None = None
    _steps: Iterator[bytes] | None = None
    _worked = False
    """Whether upstream may have worked: True once connected, unless a failure proves that it did not."""
    _has_delivered = False

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call, self._request = upstream, call, relayed(call)
        self._model = upstream.settings.named(call.model) if call.model else ""

    @property
    def usage(self) -> Usage:
        """Upstream's report; without one the attempt costs what a call is charged, if it may have worked."""
        if not self._worked:
            return Usage(model=self._model)
        prompt, output = (0, 0) if self._reports is None else (self._reports.prompt, self._reports.output)
        unreported = 1 if self._call.tokens_each and not (prompt or output) else 0
        return Usage(prompt, output, unreported=unreported, model=self._model)

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Raise `NotImplementedError`: the reservation of a relayed call does not grow."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self._open(self._body())
        except UpstreamError as error:
            self._worked = self._worked and error.worked
            self._mark_final(error)
            raise
        return self

    def _body(self) -> RelayedBody:
        """Return the body as this upstream gets it. Raises `Rejection` if its model cannot be replaced."""
        request, body = self._request, self._request.body
        if self._model == request.model:
            return request.fields.encoded() if request.is_normalised and request.fields is not None else body
        if request.fields is None:
            name = self._upstream.settings.name
            msg = f"The upstream {name!r} has another name for the model, and only JSON can be changed. Send that name."
            raise Rejection(400, "model_not_replaceable", msg)
        return request.fields.encoded(self._model)

    async def _open(self, body: RelayedBody) -> None:
        upstream, limits, request = self._upstream, self._upstream.settings, self._request
        try:
            async with asyncio.timeout(limits.whole) as wait:
                timed = self._upload = None if isinstance(body, bytes) else _TimedUpload(body, limits.idle)
                if timed is not None:
                    timed.limit(wait, limits.whole)
                headers = self._call.forwarded_headers
                response = await upstream.relay(headers, request, timed or body, self._on_connected)
                self._response = response
                if timed is not None:
                    timed.release()
        except UploadBroken as error:
            raise _rejection(error) from None
        except (TimeoutError, *READ_ERRORS) as error:
            raise from_exception(error, upstream.asked, sent=True) from error
        self._call.upstream_headers = passed_headers(response.fields, upstream.secrets.are_in)
        if response.status not in SUCCESSFUL_STATUSES:
            await self._refuse(response)
        try:
            self._inflater = inflater(response.header(b"content-encoding"))
        except httpx.DecodingError as error:
            raise broken_off(error, upstream.asked) from None
        self._reports = TokenReports(response.header(b"content-type"))
        request.received_bytes = 0
        request.answer = answer_head(
            response.status, response.fields, upstream.secrets.are_in, is_encoded=self._inflater is not None
        )

    def _on_connected(self) -> None:
        self._worked = True

    async def _refuse(self, response: UpstreamResponse) -> None:
        """Raise the failure of an answer with another status than success; its connection is released."""
        upstream, secrets = self._upstream, self._upstream.secrets_of(self._call.forwarded_headers)
        try:
            body = await read_error_body(response, within=min(ERROR_BODY_SECONDS, upstream.settings.head))
        finally:
            self._response = None
            await response.aclose()
        raise upstream.failure(response, body, self._model, secrets)

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """See `policies.api.upstream.Stream.deliver`. Each batch has one read, as it arrived.

        The batch that completes an announced length is the last one: a client that has read it may call again at once.
        """
        request = self._request
        head = request.answer
        assert head is not None  # for the type: the attempt was entered
        try:
            while request.received_bytes != head.length and (data := await self._next()):
                request.received_bytes += len(data)
                if head.length is not None and request.received_bytes > head.length:
                    msg = "the answer is longer than its content-length"
                    raise httpx.RemoteProtocolError(msg)
                if self._reports is not None:
                    self._reports.feed(data)
                if request.received_bytes == head.length:
                    self._end(to, data)
                    return
                self._has_delivered = True
                if not to(Batch(events=[], raw=data)):
                    return
            self._check_end(head)
            self._end(to, b"")
        except UploadBroken as error:
            raise _rejection(error) from None
        except (TimeoutError, *READ_ERRORS) as error:
            raise self._cut_by(error) from None

    def _check_end(self, head: AnswerHead) -> None:
        """Raise `httpx.RemoteProtocolError` if the body ended early. Other transports do not all compare its length."""
        is_short = head.length is not None and self._request.received_bytes < head.length
        if is_short or (self._inflater is not None and not self._inflater.is_complete):
            msg = "the answer is not complete"
            raise httpx.RemoteProtocolError(msg)

    def _end(self, to: Callable[[Batch], bool], data: bytes) -> None:
        if self._reports is not None:
            self._reports.end()
        to(Batch(events=[], raw=data, last=True))

    async def _next(self) -> bytes:
        """Return the next bytes of the body, decoded; empty at its end."""
        while True:
            for piece in self._steps or ():
                if piece:
                    await asyncio.sleep(0)  # a compressed read may have many pieces
                    return piece
            self._steps = None
            data = await self._read()
            if not data or self._inflater is None:
                return data
            self._steps = self._inflater.decode(data)

    async def _read(self) -> bytes:
        response = self._response
        assert response is not None  # for the type: the attempt was entered
        if data := response.take():
            return data
        upload, idle = self._upload, self._upstream.settings.idle
        async with asyncio.timeout(idle) as wait:
            if upload is None or upload.is_complete:
                return await response.read()
            upload.limit(wait, idle)
            try:
                return await response.read()
            finally:
                upload.release()

    def _cut_by(self, error: Exception) -> UpstreamError:
        asked = self._upstream.asked
        if isinstance(error, TimeoutError):
            failure = timed_out("idle_timeout" if self._has_delivered else "first_token_timeout", asked)
        elif self._has_delivered:
            failure = interrupted(asked, str(error), self._upstream.secrets_of(self._call.forwarded_headers))
        else:
            failure = broken_off(error, asked)
        self._mark_final(failure)
        return failure

    def _mark_final(self, error: UpstreamError) -> None:
        body = self._request.body
        error.is_final = not isinstance(body, bytes) and body.taken

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()


class _TimedUpload:
    """The *body* of a request, whose reads set how long the upstream may take.

    It has *idle* seconds to accept each piece. The client's own pace is not its fault: the server limits that.
    """

    def __init__(self, body: Upload, idle: float) -> None:
        self._body, self._idle, self._behind = body, idle, idle
        self._wait: asyncio.Timeout | None = None
        self._is_reading = self.is_complete = False
        self.length = body.length

    @property
    def received(self) -> int:
        return self._body.received

    @property
    def taken(self) -> bool:
        return self._body.taken

    def limit(self, wait: asyncio.Timeout, behind: float) -> None:
        """Set the end of *wait* until `release`: the upstream has *behind* seconds once it has the whole body."""
        self._wait, self._behind = wait, behind
        if self._is_reading:
            self._reschedule(None)

    def release(self) -> None:
        """Leave the timeout alone: what was awaited has arrived."""
        self._wait = None

    async def read(self) -> bytes:
        self._is_reading = True
        self._reschedule(None)
        data = await self._body.read()
        self._is_reading, self.is_complete = False, not data
        self._reschedule(self._idle if data else self._behind)
        return data

    def _reschedule(self, seconds: float | None) -> None:
        if self._wait is not None and not self._wait.expired():
            at = None if seconds is None else asyncio.get_running_loop().time() + seconds
            self._wait.reschedule(at)


def _rejection(error: UploadBroken) -> Rejection:
    fault = error.__cause__
    assert isinstance(fault, UploadFault)  # for the type: `upload_broken` makes such errors only
    return fault.rejection
