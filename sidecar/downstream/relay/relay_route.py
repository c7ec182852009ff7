"""Routes that `[server] passthrough` names: under keys, limits and sizes, and relayed as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.api.requests.request_form import PRICED_RELAY_REQUEST, RELAYED_REQUEST
from sidecar.config.access import Forbidden
from sidecar.downstream.buffered_bodies import HeldBody
from sidecar.downstream.client_errors import (
    body_too_large,
    draining,
    error_for_rejection,
    method_not_allowed,
    not_found,
    unread_requests_full,
    unsupported_encoding,
)
from sidecar.downstream.request import IncomingRequest, RequestRefused, announced_length, content_coding, read_body
from sidecar.downstream.route import Route
from sidecar.wire.relay.form_model import FormReader, boundary_of
from sidecar.wire.relay.json_model import JsonFields
from sidecar.wire.relay.query import relayed_query
from sidecar.wire.relay.relayed_request import BODY_METHODS, RELAY_STATE, RelayedRequest, UploadFault, relayed
from sidecar.wire.request.client_headers import is_header_value
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.routing_fields import RoutingField

from .relay_response import RelayResponse
from .upload import FORBIDDEN_STATUS, PREFIX_BYTES, UPLOAD_WINDOW_BYTES, ClientUpload

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.engine.chain import Chain
    from sidecar.config.relay.passthrough import Passthrough
    from sidecar.downstream.client_connection import ClientConnection, Scope
    from sidecar.downstream.request_record import RequestTrail
    from sidecar.downstream.response import ClientResponse
    from sidecar.downstream.services import RouteServices
    from sidecar.wire.relay.query import RelayedQuery

RELAYED_HEADERS = (b"content-type", b"accept")
"""Request headers about the bodies, which are sent upstream beside those of all calls."""
MAX_RELAYED_VALUE_BYTES = 1_024
HELD_KEY = "sidecar.held"
"""The key in the scope of a request for what it holds of `max_buffered`."""
FORM_TYPE = b"multipart/form-data"
BAD_REQUEST_STATUS = 400
NOT_READABLE = "limits or the key's `models` depend on the model of this request, and it cannot be read"


class RelayRoute(Route):
    """One relayed route; see `Passthrough`."""

    def __init__(self, services: RouteServices, relay: Passthrough) -> None:
        self.path, self._relay = relay.path, relay
        super().__init__(services)
        self._own_parameters = frozenset(name.lower() for each in services.settings.upstreams for name in each.query)

    @property
    def has_ids(self) -> bool:
        """Whether its paths have ids."""
        return self._relay.pattern.has_ids

    def has(self, path: str) -> bool:
        """Whether *path*, the decoded path of a request, is one of its paths."""
        return self._relay.pattern.filled(path) is not None

    async def __call__(self, scope: Scope, connection: ClientConnection) -> None:
        """See `Route`. What an upload holds counts as unread bytes of its tenant until the request is over."""
        scope[HELD_KEY] = held = list[HeldBody]()
        try:
            await super().__call__(scope, connection)
        finally:
            for each in held:
                each.release()

    def _check_open(self, method: str) -> None:
        if method not in self._relay.methods:
            raise RequestRefused(method_not_allowed(", ".join(self._relay.methods)))
        if self.services.active_calls.draining:
            raise RequestRefused(draining())

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """See `Route`. A body that is JSON, or short, is read; any other one streams through once the call is admitted."""
        relay, access, scope = self._relay, request.access, request.scope
        path = relay.pattern.filled(scope["path"])
        if path is None:  # `RelayRoutes` has found this route by its path
            raise RequestRefused(not_found(scope["path"]))
        query = relayed_query(scope["query_string"], self._own_parameters)
        profile = request.profile
        call = self.call(
            request,
            {},
            operation=PRICED_RELAY_REQUEST if relay.tokens_each else RELAYED_REQUEST,
            profile=profile.name,
            tokens_each=relay.tokens_each,
            required_upstream=relay.upstream,
        )
        sent = RelayedRequest(
            method=scope["method"], path=path, query=query.text, headers=_relayed_headers(request.headers), body=b""
        )
        call.state[RELAY_STATE] = sent
        must_know = relay.names_model and access.depends_on_model(call)
        await self._take_body(request, call, sent, must_know=must_know)
        if must_know:
            _check_models(call, sent, query)
        return call, self.services.chains[profile.owner, profile.name], self.response(RelayResponse, request)

    async def _take_body(self, request: IncomingRequest, call: Call, sent: RelayedRequest, *, must_know: bool) -> None:
        """Set the body of *sent*, and the model that it names. Raises as `prepare` does."""
        headers, length = request.headers, announced_length(request.headers)
        if sent.method not in BODY_METHODS:
            if length or b"transfer-encoding" in headers:
                msg = f"A {sent.method} request may have no body on this route. Send it without one."
                raise BadRequest(msg)
            return
        if content_coding(headers):
            raise RequestRefused(unsupported_encoding())
        if length is not None and length > self._relay.max_body:
            raise RequestRefused(body_too_large(self._relay.max_body))
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind == b"application/json" or kind.endswith(b"+json"):
            await self._take_json(request, call, sent, must_know=must_know)
        elif length != 0:
            await self._take_stream(request, call, sent, is_form=kind == FORM_TYPE, must_know=must_know)

    async def _take_json(self, request: IncomingRequest, call: Call, sent: RelayedRequest, *, must_know: bool) -> None:
        services = self.services
        held = HeldBody(services.buffered, request.access.tenant)
        limit = min(self._relay.max_body, services.settings.server.max_body)
        try:
            sent.body = await read_body(request.connection, request.headers, limit, held)
        finally:
            held.release()
        fields = JsonFields.of(sent.body) if sent.body else None
        if fields is None:
            if must_know:
                raise _unknown_model(call, f"The body is not a JSON object: {NOT_READABLE}.", "body")
            return
        sent.fields, sent.is_normalised = fields, must_know
        if must_know:
            sent.headers["content-type"] = "application/json"  # another charset may hold another model
        call.body.update(fields.texts())
        sent.model = call.model

    async def _take_stream(
        self, request: IncomingRequest, call: Call, sent: RelayedRequest, *, is_form: bool, must_know: bool
    ) -> None:
        headers, length = request.headers, announced_length(request.headers)
        boundary = boundary_of(headers.get(b"content-type", b"").decode("latin-1")) if is_form else None
        if must_know and boundary is None:
            raise _unknown_model(call, f"Send JSON, or a form with a plain boundary: {NOT_READABLE}.")
        form = None if boundary is None else FormReader(boundary)
        refusal_status = (
            None if not must_know else BAD_REQUEST_STATUS if call.permitted_models is None else FORBIDDEN_STATUS
        )
        held = HeldBody(self.services.buffered, call.tenant)
        request.scope[HELD_KEY].append(held)
        if not held.add(UPLOAD_WINDOW_BYTES):
            raise RequestRefused(unread_requests_full())
        upload = ClientUpload(request.connection, self._relay.max_body, length, form, refusal_status)
        if form is not None or length is None or length <= PREFIX_BYTES:
            try:
                await upload.read_prefix()
            except UploadFault as fault:
                raise RequestRefused(error_for_rejection(fault.rejection)) from None
        if upload.model:
            call.model = sent.model = upload.model
        if upload.is_complete:
            sent.body = upload.whole()
            held.release()
        else:
            request.connection.stream_body()
            sent.body = upload

    async def _serve(
        self, request: IncomingRequest, call: Call, chain: Chain, response: ClientResponse, trail: RequestTrail
    ) -> None:
        """See `Route._serve`."""
        sent = relayed(call)
        try:
            await super()._serve(request, call, chain, response, trail)
        finally:
            body = sent.body
            trail.request_bytes = len(body) if isinstance(body, bytes) else body.received
            trail.answer_bytes = sent.received_bytes


class RelayRoutes:
    """All relayed routes of a process, found by the path of a request."""

    def __init__(self, services: RouteServices) -> None:
        routes = [RelayRoute(services, each) for each in services.settings.passthrough]
        self._fixed = {route.path: route for route in routes if not route.has_ids}
        self._named = [route for route in routes if route.has_ids]

    def of(self, path: str) -> RelayRoute | None:
        """Return the route of *path*, the decoded path of a request; a path without ids takes precedence."""
        if (route := self._fixed.get(path)) is not None:
            return route
        return next((route for route in self._named if route.has(path)), None)


def _relayed_headers(headers: dict[bytes, bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in RELAYED_HEADERS:
        value = headers.get(name, b"").decode("latin-1")
        if value and len(value) <= MAX_RELAYED_VALUE_BYTES and is_header_value(value):
            found[name.decode()] = value
    return found


def _unknown_model(call: Call, message: str, field: str = "model") -> Forbidden | BadRequest:
    """Return the refusal of a request whose model must be known and is not: 403 if the key has `models`."""
    return BadRequest(message, field) if call.permitted_models is None else Forbidden(message, field)


def _check_models(call: Call, sent: RelayedRequest, query: RelayedQuery) -> None:
    """Raise `Forbidden` or `BadRequest` unless body and query name one model, and nothing else that could choose one.

    A request without a body chooses a model only by its query.
    """
    try:
        if sent.fields is not None:
            sent.fields.check()
    except RoutingField as fault:
        raise _unknown_model(call, f"{fault}: {NOT_READABLE}.", fault.field) from None
    names = {*query.models, *([sent.model] if sent.model else [])}
    if query.routing:
        parameter = query.routing[:60]
        raise _unknown_model(
            call, f"The parameter {parameter!r} may choose a model or a server: {NOT_READABLE}.", parameter
        )
    if len(names) > 1:
        raise _unknown_model(call, f"Query and body name different models: {NOT_READABLE}.")
    if names:
        sent.model = call.model = names.pop()
    elif sent.method in BODY_METHODS:
        raise _unknown_model(call, f"Name a model: {NOT_READABLE}.")
