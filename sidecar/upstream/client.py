"""One upstream over HTTP: send its requests, read its list of models, classify its refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import httpx
import msgspec

from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.classify import from_exception, from_object, from_status, is_missing_model
from sidecar.upstream.errors.secret_values import Secrets
from sidecar.upstream.transport.limited_read import READ_ERRORS, ResponseTooLarge, read_error_body, read_limited
from sidecar.upstream.transport.response import Target
from sidecar.wire.answer_headers import passed_headers
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.operations.registry import operation_of
from sidecar.wire.relay.relayed_request import BODY_METHODS, relayed_url
from sidecar.wire.request.client_headers import ACCOUNT_HEADERS, KEY_HEADERS, OTHER_KEY_HEADERS
from sidecar.wire.request.known_fields import CLIENT_FIELDS_STATE, DocumentedPart
from sidecar.wire.stored.paths import PlainRequest

from .circuit_breaker import Breaker
from .dialect import Dialect, RequestStyle
from .listed_model import ListedModel, first_model
from .missing_route import MissingRoute, missing_route
from .progress_timeout import ProgressTimers
from .request_targets import LIST_ROUTE, RequestTargets
from .routing.answer_names import echo_of
from .routing.model_listing import ModelListing

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.config.upstream import ResolvedUpstream
    from sidecar.upstream.transport.response import Alive, Connected, Headers, Transport, UpstreamResponse
    from sidecar.wire.decoding.model_echo import ModelEcho
    from sidecar.wire.operations.operation import Reading
    from sidecar.wire.relay.relayed_request import RelayedBody, RelayedRequest

MAX_LIST_BYTES = 4_194_304
LISTED_REQUEST = PlainRequest("GET", LIST_ROUTE, LIST_ROUTE)
PLAIN_STATUSES = frozenset({httpx.codes.OK, httpx.codes.CREATED})
"""Statuses of an answer that is not a stream: some servers create conversations with 201."""


class UpstreamClient:
    """One OpenAI-compatible server, shared by all calls.

    *clock* is in seconds since 1970, *monotonic* in seconds.  *withheld* are client headers that only other upstreams name
    in their `forward_headers`.  *warn* writes a line to the log.  *keyed*: clients send keys of the sidecar, which are
    not forwarded.
    """

    def __init__(
        self,
        settings: ResolvedUpstream,
        transport: Transport,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        breaker: Breaker | None = None,
        withheld: frozenset[str] = frozenset(),
        warn: Callable[[str], None] | None = None,
        keyed: bool = False,
    ) -> None:
        self.settings, self.transport, self.clock = settings, transport, clock
        self.breaker = breaker or Breaker(settings.breaker, monotonic)
        self._is_strict = settings.fields == "known"
        self.rewritten_state = f"upstream.rewritten.{settings.name}"
        """The key in `call.state` for how a refused request was rewritten, and the repeats that are left."""
        self.routes = MissingRoute(settings.name, settings.base_url, warn or _ignore_warning)
        self.secrets = Secrets(settings.secrets)
        self.own_key = keyed or not (settings.pass_authorization or settings.pass_key_headers)
        """Whether requests have the sidecar's credentials, or none, and never the client's."""
        self.dialect = Dialect(settings.limit_field, monotonic, passes_keys=not self.own_key)
        self.targets = targets = RequestTargets(settings)
        self._held = targets.own_names | withheld
        if not settings.pass_authorization:
            self._held |= ACCOUNT_HEADERS
        if not settings.pass_key_headers:
            self._held |= OTHER_KEY_HEADERS
        """Headers of clients that are not forwarded."""
        self._listed_model = ListedModel(monotonic)
        self.listing = ModelListing(settings.name, lambda: self.models({}), monotonic, warn or _ignore_warning)
        """Its models, which are read only where routing needs them."""
        self.asked = httpx.Request("POST", targets.chat_url)
        """The request that exceptions of the OpenAI SDK name."""

    @cached_property
    def timers(self) -> ProgressTimers:
        """The timers of its answers, in the event loop that runs when they are first used."""
        return ProgressTimers()

    def request_body(self, call: Call, model: str, style: RequestStyle, *, streams: bool) -> bytes:
        """Return the body of a request for *call*, written in *style*; *streams*: the answer is to be a stream."""
        body = self.dialect.body(call, model, style, streams=streams)
        if self.settings.models and call.fallback_models:
            body = {**body, "models": [self.settings.named(other) for other in call.fallback_models]}
        if self._is_strict and (sent := call.state.get(CLIENT_FIELDS_STATE)) is not None:
            body = self._documented(call, body, sent)
        return msgspec.json.encode(body)

    def _documented(self, call: Call, body: dict[str, Any], sent: object) -> dict[str, Any]:
        """Return *body* without those fields of the client, *sent*, that are not documented; note them once."""
        part = DocumentedPart(body, cast("dict[str, Any]", sent), fields=operation_of(call).fields)
        if (note := part.note()) and (line := f"upstream {self.settings.name}: {note}") not in call.notes:
            call.note(line)
        return part.body

    def known_model(self, call: Call) -> str:
        """Return the model to request for *call*; empty where the server's list must be read first."""
        model = call.model
        substituted = model in ("", call.substituted_model)
        if substituted and self._listed_model.is_stale:
            return ""
        return self.name_of(model, substituted=substituted)

    async def model(self, call: Call) -> str:
        """Return the model to request for *call*; reads the server's list where the name is unknown or stale.

        A list that cannot be read raises `UpstreamError`, unless an earlier one is remembered.
        """
        listed = self._listed_model
        if not self.known_model(call):
            listed.refreshing()
            try:
                listed.learn(first_model(await self.models(call.forwarded_headers)))
            except UpstreamError:
                if not listed.name:
                    raise
        return self.name_of(call.model, substituted=not call.names_model)

    def name_of(self, model: str, *, substituted: bool) -> str:
        """Return the server's name of *model* without a request; empty while it is unknown.

        *substituted*: the client named no model, so this upstream's own default takes precedence over *model*.
        """
        if substituted:
            model = self.default_model or model
        if self.settings.models:
            model = self.settings.named(model)
        return model if self.listing.names is None else self.listing.names.spelled(model)

    def echo(self, call: Call) -> ModelEcho | None:
        """See `echo_of`."""
        return echo_of(self, call)

    @property
    def default_model(self) -> str:
        """The model of calls that name none: configured, else listed first; empty while it is unknown."""
        return self.settings.model or self._listed_model.name

    async def models(self, headers: Mapping[str, str], path: str = "", call: Call | None = None) -> bytes:
        """Return the JSON list of the server's models, or what it has at *path*, percent-encoded.  Raises `UpstreamError`.

        *call* is that of the client; None for the sidecar's own requests.
        """
        if not path:
            return await self.fetch(
                self.targets.listed, headers, b"", MAX_LIST_BYTES, call=call, request=LISTED_REQUEST
            )
        return await self.fetch(self.targets.at(path), headers, b"", MAX_LIST_BYTES, call=call)

    async def fetch(
        self,
        target: Target,
        headers: Mapping[str, str],
        body: bytes,
        limit: int,
        *,
        call: Call | None = None,
        request: PlainRequest | None = None,
    ) -> bytes:
        """Return the whole answer to a request that generates nothing, of at most *limit* bytes.  Raises `UpstreamError`.

        *headers* are the client's, to be forwarded.  *call* gets upstream's headers.  If the server lacks the route of
        *request*, that is logged once.
        """
        answer = None
        try:
            async with asyncio.timeout(self.settings.head):
                answer = await self.transport.send(target, self._passed(headers), body, _ignore_reached)
                if call is not None:
                    call.upstream_headers = passed_headers(answer.fields, self.secrets.are_in)
                if answer.status not in PLAIN_STATUSES:
                    refusal = await read_error_body(answer)
                    if request is not None:
                        self.routes.note_refusal(request.method, request.route, answer.status, refusal, request.id)
                    raise self.failure(answer, refusal, secrets=self.secrets_of(headers))
                return await read_limited(answer, limit)
        except (ResponseTooLarge, TimeoutError, *READ_ERRORS) as error:
            raise from_exception(error, self.asked, sent=True) from error
        finally:
            if answer is not None:
                await answer.aclose()

    def send(
        self, call: Call, model: str, style: RequestStyle, on_connected: Connected, on_alive: Alive, *, streams: bool
    ) -> Awaitable[UpstreamResponse]:
        """Request *model* for *call* in *style*, and return the answer, body unread.

        *streams*: the answer is to be a stream.  *on_connected* is called before the first byte is sent, *on_alive* for
        what arrives before the head is complete.  Raises one of `READ_ERRORS`; cancellation closes the socket.
        """
        headers = self._passed(call.forwarded_headers)
        body = self.request_body(call, model, style, streams=streams)
        return self.transport.send(self.targets.of(call, streams=streams), headers, body, on_connected, on_alive)

    def ask(self, call: Call, body: bytes) -> Awaitable[UpstreamResponse]:
        """Send *body* to the route of *call*, which generates nothing, and return the answer, body unread.  Raises as `send`."""
        headers = self._passed(call.forwarded_headers)
        return self.transport.send(self.targets.of(call, streams=False), headers, body, _ignore_reached)

    def relay(
        self, headers: Mapping[str, str], request: RelayedRequest, body: RelayedBody, on_connected: Connected
    ) -> Awaitable[UpstreamResponse]:
        """Send a relayed *request* with *body* and return the answer, body unread.

        *headers* are those of its call that may be forwarded. Raises as `send` does, and `UploadBroken`.
        """
        query = "&".join(filter(None, (request.query, urlencode(self.settings.query))))
        url = relayed_url(self.settings.endpoint, request.path) + (f"?{query}" if query else "")
        target = Target(request.method, httpx.URL(url), self.targets.listed.headers)
        sent = [*self._passed(headers), *request.headers.items()]
        if not isinstance(body, bytes):
            return self.transport.send_streamed(target, sent, body, on_connected)
        if not body and request.method in BODY_METHODS:
            sent.append(("content-length", "0"))
        return self.transport.send(target, sent, body, on_connected)

    def _passed(self, headers: Mapping[str, str]) -> Headers:
        held = self._held
        if held.isdisjoint(headers):
            return headers.items()
        return [each for each in headers.items() if each[0] not in held]

    def secrets_of(self, headers: Mapping[str, str]) -> Secrets:
        """Return what no text of the server may show: its own secrets, and the client's keys in the forwarded *headers*."""
        return self.secrets.plus(headers[name] for name in KEY_HEADERS if name in headers)

    def failure(
        self, answer: UpstreamResponse, body: bytes, model: str = "", secrets: Secrets | None = None
    ) -> UpstreamError:
        """Return the failure of an answer with another status than 200 to a request for *model*.

        If the server does not have *model*, the list is read again before the next call that names none.
        """
        error = from_status(
            answer.status,
            answer.headers,
            body,
            self.asked,
            secrets=secrets or self.secrets,
            own_key=self.own_key,
            now=self.clock(),
        )
        if is_missing_model(error):
            self._listed_model.forget(model)
            self.listing.doubt(model)
        return error

    def lacks_route(self, answer: UpstreamResponse, path: str, model: str) -> UpstreamError:
        """Return the failure of an *answer* to a request for *model* that means that the server has no route at *path*.

        Some servers do not name what they lack, a route or a model, so the list of models is read again too.
        """
        self._listed_model.forget(model)
        return missing_route(self.settings.name, path, answer.status, answer.headers, self.asked)

    def failure_in(self, reading: Reading, call: Call) -> UpstreamError:
        """Return the failure that was read instead of an answer to *call* under status 200.

        An error object before any output or usage report did no work; a malformed answer may have.
        """
        found, reported = reading.failure, reading.usage
        if isinstance(found, dict):
            self.routes.note_error(found.get("message") or "")
        secrets = self.secrets_of(call.forwarded_headers)
        failure = from_object(found, self.asked, secrets=secrets, own_key=self.own_key, now=self.clock())
        worked = reading.has_output or bool(reported.input or reported.output)
        failure.worked = worked or isinstance(found, MalformedAnswer)
        return failure

    async def aclose(self) -> None:
        """Close all connections."""
        await self.transport.aclose()


def _ignore_reached() -> None:
    return


def _ignore_warning(_: str) -> None:
    return
