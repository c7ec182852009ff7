"""Attempts at requests that generate nothing: they pass the same chain as every other call, and bypass the circuit breaker.

They bypass it in both directions. A server that answers them may still be unable to run a model, so an answer does not close
the breaker. And an open breaker must not fail clients that list models before their first call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httpx
import msgspec

from policies.api.event import Batch, Event
from policies.api.usage import Usage
from sidecar.upstream.errors.classify import from_object
from sidecar.upstream.transport.response import Target
from sidecar.wire.answer_form import MAX_ANSWER_BYTES
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.stored.created import created_by
from sidecar.wire.stored.paths import PLAIN_REQUEST_STATE, PlainRequest

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call

    from .client import UpstreamClient

_JSON_HEADERS = (("accept", "application/json"), ("content-type", "application/json"))
_NO_BODY_HEADERS = (("accept", "application/json"), ("content-length", "0"))
"""Of a POST without a body: some servers answer 411 to one without a length (RFC 9110, 15.5.12)."""


class WholeAttempt(ABC):
    """See `policies.api.upstream.Stream`: one batch, the JSON as upstream sent it."""

    usage = Usage()
    has_finished = False

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Raise `NotImplementedError`: the answer is one batch and reserves no tokens."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Request the answer and deliver it as one batch. Raises `UpstreamError`."""
        body = await self._body()
        to(Batch(events=[Event(index=-1, raw=body)], raw=body, last=True))

    @abstractmethod
    async def _body(self) -> bytes:
        """Return the whole answer. Raises `UpstreamError`."""


class PlainAttempt(WholeAttempt):
    """One request about a stored object: the `PlainRequest` in the state of its call."""

    async def _body(self) -> bytes:
        call, upstream = self._call, self._upstream
        request = cast("PlainRequest", call.state[PLAIN_REQUEST_STATE])
        body = b""
        if request.has_body:
            sent = {**call.body, "model": await upstream.model(call)} if request.has_model else call.body
            body = msgspec.json.encode(sent)
        answer = await upstream.fetch(
            self._target(request), call.forwarded_headers, body, MAX_ANSWER_BYTES, call=call, request=request
        )
        if not answer.lstrip()[:1] == b"{":
            raise from_object(MalformedAnswer("the answer is no JSON object"), upstream.asked)
        if (created := created_by(call)) is not None:
            created.note_answer(answer)
        return answer

    def _target(self, request: PlainRequest) -> Target:
        settings = self._upstream.settings
        own = dict(settings.query)
        query = [*own.items(), *(pair for pair in request.query if pair[0] not in own)]
        headers = [*self._upstream.targets.plain_headers]
        if request.has_body:
            headers += _JSON_HEADERS
        elif request.method == "POST":
            headers += _NO_BODY_HEADERS
        return Target(request.method, httpx.URL(f"{settings.endpoint}{request.path}", params=query or None), headers)
