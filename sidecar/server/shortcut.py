"""The ASGI application in front of Litestar: a shortcut to the data routes, and records of all other requests."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from policies.api.lease import Ending
from policies.records.record import Record
from sidecar.downstream.asgi_connection import over_asgi
from sidecar.downstream.client_connection import CONNECTION_EXTENSION
from sidecar.downstream.refusal_form import OPENAI_REFUSALS
from sidecar.downstream.request import new_request_id, request_id
from sidecar.downstream.request_record import CLIENT_CLOSED_REQUEST
from sidecar.downstream.route import HEALTH_PATH, READY_PATH, REQUEST_ID_HEADER
from sidecar.wire.operations.models import MODEL_PREFIX, MODEL_ROUTE
from sidecar.wire.stored.paths import stored_route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.downstream.client_connection import ClientConnection, Receive, Scope, Send
    from sidecar.downstream.client_errors import ClientError
    from sidecar.downstream.services import Observe, RouteServices

    AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
    DataRoute: TypeAlias = Callable[[Scope, ClientConnection], Awaitable[None]]

ROUTED_KEY = "sidecar.routed"
"""Set in the scope of a request that reached a data route through the router: the route leaves the record."""
OPERATION_ROUTES = (HEALTH_PATH, READY_PATH)
ROOT_PATH = "/"
UNKNOWN_ROUTE = "unknown"
"""The route in the record of a request whose path is not served: paths are chosen by clients."""
FIRST_ERROR, NOT_FOUND, METHOD_NOT_ALLOWED, BAD_REQUEST, INTERNAL_ERROR = 400, 404, 405, 400, 500
CODES_BY_STATUS = {BAD_REQUEST: "invalid_request", NOT_FOUND: "not_found", METHOD_NOT_ALLOWED: "method_not_allowed"}


def past_router(
    litestar: AsgiApp,
    routes: Mapping[str, DataRoute],
    services: Callable[[], RouteServices | None],
    server_state: Mapping[str, Any],
    relayed: Callable[[str], DataRoute | None],
) -> AsgiApp:
    """Return *litestar* with a shortcut past its router for the data *routes*, which it serves in the same way.

    Measured: the router and its layers take 9 to 14 us of a call, a twentieth. A request without the server's own
    connection goes through the router. Routes with ids never do: Litestar's ASGI handlers have no path
    parameters. Nor do the routes that *relayed* returns for a path. Data routes check the request's origin and write their records themselves; for all other requests both are
    done here. Health routes are served under any host and to any page: probes send various names. *server_state* is added
    to the lifespan state, for the server's own connections.
    """

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            route = routes.get(path) or _route_with_ids(routes, path) or relayed(path)
            if route is None:
                serving = services()
                fault = None if serving is None else serving.origin_fault(scope, dict(scope["headers"]))
                if fault is None and path == ROOT_PATH and scope["method"] == "HEAD":
                    await recorded(_reachable, scope, receive, send, serving)
                elif fault is None or (fault.status != BAD_REQUEST and path.rstrip("/") in OPERATION_ROUTES):
                    await recorded(litestar, scope, receive, send, serving)
                else:
                    await recorded(_answering(fault), scope, receive, send, serving, code=fault.code)
                return
            own = scope.get("extensions", {}).pop(CONNECTION_EXTENSION, None)
            if own is not None:
                await route(scope, own)
                return
            if path not in routes or "{" in path:
                await over_asgi(route, scope, receive, send)
                return
        elif scope["type"] == "lifespan":
            if (state := scope.get("state")) is not None:
                state.update(server_state)
            send = _without_cancellation(send)
        await litestar(scope, receive, send)

    return asgi


def _without_cancellation(send: Send) -> Send:
    """Return *send* for the lifespan, where Litestar reports a shutdown as failed, with its traceback, if it was cancelled.

    A server that ends at once cancels all tasks; that is no failure, so the event has no message, which would be logged.
    """

    async def send_event(message: Any) -> None:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            message = {key: value for key, value in message.items() if key != "message"}
        await send(message)

    return send_event


def _route_with_ids(routes: Mapping[str, DataRoute], path: str) -> DataRoute | None:
    """Return the route of one model, or of a stored object, if *path* has its form.

    The list of models with a trailing slash is the list itself.
    """
    if path.startswith(MODEL_PREFIX) and path != MODEL_PREFIX:
        return routes.get(MODEL_ROUTE)
    found = stored_route(path)
    return None if found is None else routes.get(found)


def _answering(fault: ClientError) -> AsgiApp:
    """Return an application that answers every request with *fault*."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  # the form of ASGI
        status, headers, body = OPENAI_REFUSALS.encoded(fault)
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return asgi


async def _reachable(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  # the form of ASGI
    """Answer `HEAD /`, by which Claude Code finds out whether a server can be reached. It costs nothing and needs no key."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def recorded(
    app: AsgiApp, scope: Scope, receive: Receive, send: Send, services: RouteServices | None, *, code: str = ""
) -> None:
    """Serve a request with *app*, and hand its record to the observers; *services* is None during startup.

    A response without a request id gets one. *code* is that of the record; by default the status decides.
    """
    observe = None if services is None else services.observe
    started_at, begun, status, name = time.time(), time.monotonic(), 0, b""

    async def send_noting_head(message: Any) -> None:
        nonlocal status, name
        if message["type"] == "http.response.start":
            status, fields = message["status"], message.get("headers", ())
            name = dict(fields).get(REQUEST_ID_HEADER, b"")
            if not name:  # such as Litestar's own answer to OPTIONS
                name = request_id(dict(scope["headers"]).get(REQUEST_ID_HEADER), new_request_id).encode()
                message = {**message, "headers": [*fields, (REQUEST_ID_HEADER, name)]}
        await send(message)

    own = scope.get("extensions", {}).get(CONNECTION_EXTENSION)
    try:
        await app(scope, receive, send_noting_head)
    finally:
        if observe is not None and services is not None and ROUTED_KEY not in scope:
            path: str = scope["path"]
            if own is not None:
                status = own.status
                if own.refused_as:
                    name, code = own.refused_id.encode(), own.refused_as
            ending, usual_code = _end_of(status)
            record = Record(
                request_id=name.decode("latin-1"),
                started_at=started_at,
                total_seconds=time.monotonic() - begun,
                method=scope["method"],
                route=path if path in OPERATION_ROUTES or app is _reachable else UNKNOWN_ROUTE,
                status=status or CLIENT_CLOSED_REQUEST,
                ending=ending,
                code=code or usual_code,
                ip=services.trusted_proxies.client(scope),
            )
            observe(record)


def _end_of(status: int) -> tuple[Ending, str]:
    """Return the ending and the code of a request that got *status*; 0 stands for none."""
    if not status:
        return Ending.CANCELLED, ""
    if status == INTERNAL_ERROR:
        return Ending.FAILED, "internal_error"
    if status >= FIRST_ERROR:
        return Ending.REJECTED, CODES_BY_STATUS.get(status, "")
    return Ending.DONE, ""


def record_refused(name: str, error: ClientError, ip: str, observe: Observe | None) -> None:
    """Record a request that the server refused with *error* before any route; *name* is the request id of its answer."""
    if observe is not None:
        record = Record(
            request_id=name,
            started_at=time.time(),
            total_seconds=0.0,
            method="",
            route=UNKNOWN_ROUTE,
            status=error.status,
            ending=Ending.REJECTED,
            code=error.code,
            ip=ip,
        )
        observe(record)
