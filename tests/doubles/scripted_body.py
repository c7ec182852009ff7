"""The body of an answer whose bytes arrive when the test says so, without a socket."""

from __future__ import annotations

from policies.testing import make_call
from sidecar.config.upstream import ResolvedUpstream
from sidecar.upstream.answer_body import AnswerBody
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.progress_timeout import ProgressTimeout
from sidecar.upstream.transport.response import UpstreamResponse


class ScriptedResponse(UpstreamResponse):
    """A response whose bytes arrive when the test calls `arrive`."""

    def __init__(self) -> None:
        self.status, self._data, self.ended, self.broken = 200, b"", False, None
        self.fields = [(b"content-type", b"text/event-stream")]
        self.on_data = None

    def take(self) -> bytes:
        data, self._data = self._data, b""
        return data

    async def aclose(self) -> None:
        pass

    def arrive(self, data: bytes) -> None:
        self._data, self.ended = self._data + data, not data
        if self.on_data is not None:
            self.on_data(self.take())

    @property
    def has_listener(self) -> bool:
        return self.on_data is not None


def body_of(answer: ScriptedResponse, *, idle: float = 60.0, limit: float = 60.0) -> tuple[AnswerBody, ProgressTimeout]:
    """Return the body of a streamed *answer*, and its timeout of *limit* seconds for the first output."""
    upstream = UpstreamClient(ResolvedUpstream("http://up.example/v1", idle=idle), UnusedTransport(), clock=lambda: 0.0)
    timeout = ProgressTimeout(limit)
    return AnswerBody(upstream, make_call("hi"), answer, timeout, None, streams=True), timeout


class UnusedTransport:
    async def send(self, *_: object) -> ScriptedResponse:
        raise NotImplementedError

    send_streamed = send

    async def aclose(self) -> None:
        pass
