"""The number of tokens of a prompt as upstream counts them, as an attempt."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
import msgspec

from sidecar.upstream.errors.classify import from_exception, from_object
from sidecar.upstream.transport.limited_read import READ_ERRORS, ResponseTooLarge, read_error_body, read_limited
from sidecar.wire.answer_headers import passed_headers
from sidecar.wire.chunk import has_content
from sidecar.wire.error_object import MalformedAnswer, decode_error
from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.request.known_fields import CLIENT_FIELDS_STATE, DocumentedPart

from .whole_attempt import WholeAttempt

MAX_COUNT_BYTES = 65_536
"""Bytes of an answer: one number, and what a server adds to it."""


class _Count(msgspec.Struct, gc=False):
    """What is read of an answer."""

    input_tokens: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class TokenCountAttempt(WholeAttempt):
    """See `policies.api.upstream.Stream`: one batch, the JSON as upstream sent it. It costs nothing."""

    async def _body(self) -> bytes:
        """Request the number. Raises `UpstreamError`, also for an answer without a number."""
        call, upstream = self._call, self._upstream
        model = await upstream.model(call)
        fields = {**call.body, "model": model} if model else call.body
        if upstream.settings.fields == "known" and (sent := call.state.get(CLIENT_FIELDS_STATE)) is not None:
            fields = DocumentedPart(fields, cast("dict[str, Any]", sent), fields=COUNT_TOKENS.fields).body
        body = await self._answer(msgspec.json.encode(fields), model)
        if (fault := _fault_of(body)) is not None:
            secrets = upstream.secrets_of(call.forwarded_headers)
            raise from_object(fault, upstream.asked, secrets=secrets, own_key=upstream.own_key, now=upstream.clock())
        return body

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


def _fault_of(body: bytes) -> dict[str, Any] | MalformedAnswer | None:
    """Return the error object in *body*, or why it is no number of tokens; None for one that is."""
    try:
        found = msgspec.json.decode(body, type=_Count)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return MalformedAnswer("the answer has no number of tokens")
    if has_content(found.error):
        return decode_error(body) or {"message": ""}
    return None if len(found.input_tokens) else MalformedAnswer("the answer has no number of tokens")
