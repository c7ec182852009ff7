"""The number of tokens of a prompt as upstream counts them, as an attempt without a completion.

It bypasses the circuit breaker in both directions, as a list of models does. A server may count tokens while its models fail,
and may have no such route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import httpx
import msgspec

from policies.api.event import Batch, Event
from policies.api.usage import Usage
from sidecar.upstream.errors.classify import from_exception
from sidecar.upstream.transport.limited_read import READ_ERRORS, ResponseTooLarge, read_error_body, read_limited
from sidecar.wire.answer_headers import passed_headers
from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.request.known_fields import CLIENT_FIELDS_STATE, DocumentedPart

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call

    from .client import UpstreamClient

MAX_COUNT_BYTES = 65_536
"""Bytes of an answer: one number, and what a server adds to it."""


class TokenCountAttempt:
    """See `policies.api.upstream.Stream`: one batch, the JSON as upstream sent it. It costs nothing."""

    usage = Usage()
    has_finished = False

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Raise `NotImplementedError`: a count is one batch and reserves no tokens."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Request the number and deliver it as one batch. Raises `UpstreamError`."""
        call, upstream = self._call, self._upstream
        model = await upstream.model(call)
        fields = {**call.body, "model": model} if model else call.body
        if upstream.settings.fields == "known" and (sent := call.state.get(CLIENT_FIELDS_STATE)) is not None:
            fields = DocumentedPart(fields, cast("dict[str, Any]", sent), fields=COUNT_TOKENS.fields).body
        body = await self._answer(msgspec.json.encode(fields), model)
        to(Batch(events=[Event(index=-1, raw=body)], raw=body, last=True))

    async def _answer(self, sent: bytes, model: str) -> bytes:
        """Return the answer to the request body *sent*. Raises `UpstreamError`."""
        call, upstream, answer = self._call, self._upstream, None
        headers, path = call.forwarded_headers, COUNT_TOKENS.upstream_path
        try:
            async with asyncio.timeout(upstream.settings.head):
                answer = await upstream.ask(call, sent)
                call.upstream_headers = passed_headers(answer.fields, upstream.secrets.are_in)
                if answer.status == httpx.codes.OK:
                    return await read_limited(answer, MAX_COUNT_BYTES)
                refusal = await read_error_body(answer)
        except (ResponseTooLarge, TimeoutError, *READ_ERRORS) as error:
            raise from_exception(error, upstream.asked, sent=True) from error
        finally:
            if answer is not None:
                await answer.aclose()
        if upstream.routes.note_refusal("POST", path, answer.status, refusal, model):
            raise upstream.lacks_route(answer, path, model)
        raise upstream.failure(answer, refusal, model, upstream.secrets_of(headers))
