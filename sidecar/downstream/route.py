"""Serve one request: read it, run its call through a chain, and write the response."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from policies.api.call import Call
from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from policies.engine.chain import Chain
from policies.engine.due_queue import DueQueue
from policies.engine.error_report import error_report
from sidecar.config.access import Forbidden
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS
from sidecar.wire.operations.chat_nest import CHAT_NEST
from sidecar.wire.request.client_headers import (
    ClientHeaders,
    forwardable_headers,
    forwardable_names,
    idempotency_names,
    scoped_to_tenant,
)
from sidecar.wire.request.json_body import BadRequest

from .active_calls import ActiveCall
from .authentication import AmbiguousKeys, ExpiredKey, UnknownKey
from .client_connection import ClientConnection, Scope
from .client_errors import (
    ClientError,
    draining,
    error_for_rejection,
    forbidden,
    internal_error,
    invalid_request,
    method_not_allowed,
    owners_unavailable,
    unauthorized,
    unknown_object,
    unknown_reference,
)
from .ownership.owners import NotOwned, OwnersUnavailable
from .refusal_form import ChatNestRefusals, OperationRefusals, RefusalForm
from .request import LARGE_INFLATED_BODIES, ClientDisconnected, IncomingRequest, RequestRefused, request_id
from .request_record import RequestTrail
from .response import ClientResponse, write_error
from .upstream_failures import deadline_passed, empty_answer, error_for_upstream

if TYPE_CHECKING:
    from sidecar.wire.operations.operation import Operation

    from .services import RouteServices

CHAT_PATH, COMPLETIONS_PATH = CHAT_NEST.path, CHAT_COMPLETIONS.path
USAGE_PATH = "/v1/usage"
HEALTH_PATH, READY_PATH = "/healthz", "/readyz"
REQUEST_ID_HEADER = b"x-request-id"
TRACE_PARENT_HEADER = b"traceparent"
RETRY_COUNT_HEADER = b"x-stainless-retry-count"
"""How often OpenAI's SDKs have already sent the call."""


