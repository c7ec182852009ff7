"""One attempt at one upstream: send the request, deliver the answer batch by batch, close the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

from policies.api.upstream import UpstreamError
from policies.api.usage import Usage
from sidecar.upstream.errors.classify import from_exception, timed_out, unavailable
from sidecar.upstream.errors.error_body import refusal_text
from sidecar.upstream.transport.limited_read import ERROR_BODY_SECONDS, READ_ERRORS, read_error_body
from sidecar.wire.answer_headers import passed_headers
from sidecar.wire.operations.registry import operation_of

from .answer_body import AnswerBody, Deliver
from .circuit_breaker import BreakerOpen
from .dialect import ADAPTED_STATUSES
from .progress_timeout import ProgressTimeout

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call
    from policies.api.event import Batch
    from sidecar.upstream.transport.response import UpstreamResponse

    from .circuit_breaker import Permit
    from .client import UpstreamClient
    from .dialect import RequestStyle
    from .routing.load import UpstreamLoad

STATUS_OK = 200
MAX_REPEATS = 3
"""Repeats of a call at one upstream, in all attempts, after it refused a field or a ceiling that the sidecar added."""
TIMER_SLACK_SECONDS = 0.05
"""Timers of the event loop may fire this early."""
PROMPT_ONLY = Usage(unreported=1)
"""The usage of an attempt whose answer has not begun."""
BODY_END_SECONDS = 0.005
"""How long the end of a complete body is awaited, so that its connection can be reused."""


class Attempt:
    """See `policies.api.upstream.Stream`. On exit the connection is closed, unless the answer was read to its end."""

    _response: UpstreamResponse | None = None
    _body: AnswerBody | None = None
    _timeout: ProgressTimeout | None = None
    _permit: Permit | None = None
    _worked = False
    """Whether upstream may have read the prompt: True once connected, unless a failure proves that it did not."""
    _streams = False
    """Whether upstream was asked to stream; a call does not change while it is attempted."""
    _failed = False
    """Whether the attempt failed, by an error or by passing the deadline."""
    _model = ""

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    @property
    def usage(self) -> Usage:
        """Upstream's usage report if it arrived; else the estimated prompt and the tokens that were read.

        It is a lower bound for a call without `stream` whose client disconnected before the answer arrived: how much
        upstream had generated is unknown. A failed attempt costs its prompt and the tokens that were read.
        """
        if not self._worked:
            return Usage()
        body = self._body
        usage = PROMPT_ONLY if body is None else body.reading.usage
        exact = self._streams or self._failed or (body is not None and body.reading.done)
        return Usage(
            usage.input,
            usage.output,
            usage.cached,
            usage.unreported,
            exact=exact,
            model=self._model,
            written=usage.written,
        )

    @property
    def has_finished(self) -> bool:
        """See `policies.api.upstream.Stream.has_finished`."""
        return self._body is not None and self._body.reading.all_finished

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """See `policies.api.upstream.Stream.cut_off`."""
        assert self._body is not None  # for the type: an answer that is cut off has begun
        return self._body.reading.cut_off(sample, prompt_tokens)

    async def __aenter__(self) -> Self:
        call, upstream = self._call, self._upstream
        self._model = upstream.known_model(call)
        asked = self._model or upstream.name_of(call.model, substituted=not call.names_model)
        try:
            permit = self._permit = upstream.breaker.enter(call.tenant, asked, call.ip)
        except BreakerOpen as refusal:
            raise unavailable(refusal.wait, upstream.asked) from refusal.cause
        try:
            await self._open(permit)
        except BaseException as error:
            self._note_end(error)
            await self._close()
            raise
        return self

    async def _open(self, permit: Permit) -> None:
        call, upstream = self._call, self._upstream
        streams = self._streams = call.stream
        if not self._model:
            self._model = permit.model = await upstream.model(call)
        model = self._model
        style = known = upstream.dialect.style(model)
        repeats = MAX_REPEATS
        if (earlier := call.state.get(upstream.rewritten_state)) is not None:
            style, repeats = cast("tuple[RequestStyle, int]", earlier)
        limits = upstream.settings
        # A server that does not stream sends its head together with its whole answer.
        head_limit = limits.head if streams else limits.whole
        timeout = self._timeout = ProgressTimeout(head_limit, upstream.timers)
        for left in range(repeats, -1, -1):
            if call.is_large:
                await asyncio.sleep(0)  # measuring and encoding a large prompt take an iteration each
            try:
                with timeout:
                    sending = upstream.send(call, model, style, self._on_connected, self._on_alive, streams=streams)
                    response = self._response = await sending
            except (TimeoutError, *READ_ERRORS) as error:
                raise from_exception(error, upstream.asked, sent=True) from error
            permit.answered()
            call.upstream_headers = passed_headers(response.fields, upstream.secrets.are_in)
            if response.status == STATUS_OK:
                if style is not known:
                    if call.is_large:
                        await asyncio.sleep(0)
                    upstream.dialect.learn(model, known, style, call)
                if streams:
                    timeout.reset(limits.first_token)
                self._body = AnswerBody(upstream, call, response, timeout, permit, streams=streams)
                return
            failure, text = await self._read_refusal(response)
            if not left:
                break
            other = upstream.dialect.after_refusal(call, style, response.status, text, is_last=left == 1)
            if other is None:
                break
            style = other
            call.state[upstream.rewritten_state] = (style, left - 1)
            self._worked = False
            timeout.reset(head_limit)
        try:
            raise failure
        finally:
            del failure  # else the traceback of the error would refer to the error: a reference cycle

    def _on_connected(self) -> None:
        self._worked = True

    def _on_alive(self) -> None:
        """Extend the wait for the head: the server has sent something before it."""
        if self._timeout is not None:
            self._timeout.extend()

    async def _read_refusal(self, response: UpstreamResponse) -> tuple[UpstreamError, str]:
        """Return the failure for a status other than 200, and its text if the request may be adapted.

        Releases the connection.
        """
        try:
            body = await read_error_body(response, within=min(ERROR_BODY_SECONDS, self._upstream.settings.head))
            path, upstream = operation_of(self._call).upstream_path, self._upstream
            if upstream.routes.note_refusal("POST", path, response.status, body, self._model):
                failure = upstream.lacks_route(response, path, self._model)
            else:
                failure = upstream.failure(
                    response, body, self._model, upstream.secrets_of(self._call.forwarded_headers)
                )
        finally:
            self._response = None
            await response.aclose()
        return failure, refusal_text(body) if response.status in ADAPTED_STATUSES else ""

    def deliver(self, to: Deliver) -> Coroutine[Any, Any, None]:
        """See `policies.api.upstream.Stream.deliver`."""
        if self._body is None:
            msg = "deliver() was called before the attempt was entered"
            raise RuntimeError(msg)
        return self._body.deliver(to)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note_end(error)
        try:
            if kind is None and self._response is not None and not self._response.ended:
                await self._read_body_end(self._response)
        finally:
            await self._close()

    async def _read_body_end(self, response: UpstreamResponse) -> None:
        """Wait up to `BODY_END_SECONDS` for the end of a complete body, so that its connection can be reused."""
        if self._body is None or not self._body.over:
            return
        try:
            async with asyncio.timeout(BODY_END_SECONDS):
                await response.read()
        except (TimeoutError, *READ_ERRORS):
            pass

    def _note_end(self, error: BaseException | None) -> None:
        """Derive from *error* whether the attempt costs something, and report its result to the circuit breaker.

        An attempt that fails after output has failed too.
        """
        permit, late = self._permit, error is not None and _deadline_passed(self._call)
        connected = self._worked
        if isinstance(error, UpstreamError):
            self._failed, self._worked = True, self._worked and error.worked
        self._failed = self._failed or late
        if permit is None:
            return
        if isinstance(error, UpstreamError):
            permit.failed(error, connected=connected)
        elif self._body is not None and (self._body.reading.has_output or self._body.over):
            permit.succeeded()
        elif late:
            permit.failed(timed_out("first_token_timeout", self._upstream.asked))
        else:
            permit.release()

    async def _close(self) -> None:
        response, self._response = self._response, None
        if self._timeout is not None:
            self._timeout.stop()
        if response is not None:
            await response.aclose()


class CountedAttempt(Attempt):
    """An attempt at one of several upstreams. It counts in the load of its upstream while it runs.

    It counts before anything is awaited, so that calls of one event-loop iteration see each other.
    """

    def __init__(self, upstream: UpstreamClient, call: Call, load: UpstreamLoad) -> None:
        super().__init__(upstream, call)
        self._load = load

    async def __aenter__(self) -> Self:
        self._load.begin()
        try:
            return await super().__aenter__()
        except BaseException:
            self._load.end()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._load.end()


def _deadline_passed(call: Call) -> bool:
    """Whether the call has reached its deadline; upstream has failed if it sent no output until then."""
    return call.deadline is not None and call.services.monotonic() + TIMER_SLACK_SECONDS >= call.deadline
