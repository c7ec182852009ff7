"""Requests that offer another protocol (RFC 9110, 7.8): WebSockets are refused, all other offers are ignored."""

from __future__ import annotations

from collections.abc import Sequence

import httptools

UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})
"""Headers that offer another protocol. `Connection` can stay: without these it offers nothing."""
WEBSOCKET_TOKEN = b"websocket"


def is_websocket(parser: httptools.HttpRequestParser, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request is the handshake of a WebSocket (RFC 6455, 4.1), whose client can use no other answer."""
    offers = (WEBSOCKET_TOKEN in value.lower() for name, value in headers if name == b"upgrade")
    return parser.get_method() == b"GET" and any(offers)


def head_without_upgrade(
    parser: httptools.HttpRequestParser, url: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """Return the head of a request without its offer of another protocol."""
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), url, parser.get_http_version().encode())]
    lines += [b"%b: %b" % field for field in headers if field[0] not in UPGRADE_HEADERS]
    return b"\r\n".join(lines) + b"\r\n\r\n"
