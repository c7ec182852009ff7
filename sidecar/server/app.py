"""The Litestar application: data routes as `@asgi` handlers, health and readiness as ordinary routes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import HttpMethod, Litestar, Request, Response, asgi, route
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from policies.api.store import StoreDown
from policies.engine.error_report import error_report
from sidecar.downstream.asgi_connection import over_asgi
from sidecar.downstream.client_errors import (
    ClientError,
    internal_error,
    invalid_request,
    method_not_allowed,
    not_found,
    openai_body,
)
from sidecar.downstream.endpoints import ChatRoute, ModelRoute, ModelsRoute, OperationRoute, TokenCountRoute
from sidecar.downstream.relay.relay_route import RelayRoutes
from sidecar.downstream.request import new_request_id, request_id
from sidecar.downstream.route import (
    CHAT_PATH,
    HEALTH_PATH,
    READY_PATH,
    REQUEST_ID_HEADER,
    USAGE_PATH,
    Route,
)
from sidecar.downstream.stored.endpoints import stored_routes
from sidecar.downstream.unknown_path import advice, origin_of
from sidecar.downstream.usage.usage_route import UsageRoute
from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.operations.models import MODEL_ROUTE, MODELS_PATH
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS

from .cors import EXPOSED_HEADERS, Cors
from .gateway import Gateway
from .http1.http_limits import HTTP_LIMITS_STATE, HttpLimits, affordable_connections
from .shortcut import ROUTED_KEY, past_router, record_refused

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

DATA_ROUTES: Mapping[str, Callable[[Gateway], Route]] = {
    **{each.path: partial(OperationRoute, operation=each) for each in GOVERNED_OPERATIONS},
    COUNT_TOKENS.path: TokenCountRoute,
    CHAT_PATH: ChatRoute,
    MODELS_PATH: ModelsRoute,
    MODEL_ROUTE: ModelRoute,
    USAGE_PATH: UsageRoute,
    **stored_routes(),
}
"""Makes the routes of the data, by their paths."""


class Application:
    """The ASGI application and what runs behind it; `gateway` is there from startup to shutdown."""

    def __init__(self, settings: Settings, *, make_gateway: Callable[[Settings], Gateway] = Gateway) -> None:
        self._settings, self._make_gateway = settings, make_gateway
        self.gateway: Gateway | None = None
        self._routes: dict[str, Route] = {}
        self._limits: HttpLimits | None = None
        self._relays: RelayRoutes | None = None
        origins = list(settings.server.cors_origins)
        data = [self._data_route(path) for path in DATA_ROUTES if "{" not in path]  # `past_router` has the others
        litestar = Litestar(
            route_handlers=[*data, self._health(), self._readiness()],
            lifespan=[self._running],
            exception_handlers={HTTPException: _http_fault, Exception: _own_fault},
            openapi_config=None,
            logging_config=None,
        )
        state = {HTTP_LIMITS_STATE: lambda: self._limits}
        self.asgi: Any = past_router(litestar, self._routes, self._serving, state, self._relayed)
        if origins:
            self.asgi = Cors(
                self.asgi, CORSConfig(allow_origins=origins, expose_headers=list(EXPOSED_HEADERS)), self._serving
            )

    @asynccontextmanager
    async def _running(self, _: Litestar) -> AsyncIterator[None]:
        try:
            self.gateway = gateway = self._make_gateway(self._settings)
        except Exception as error:  # its traceback, which uvicorn logs, may be cut before it names the cause
            logging.getLogger("sidecar").error("cannot start: %s: %s", type(error).__name__, error)  # noqa: TRY400
            raise
        self._routes.update((path, kind(gateway)) for path, kind in DATA_ROUTES.items())
        self._relays = RelayRoutes(gateway) if self._settings.passthrough else None
        server = self._settings.server
        self._limits = HttpLimits(
            max_connections=affordable_connections(server.max_connections, gateway.policy_services.log.warning),
            body_timeout=server.body_timeout,
            buffered=gateway.buffered,
            record=self._record_refused,
            on_full=gateway.report_connections,
        )
        try:
            yield
        finally:
            await gateway.close()

    def _serving(self) -> Gateway | None:
        return self.gateway

    def _relayed(self, path: str) -> Route | None:
        return None if self._relays is None else self._relays.of(path)

    def _record_refused(self, name: str, error: ClientError, ip: str) -> None:
        record_refused(name, error, ip, None if self.gateway is None else self.gateway.observe)

    def _data_route(self, path: str) -> Any:
        @asgi(path, copy_scope=False)
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            scope[ROUTED_KEY] = True
            await over_asgi(self._routes[path], scope, receive, send)

        return serve

    def _gateway(self) -> Gateway:
        if self.gateway is None:
            msg = "the application has not been started: its lifespan makes the gateway"
            raise RuntimeError(msg)
        return self.gateway

    def _health(self) -> Any:
        @route(HEALTH_PATH, http_method=[HttpMethod.GET, HttpMethod.HEAD], sync_to_thread=False)
        def healthz(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
            """Report that the process is alive."""
            return _json(request, 200, {"status": "ok"})

        return healthz

    def _readiness(self) -> Any:
        @route(READY_PATH, http_method=[HttpMethod.GET, HttpMethod.HEAD])
        async def readyz(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
            """Report whether calls can be served: the store answers a ping, and the process is not draining.

            While the store is down, `limits` has what each policy does with its calls: `refuse` or `admit`. The cause is in the
            log alone, because anyone may ask. The circuit breakers are shown and do not count: a restart repairs no upstream.
            Sends nothing to an upstream.
            """
            gateway = self._gateway()
            upstreams = gateway.upstream.health
            if gateway.active_calls.draining:
                return _json(request, 503, {"status": "draining", "upstreams": upstreams})
            try:
                await gateway.policy_services.store.ping()
            except StoreDown as error:
                gateway.policy_services.state_changed("store", "down", str(error))
                limits = gateway.limits_meanwhile
                body = {"status": "store_unavailable", "store": "failing", "limits": limits, "upstreams": upstreams}
                return _json(request, 503, body)
            return _json(request, 200, {"status": "ready", "store": "ok", "upstreams": upstreams})

        return readyz


def _json(request: Request[Any, Any, Any], status: int, body: dict[str, Any]) -> Response[dict[str, Any]]:
    return Response(
        body,
        status_code=status,
        headers={"x-request-id": request_id(dict(request.scope["headers"]).get(REQUEST_ID_HEADER), new_request_id)},
    )


def _answer(request: Request[Any, Any, Any], fault: ClientError) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in fault.headers}
    headers["x-request-id"] = request_id(dict(request.scope["headers"]).get(REQUEST_ID_HEADER), new_request_id)
    return Response(openai_body(fault), status_code=fault.status, media_type="application/json", headers=headers)


def _http_fault(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotFoundException):
        scope: Any = request.scope
        return _answer(request, not_found(scope["path"], advice(scope["path"], origin_of(scope))))
    if isinstance(error, MethodNotAllowedException):
        return _answer(request, method_not_allowed((error.headers or {}).get("Allow", "GET")))
    if error.status_code < 500:  # noqa: PLR2004  # the line between the client's faults and ours
        return _answer(request, invalid_request(error.detail, None))
    return _own_fault(request, error)


def _own_fault(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logging.getLogger("sidecar").error("%s failed: %s", request.url.path[:100], error_report(error))
    return _answer(request, internal_error())
