"""Requests about stored responses and conversations, as attempts."""

from __future__ import annotations

from typing import cast

import httpx
import msgspec

from sidecar.upstream.errors.classify import from_object
from sidecar.upstream.transport.response import Target
from sidecar.wire.answer_form import MAX_ANSWER_BYTES
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.stored.created import created_by
from sidecar.wire.stored.paths import PLAIN_REQUEST_STATE, PlainRequest

from .whole_attempt import WholeAttempt

_JSON_HEADERS = (("accept", "application/json"), ("content-type", "application/json"))
_NO_BODY_HEADERS = (("accept", "application/json"), ("content-length", "0"))
"""Of a POST without a body: some servers answer 411 to one without a length (RFC 9110, 15.5.12)."""


class StoredAttempt(WholeAttempt):
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
