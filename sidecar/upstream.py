"""One upstream over HTTP: a request out, its status to an error class, its bytes to batches of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import httpx
import msgspec

from .attempt import Attempt
from .breaker import Breaker, Open, Pass
from .dialect import Dialect, Manner
from .failures import from_exception, from_status, unavailable
from .listing import Listing
from .transport.limited_read import READ_ERRORS, ResponseTooLarge, read_error_body, read_limited
from .transport.response import Target
from .upstream_settings import AUTHORIZATION

if TYPE_CHECKING:
    from policies.call import Call
    from policies.upstream import Stream, UpstreamError

    from .transport.response import Connected, Headers, Transport, UpstreamResponse
    from .upstream_settings import UpstreamChoice

USER_AGENT = "user-agent"
MAX_MODELS = 4_194_304
_STREAM = [("accept", "text/event-stream"), ("content-type", "application/json")]
_WHOLE = [("accept", "application/json"), ("content-type", "application/json")]
CROSSING = frozenset(
    {"x-request-id", "idempotency-key", "openai-beta", "traceparent", "tracestate", "http-referer", "x-title"}
)
"""Request headers that go upstream; cookies and all others stay here."""
ACCOUNT = frozenset({"authorization", "openai-organization", "openai-project"})
"""Those that say who pays upstream: they only go where the sidecar has no key of its own."""
MAY_CROSS = frozenset(name.encode() for name in CROSSING | ACCOUNT)


def crossing(headers: Mapping[bytes, bytes], *, keyed: bool) -> dict[str, str]:
    """Return those of a caller's request headers that may go upstream, names in lower case; none that is not plain ASCII.

    Where callers have keys of ours (*keyed*) theirs stays here.
    """
    found = {}
    for name, said in headers.items():
        if name not in MAY_CROSS or (keyed and name == b"authorization"):
            continue
        value = said.decode("latin-1")
        if value.isascii() and value.isprintable():
            found[name.decode()] = value
    return found


class HttpUpstream:
    """One OpenAI-compatible server, shared by all calls."""

    def __init__(
        self,
        settings: UpstreamChoice,
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

    def open(self, call: Call) -> Stream:
        """Prepare one attempt at this server; nothing is sent before it is entered."""
        return Listing(self, call) if call.operation == "models" else Attempt(self, call)

    def enter(self) -> Pass:
        """Return the breaker's leave for one attempt.  Raises `UpstreamError` while it is open."""
        try:
            return self.breaker.enter()
        except Open as shut:
            raise unavailable(shut.wait, self.asked) from shut.cause

    def chat_body(self, call: Call, model: str, manner: Manner) -> bytes:
        """Return the body of a request for *call*, put in this *manner*."""
        body = self.dialect.body(call, model, manner)
        if self.settings.models and call.others:
            body = {**body, "models": [self.settings.named(other) for other in call.others]}
        return msgspec.json.encode(body)

    async def model(self, call: Call) -> str:
        """Return what the server is asked for: its name of the call's model, or its own where the client named none.

        Asks the server for its first model where nobody says, at most until it has answered once.  Raises `UpstreamError`.
        """
        name = self.name_of(call)
        if not name:
            self._model = name = _first_model(await self.models(call.headers))
        return name

    def name_of(self, call: Call) -> str:
        """Return what `model` would, without asking; empty where that is not known yet."""
        model = call.model
        if model in ("", call.stand_in):
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