class Route(ABC):
    """One data route, as an ASGI application. A subclass reads the request and chooses the form of the response."""

    path: str
    method = "POST"
    operation: Operation = CHAT_COMPLETIONS
    """The API, whose errors the route sends."""

    def __init__(self, services: RouteServices) -> None:
        self.services = services
        self.large_inflated = asyncio.Semaphore(LARGE_INFLATED_BODIES)
        settings = services.settings
        self._forwardable = forwardable_names(
            settings.forward_headers,
            keyed=bool(settings.keys),
            passes_other_keys=any(each.pass_key_headers for each in settings.upstreams),
        )
        self._scoped = idempotency_names(self._forwardable) if settings.keys else ()
        """Headers whose values are scoped by tenant: with keys, all tenants share the sidecar's account at an upstream."""
        server = settings.server
        self._deadlines = _deadline_queue(server.deadline, services.loop)
        self._chat_deadlines = _deadline_queue(server.chat_deadline, services.loop)
        self._refusals: RefusalForm = OperationRefusals(self.operation)
        if self.path == CHAT_PATH:
            self._refusals = ChatNestRefusals(as_events=server.chat_refusals == "event")

    async def __call__(self, scope: Scope, connection: ClientConnection) -> None:
        """Serve the request of *scope* (ASGI) to its end: it is answered, settled, closed and recorded also if it fails."""
        services, clocks = self.services, self.services.policy_services
        headers: dict[bytes, bytes] = dict(scope["headers"])  # the last one of a repeated header
        name = request_id(headers.get(REQUEST_ID_HEADER), services.request_ids)
        trail = RequestTrail(
            request_id=name,
            route=self.path,
            method=scope["method"],
            started_at=clocks.clock(),
            begun=clocks.monotonic(),
        )
        try:
            if (prepared := await self._prepared(scope, connection, headers, trail)) is not None:
                await self._serve(*prepared, trail)
        finally:
            if connection.refused_as:
                trail.note_server_refusal(connection)
            if (observe := services.observe) is not None:
                observe(trail.record(connection.status, clocks.monotonic()))

    async def _prepared(
        self, scope: Scope, connection: ClientConnection, headers: dict[bytes, bytes], trail: RequestTrail
    ) -> tuple[IncomingRequest, Call, Chain, ClientResponse] | None:
        """Return what `_serve` needs; None for a request that was refused, or whose client has disconnected."""
        services = self.services
        try:
            trail.ip = services.trusted_proxies.client(scope)
            if (fault := services.origin_fault(scope, headers)) is not None:
                raise RequestRefused(fault)
            self._check_open(trail.method)
            access = services.keys.access(headers)
            trail.tenant, trail.key_id = access.tenant, access.key_id
            request = IncomingRequest(scope, connection, headers, trail.request_id, access, trail.ip)
            call, chain, response = await self.prepare(request)
            if services.observe is not None:
                trail.note_call(call, headers.get(TRACE_PARENT_HEADER))
            if access.limits_models:
                access.check(call)
            if services.active_calls.draining:  # since the request began
                raise RequestRefused(draining())
        except ClientDisconnected:
            return None
        except asyncio.CancelledError:  # the server ends this task: the time of a drain is over
            trail.error = draining()
            self._refuse(connection, trail.error, trail.request_id)
            raise
        except (RequestRefused, BadRequest, Forbidden, UnknownKey, NotOwned, OwnersUnavailable) as refusal:
            if isinstance(refusal, ExpiredKey):
                trail.tenant, trail.key_id = refusal.access.tenant, refusal.access.key_id
            trail.error = _client_error(refusal)
        except Exception as error:  # noqa: BLE001  # an internal error must not end the connection without a response
            services.policy_services.log.error("request %s: %s", trail.request_id, error_report(error))  # noqa: TRY400
            trail.error = internal_error()
        else:
            return request, call, chain, response
        self._refuse(connection, trail.error, trail.request_id)
        return None

    def _check_open(self, method: str) -> None:
        if method != self.method:
            raise RequestRefused(method_not_allowed(self.method))
        if self.services.active_calls.draining:
            raise RequestRefused(draining())

    @abstractmethod
    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """Read the request; return the call, the chain that it passes and the form of its response.

        Raises `RequestRefused`, `BadRequest`, `Forbidden` or `ClientDisconnected`; nothing is reserved yet.
        """

    def _refuse(self, connection: ClientConnection, error: ClientError, name: str) -> None:
        headers = [(REQUEST_ID_HEADER, name.encode())]
        if self.operation.names_request_id:
            headers.append((b"request-id", name.encode()))
        if self.services.active_calls.draining:
            headers.append((b"connection", b"close"))
        write_error(connection, error, headers, self._refusals)

    def call(self, request: IncomingRequest, body: dict[str, Any], **more: Any) -> Call:
        """Return the call for *body*. Its id never comes from the client: reservations are identified by it."""
        forwarded = forwardable_headers(request.scope["headers"], self._forwardable)
        forwarded["x-request-id"] = request.name
        for name in self._scoped:
            if name in forwarded:
                forwarded[name] = scoped_to_tenant(forwarded[name], request.access.tenant)
        return Call(
            id=self.services.request_ids() if REQUEST_ID_HEADER in request.headers else request.name,
            path=self.path,
            body=body,
            services=self.services.policy_services,
            tenant=request.access.tenant,
            ip=request.ip,
            headers=ClientHeaders(request.headers),
            forwarded_headers=forwarded,
            permitted_models=request.access.models,
            is_client_retry=request.headers.get(RETRY_COUNT_HEADER, b"0") != b"0",
            **more,
        )

    def response(self, form: type[ClientResponse], request: IncomingRequest) -> ClientResponse:
        """Return a response of this *form* to *request*."""
        return form(
            request.connection,
            request.name,
            operation=self.operation,
            refusals=self._refusals,
            clock=self.services.loop.time,
        )

    async def _serve(
        self, request: IncomingRequest, call: Call, chain: Chain, response: ClientResponse, trail: RequestTrail
    ) -> None:
        """Run *call* through *chain* while its client waits, and end the response."""
        services, connection = self.services, request.connection
        response.call = call
        trail.control = response.control = active = ActiveCall(response, services.loop)
        services.active_calls.add(active)
        services.heartbeats.watch(response)
        deadlines = self._chat_deadlines if response.sends_start_event else self._deadlines
        try:
            connection.watch(active.client_left)
            disconnected_before = active.left
            if disconnected_before:
                return
            if deadlines is not None:
                call.deadline = services.policy_services.monotonic() + deadlines.seconds
                deadlines.add(active, services.loop.time())
            with active:
                active.error = await self._outcome(call, chain, response, active) or active.error
            await active.absorb_late_cancel()
            if not active.left and active.error is not None and not response.ended:
                trail.error = active.error
                response.fail(active.error)
            else:
                trail.error = response.error
        except asyncio.CancelledError:  # see `_prepared`
            if not response.ended:
                trail.error = draining()
                response.fail(trail.error)
            raise
        finally:
            if deadlines is not None:
                deadlines.remove(active)
            services.active_calls.remove(active)
            services.heartbeats.forget(response)
            connection.unwatch()
            response.control = None  # else the two would refer to each other: a reference cycle

    async def _outcome(
        self, call: Call, chain: Chain, response: ClientResponse, active: ActiveCall
    ) -> ClientError | None:
        """Run the call; return the error to send to the client, None if the answer is complete."""
        services = self.services
        try:
            await chain.run(
                call,
                response,
                admitted=response.admitted if response.sends_start_event else None,
                control=active,
                last_lease=response.last_lease,
            )
        except Rejection as rejection:
            return error_for_rejection(rejection)
        except UpstreamError as error:
            if services.observe is None:
                services.policy_services.log.warning("call %s failed: %s (%s)", call.id, error.kind, error.reason)
            is_empty = error.kind == "empty" and response.sends_start_event
            return empty_answer() if is_empty else error_for_upstream(error)
        except Exception as error:  # noqa: BLE001  # of a policy, or ours; its message may hold a prompt
            services.policy_services.log.error("call %s failed: %s", call.id, error_report(error))  # noqa: TRY400
            return internal_error()
        return None


def _deadline_queue(seconds: float, loop: asyncio.AbstractEventLoop) -> DueQueue[ActiveCall] | None:
    """Return the queue that cancels calls which have run for *seconds*, their whole time; None for 0, no deadline."""
    if not seconds:
        return None
    call_at = partial(loop.call_at, context=Context())
    return DueQueue(
        seconds, lambda active: active.cancel_with(deadline_passed(seconds)), clock=loop.time, call_at=call_at
    )


def _client_error(
    error: RequestRefused | BadRequest | Forbidden | UnknownKey | NotOwned | OwnersUnavailable,
) -> ClientError:
    if isinstance(error, NotOwned):
        return (unknown_object if error.in_path else unknown_reference)(error.kind, error.stored_id)
    if isinstance(error, OwnersUnavailable):
        return owners_unavailable()
    if isinstance(error, RequestRefused):
        return error.error
    if isinstance(error, Forbidden):
        return forbidden(error.message, error.param)
    if isinstance(error, UnknownKey):
        return unauthorized(ambiguous=isinstance(error, AmbiguousKeys), expired=isinstance(error, ExpiredKey))
    return invalid_request(error.message, error.param, error.detail)
