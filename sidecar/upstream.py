"""One upstream over HTTP: a request out, its status to an error class, its bytes to batches of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from .attempt import Attempt
from .bounded import BROKEN, AnswerTooLarge, read_bounded, read_error
from .breaker import Breaker, Open, Pass
from .connector import REACHED, Connector
from .dialect import Dialect
from .failures import from_exception, from_status, unavailable
from .listing import Listing
from .upstream_settings import AUTHORIZATION

if TYPE_CHECKING:
    from ssl import SSLContext

    from policies.call import Call
    from policies.upstream import Stream, UpstreamError

    from .upstream_settings import UpstreamChoice

MAX_MODELS = 4_194_304
CROSSING = frozenset(
    {"x-request-id", "idempotency-key", "openai-beta", "traceparent", "tracestate", "http-referer", "x-title"}
)
"""Request headers that go upstream; cookies and all others stay here."""
ACCOUNT = frozenset({"authorization", "openai-organization", "openai-project"})
"""Those that say who pays upstream: they only go where the sidecar has no key of its own."""


def crossing(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of a caller's request headers that may go upstream, names in lower case; none that is not ASCII."""
    return {name: value for name, value in headers.items() if (name in CROSSING or name in ACCOUNT) and value.isascii()}


def make_transport(trust: SSLContext | None = None) -> httpx.AsyncBaseTransport:
    """Return the transport of the data path: no limit of connections, no cookies, no redirects, made lazily in the loop.

    *trust* says which certificates are good; None for those of the system's authorities.
    """

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Connector(trust), cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=2**18
        )

    return AiohttpTransport(client=session)


class HttpUpstream:
    """One OpenAI-compatible server, shared by all calls."""

    def __init__(
        self,
        settings: UpstreamChoice,
        transport: httpx.AsyncBaseTransport,
        *,
        clock: Callable[[], float],
        breaker: Breaker | None = None,
    ) -> None:
        self.settings, self.transport, self.clock = settings, transport, clock
        self.breaker = breaker or Breaker(settings.breaker, time.monotonic)
        self.dialect = Dialect(settings.limit_field)
        self.secrets = settings.secrets
        query = dict(settings.query) or None
        self._chat_url = httpx.URL(f"{settings.base_url}/chat/completions", params=query)
        self._models_url = httpx.URL(f"{settings.base_url}/models", params=query)
        self._timeout = {"timeout": {"connect": settings.connect, "read": None, "pool": None, "write": None}}
        self._headers = [("user-agent", "chatnest-sidecar"), ("accept-encoding", "identity")]
        self._headers += [*settings.headers.items(), *settings.secret_headers.items()]
        if settings.key:
            header = settings.api_key_header.lower()
            self._headers.append((header, f"Bearer {settings.key}" if header == AUTHORIZATION else settings.key))
        self._own = frozenset(name.lower() for name, _ in self._headers)
        self._model = settings.model
        self.unsent = self.models_request({})
        """What an attempt that has sent nothing yet names in its errors."""

    def open(self, call: Call) -> Stream:
        """Prepare one attempt at this server; nothing is sent before it is entered."""
        return Listing(self, call) if call.operation == "models" else Attempt(self, call)

    def enter(self) -> Pass:
        """Return the breaker's leave for one attempt.  Raises `UpstreamError` while it is open."""
        try:
            return self.breaker.enter()
        except Open as shut:
            raise unavailable(shut.wait, self.unsent) from shut.cause

    def _own_and(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        held = self._own if self.settings.pass_authorization else self._own | ACCOUNT
        return [*self._headers, *(each for each in headers.items() if each[0] not in held)]

    def chat_request(self, call: Call, model: str) -> httpx.Request:
        """Return the request for one attempt of *call*."""
        headers = [
            *self._own_and(call.headers),
            ("accept", "text/event-stream" if call.stream else "application/json"),
            ("content-type", "application/json"),
        ]
        body = self.dialect.body(call, model)
        if self.settings.models and call.others:
            body = {**body, "models": [self.settings.named(other) for other in call.others]}
        content = msgspec.json.encode(body)
        return httpx.Request("POST", self._chat_url, headers=headers, content=content, extensions=self._timeout)

    def models_request(self, headers: Mapping[str, str]) -> httpx.Request:
        """Return the request for the list of models."""
        return httpx.Request("GET", self._models_url, headers=self._own_and(headers), extensions=self._timeout)

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
        if call.names_model:
            return self.settings.named(call.model)
        return self.settings.named(self._model or call.model)

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is not known."""
        return self._model or ""

    async def models(self, headers: Mapping[str, str]) -> bytes:
        """Return the JSON list of the server's models.  Raises `UpstreamError`."""
        request = self.models_request(headers)
        response = None
        try:
            async with asyncio.timeout(self.settings.head):
                response = await self.transport.handle_async_request(request)
                if response.status_code != httpx.codes.OK:
                    raise self.failure(response, request, await read_error(response))
                return await read_bounded(response, MAX_MODELS)
        except (AnswerTooLarge, *BROKEN) as error:
            raise from_exception(error, request, sent=True) from error
        finally:
            if response is not None:
                await response.aclose()

    async def send(self, request: httpx.Request, *, within: float, reached: Callable[[], None]) -> httpx.Response:
        """Send *request* and return its answer, body unread; *reached* is called when it has a connection.

        Raises `UpstreamError`, also when there is no head *within* seconds; a cancelled one closes its socket.
        """
        REACHED.set(reached)
        try:
            async with asyncio.timeout(within):
                return await self.transport.handle_async_request(request)
        except BROKEN as error:
            raise from_exception(error, request, sent=True) from error

    def failure(self, response: httpx.Response, request: httpx.Request, body: bytes) -> UpstreamError:
        """Return what an answer with another status than 200 means."""
        return from_status(
            response.status_code, response.headers, body, request, secrets=self.secrets, now=self.clock()
        )

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
