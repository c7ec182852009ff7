"""One upstream over HTTP: a request out, its status to an error class, its bytes to batches of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import httpx
import msgspec

from sidecar.config.upstream import AUTHORIZATION
from sidecar.upstream.errors.classify import from_exception, from_status, unavailable
from sidecar.upstream.transport.limited_read import READ_ERRORS, ResponseTooLarge, read_error_body, read_limited
from sidecar.upstream.transport.response import Target
from sidecar.wire.forwarded_headers import ACCOUNT

from .circuit_breaker import Breaker, BreakerOpen, Permit
from .dialect import Dialect, RequestStyle

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.upstream import UpstreamError
    from sidecar.config.upstream import ResolvedUpstream
    from sidecar.upstream.transport.response import Connected, Headers, Transport, UpstreamResponse

USER_AGENT = "user-agent"
MAX_MODELS = 4_194_304
_STREAM = [("accept", "text/event-stream"), ("content-type", "application/json")]
_WHOLE = [("accept", "application/json"), ("content-type", "application/json")]


class UpstreamClient:
    """One OpenAI-compatible server, shared by all calls."""

    def __init__(
        self,
        settings: ResolvedUpstream,
        transport: Transport,
        *,
        clock: Callable[[], float],
        breaker: Breaker | None = None,
    ) -> None:
        self.settings, self.transport, self.clock = settings, transport, clock
        self.breaker = breaker or Breaker(settings.breaker, time.monotonic)
        self.dialect = Dialect(settings.limit_field)
        self.secrets = settings.secrets
        query = dict(settings.query) or None
        chat_url = httpx.URL(f"{settings.endpoint}/chat/completions", params=query)
        headers = [("accept-encoding", "identity"), *settings.headers.items(), *settings.secret_headers.items()]
        if settings.key:
            header = settings.api_key_header.lower()
            headers.append((header, f"Bearer {settings.key}" if header == AUTHORIZATION else settings.key))
        own = frozenset(name.lower() for name, _ in headers)
        self._held = own if settings.pass_authorization else own | ACCOUNT
        """Headers of callers that do not go there."""
        if USER_AGENT not in own:
            headers.append((USER_AGENT, "chatnest-sidecar"))
        self._streamed = Target("POST", chat_url, [*headers, *_STREAM])
        self._at_once = Target("POST", chat_url, [*headers, *_WHOLE])
        self._listed = Target("GET", httpx.URL(f"{settings.endpoint}/models", params=query), headers)
        self._model = settings.model
        self.asked = httpx.Request("POST", chat_url)
        """What the exceptions of openai's SDK name as their request."""

    def enter(self) -> Permit:
        """Return the breaker's leave for one attempt.  Raises `UpstreamError` while it is open."""
        try:
            return self.breaker.enter()
        except BreakerOpen as shut:
            raise unavailable(shut.wait, self.asked) from shut.cause

    def chat_body(self, call: Call, model: str, manner: RequestStyle) -> bytes:
        """Return the body of a request for *call*, put in this *manner*."""
        body = self.dialect.body(call, model, manner)
        if self.settings.models and call.others:
            body = {**body, "models": [self.settings.named(other) for other in call.others]}
        return msgspec.json.encode(body)

    async def model(self, call: Call) -> str:
        """Return what the server is asked for: its name of the call's model, or its own where the client named none.

        Asks the server for its first model where nobody says, at most until it has answered once.  Raises `UpstreamError`.
        """
        name = self.name_of(call.model, substituted=not call.names_model)
        if not name:
            self._model = name = _first_model(await self.models(call.headers))
        return name

    def name_of(self, model: str, *, substituted: bool) -> str:
        """Return the server's name of *model* without asking it; empty where that is not known yet.

        *substituted*: the client named no model; one of this upstream's own takes precedence.
        """
        if substituted:
            model = self._model or model
        return self.settings.named(model) if self.settings.models else model

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is not known."""
        return self._model or ""

    async def models(self, headers: Mapping[str, str]) -> bytes:
        """Return the JSON list of the server's models.  Raises `UpstreamError`."""
        answer = None
        try:
            async with asyncio.timeout(self.settings.head):
                answer = await self.transport.send(self._listed, self._passed(headers), b"", _nothing)
                if answer.status != httpx.codes.OK:
                    raise self.failure(answer, await read_error_body(answer))
                return await read_limited(answer, MAX_MODELS)
        except (ResponseTooLarge, TimeoutError, *READ_ERRORS) as error:
            raise from_exception(error, self.asked, sent=True) from error
        finally:
            if answer is not None:
                await answer.aclose()

    def send(self, call: Call, body: bytes, on_connected: Connected) -> Awaitable[UpstreamResponse]:
        """Send *body* for *call* and return its answer, body unread; *on_connected* is called before the first byte is sent.

        Raises one of `READ_ERRORS`; a cancelled one closes its socket.
        """
        target = self._streamed if call.stream else self._at_once
        return self.transport.send(target, self._passed(call.headers), body, on_connected)

    def _passed(self, headers: Mapping[str, str]) -> Headers:
        held = self._held
        if held.isdisjoint(headers):
            return headers.items()
        return [each for each in headers.items() if each[0] not in held]

    def failure(self, answer: UpstreamResponse, body: bytes) -> UpstreamError:
        """Return what an answer with another status than 200 means."""
        return from_status(answer.status, answer.headers, body, self.asked, secrets=self.secrets, now=self.clock())

    async def aclose(self) -> None:
        """Close all connections."""
        await self.transport.aclose()


def _first_model(body: bytes) -> str:
    try:
        data = msgspec.json.decode(body)
        name = data["data"][0]["id"]
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def _nothing() -> None:
    return
