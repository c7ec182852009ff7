"""CORS in front of all routes (Fetch Standard, 3.2): preflights are answered here, other responses get their headers.

Litestar's `CORSConfig` decides; its middleware cannot be used. It wraps `send`, and data routes write directly to the
connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sidecar.downstream.client_connection import CONNECTION_EXTENSION
from sidecar.downstream.request import new_request_id, request_id
from sidecar.downstream.route import REQUEST_ID_HEADER
from sidecar.wire.answer_headers import TIMING_NAMES, UPSTREAM_REQUEST_ID
from sidecar.wire.limit_headers import OPENAI_HEADERS

from .request_origin import permits_origin
from .shortcut import recorded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar.config.cors import CORSConfig

    from sidecar.downstream.client_connection import Receive, Scope, Send
    from sidecar.downstream.services import RouteServices
    from sidecar.wire.limit_headers import Header

    AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    *(header.decode() for header in (UPSTREAM_REQUEST_ID, *TIMING_NAMES)),
    "x-should-retry",
    "retry-after",
    "retry-after-ms",
    "ratelimit",
    "ratelimit-policy",
    *(header.decode() for names in OPENAI_HEADERS.values() for header in names),
)
"""Response headers that scripts of web pages may read (Fetch Standard, 3.2.3): those that docs/failures.md lists."""
PREFLIGHT_ALLOWED_STATUS, PREFLIGHT_DENIED_STATUS = 204, 400


class Cors:
    """An ASGI application that adds CORS to *app*. Requests without an `Origin` header are unchanged."""

    def __init__(self, app: AsgiApp, config: CORSConfig, services: Callable[[], RouteServices | None]) -> None:
        self._app, self._config, self._services = app, config, services
        self._simple = _encoded(config.simple_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Without an `Origin` it costs one search of the headers."""
        if scope["type"] == "http":
            headers = scope["headers"]
            origin = next((value for name, value in headers if name == b"origin"), None)
            if origin is not None:
                if scope["method"] == "OPTIONS":
                    await recorded(self._answer_preflight, scope, receive, send, self._services())
                    return
                send = self._with_headers(scope, self._headers_for(origin), send)
        await self._app(scope, receive, send)

    def _allows(self, origin: bytes) -> bool:
        return permits_origin(self._config, origin)

    def _headers_for(self, origin: bytes) -> list[Header]:
        if self._config.is_allow_all_origins:
            return self._simple
        allowed = [(b"access-control-allow-origin", origin)] if self._allows(origin) else []
        return [*self._simple, *allowed, (b"vary", b"origin")]

    @staticmethod
    def _with_headers(scope: Scope, headers: list[Header], send: Send) -> Send:
        """Add *headers* to the response: through the server's own connection if there is one, else through `send`."""
        own = scope.get("extensions", {}).get(CONNECTION_EXTENSION)
        if own is not None:
            own.add_headers(headers)
            return send

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        return send_with_headers

    async def _answer_preflight(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        origin = next(value for name, value in headers if name == b"origin")
        status, answer = PREFLIGHT_DENIED_STATUS, [(b"vary", b"origin")]
        if self._allows(origin):
            allow = dict(_encoded(self._config.preflight_headers))
            allow.setdefault(b"access-control-allow-origin", origin)
            requested = next((value for name, value in headers if name == b"access-control-request-headers"), None)
            if requested:
                allow[b"access-control-allow-headers"] = requested
            status, answer = PREFLIGHT_ALLOWED_STATUS, list(allow.items())
        if status == PREFLIGHT_DENIED_STATUS:
            answer.append((b"content-length", b"0"))
        answer.append((REQUEST_ID_HEADER, request_id(dict(headers).get(REQUEST_ID_HEADER), new_request_id).encode()))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": b""})


def _encoded(headers: dict[str, str]) -> list[Header]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
