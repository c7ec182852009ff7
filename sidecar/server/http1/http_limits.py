"""Limits of what a client connection may send, and the refusals beyond them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from sidecar.config.settings import ServerSettings
from sidecar.downstream.buffered_bodies import BufferedBodies, Episode, Report
from sidecar.downstream.client_errors import ClientError, invalid_request, overloaded

MAX_HEAD_FIELDS = 128
"""Fields of a request head, and trailer fields of a body."""
MAX_HEAD_BYTES = 65_536
"""Bytes of a request head. As many may arrive in a body beside its data, as chunk extensions and trailers."""
MAX_URL_BYTES = 16_384
MAX_OVERHEAD_RATIO = 16
"""Bytes of chunk sizes and extensions per byte of data, beyond `MAX_HEAD_BYTES`. Chunks of one byte have five."""
HEAD_SECONDS = 30.0
"""A request head must be complete this long after its first byte."""
LEAST_BODY_RATE = 1_024
"""Bytes a second that a body must arrive with, averaged over `server.body_timeout`."""
LINGER_SECONDS, MAX_LINGER_SECONDS, SHUTDOWN_LINGER_SECONDS = 5.0, 30.0, 1.0
"""How long the end of a refused request is awaited: without data, in all, and when the process stops.

Its bytes are read and discarded meanwhile, so that the client can read its answer. Closing a socket with unread bytes
resets the connection, and a reset discards the answer on its way (RFC 9112, 9.6).
"""
MAX_SURPLUS_BYTES = 67_108_864
"""Bytes behind a request, or of a refused one, that are read and discarded; a client that sends more is disconnected."""
MAX_SHORT_REST_BYTES = 65_536
"""The longest body that is read and discarded behind an early answer without closing the connection."""
MAX_REFUSED_CONNECTIONS = 256
"""Connections beyond `server.max_connections` that get a 503 at the same time; further ones are reset."""
DEFAULT_SETTINGS = ServerSettings()
HTTP_LIMITS_STATE = "sidecar.http_limits"
"""The key in the lifespan state under which the server finds a function that returns its `HttpLimits`."""
FILES_PER_CONNECTION, OTHER_FILES = 2, 128
"""Open files of one client connection, with that to its upstream, and those of the rest of the process."""


class HttpLimits:
    """The configured limits of one process, and what its client connections share.

    *record* gets the request id, the error and the address of each request that the server refuses by itself.
    *on_full* is called with True when a connection is refused, and with False when none was refused for 10 s. *clock* is
    monotonic, in seconds.
    """

    def __init__(
        self,
        *,
        max_connections: int = DEFAULT_SETTINGS.max_connections,
        body_timeout: float = DEFAULT_SETTINGS.body_timeout,
        buffered: BufferedBodies | None = None,
        record: Callable[[str, ClientError, str], None] | None = None,
        on_full: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_connections, self.body_timeout = max_connections, body_timeout
        self.buffered = buffered or BufferedBodies(DEFAULT_SETTINGS.max_buffered)
        self.record = record
        self.refused_connections = Episode(on_full, clock)

    def too_many_connections(self) -> ClientError:
        """Return the 503 for a connection beyond `max_connections`."""
        return overloaded(
            f"The sidecar has {self.max_connections} open connections (server.max_connections). Try again later."
        )

    def slow_body(self) -> ClientError:
        """Return the 408 for a body that arrives too slowly."""
        return _timed_out(
            f"The body arrived at less than {LEAST_BODY_RATE} bytes a second for {self.body_timeout:g} s (server.body_timeout). "
            "Send it faster, or raise 'body_timeout' in [server]."
        )


def affordable_connections(most: int, warn: Callable[[str], None]) -> int:
    """Return *most*, `server.max_connections`, or as many connections as the process may have files for.

    Without open files a connection would be accepted late and without an answer. *warn* gets a log line in that case.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    affordable = max(1, (files - OTHER_FILES) // FILES_PER_CONNECTION)
    if files == resource.RLIM_INFINITY or most <= affordable:
        return most
    warn(
        f"server.max_connections: {most} connections need more than the {files} open files that the system permits; "
        f"using {affordable}. Raise the limit with `ulimit -n`."
    )
    return affordable


def slow_head(seconds: float) -> ClientError:
    """Return the 408 for a request head that was not complete after *seconds*."""
    return _timed_out(f"The request head was not complete within {seconds:g} s. Send it at once.")


def _timed_out(message: str) -> ClientError:
    return ClientError(status=408, code="request_timeout", message=message, retryable=True, final=False)


def long_head(url: bytes) -> ClientError:
    """Return the 431 for a head of too many bytes, or the 414 where its *url* is too long."""
    return (
        long_url()
        if len(url) > MAX_URL_BYTES
        else _large_head(f"The request head has more than {MAX_HEAD_BYTES} bytes. Send fewer or shorter headers.")
    )


def long_url() -> ClientError:
    """Return the 414 for a URL of too many bytes."""
    message = f"The URL has more than {MAX_URL_BYTES} bytes. Send the data in the body."
    return ClientError(status=414, code="url_too_long", message=message)


def many_fields(what: str) -> ClientError:
    """Return the 431 for too many fields of *what*, the request head or the trailers."""
    return _large_head(f"The {what} more than {MAX_HEAD_FIELDS} fields. Send fewer.")


def much_overhead() -> ClientError:
    """Return the 431 for trailers and chunk extensions of too many bytes."""
    return _large_head(
        f"The chunked body has more than {MAX_HEAD_BYTES} bytes of trailers, or {MAX_OVERHEAD_RATIO} bytes of chunk extensions for each byte of data. "
        "Send fewer of them."
    )


def no_websockets() -> ClientError:
    """Return the 400 for the handshake of a WebSocket (RFC 6455, 4.1): no limit could count what runs on one."""
    message = (
        "WebSockets are not served: no limit counts what runs on them. Use HTTP, with 'stream' in the body for events."
    )
    return ClientError(status=400, code="websocket_not_supported", message=message)


def other_version() -> ClientError:
    """Return the 505 for a request of another version of HTTP, which the parser would accept (RFC 9110, 2.5)."""
    return ClientError(
        status=505, code="invalid_request", message="Use HTTP/1.1 or HTTP/1.0.", kind="invalid_request_error"
    )


def _large_head(message: str) -> ClientError:
    return ClientError(status=431, code="head_too_large", message=message)


def coding_fault(codings: tuple[bytes, ...], version: str) -> ClientError | None:
    """Return the 400 for the values of `Transfer-Encoding`, in a request of HTTP *version*; None for `chunked` alone.

    Another coding would have to be removed from the body (RFC 9112, 6.1). HTTP/1.0 has none: its framing is in doubt.
    """
    if version == "1.0":
        return invalid_request("HTTP/1.0 has no 'Transfer-Encoding'. Send 'Content-Length', or use HTTP/1.1.", None)
    if len(codings) == 1 and codings[0].strip().lower() == b"chunked":
        return None
    message = "'Transfer-Encoding' must be 'chunked' alone. Announce a compressed body by 'Content-Encoding'."
    return invalid_request(message, None)
