"""Requests whose end or target is ambiguous: the bytes of each, and what the sidecar must do with them.

To add a case, add a row: its name, the bytes that a client sends in one write, the expectation, and the source of the
technique. Most rows carry a second request in a place where a lenient parser would read it as one of its own.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import NamedTuple

PATH = b"/v1/chat/completions"
SMUGGLED = b"smuggled"
"""A text that is in each hidden request, and nowhere else: in no served request and in no answer."""
CARRIER = json.dumps({"model": "carrier", "messages": [{"role": "user", "content": "hi"}]}).encode()
"""The body of the request that carries the hidden one."""
HOST = b"host: 127.0.0.1"
HIDDEN_GET = b"GET /smuggled HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
_HIDDEN_BODY = CARRIER.replace(b"carrier", SMUGGLED)
HIDDEN_POST = (
    b"POST %b?smuggled HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (PATH, len(_HIDDEN_BODY), _HIDDEN_BODY)
)
"""A hidden request that would reach the upstream if it were served."""
LENGTH = len(CARRIER)

SECTION = "RFC 9112, "
DESYNC = "PortSwigger, HTTP Desync Attacks (2019)"
BROWSER = "PortSwigger, Browser-Powered Desync Attacks (2022)"
ENDGAME = "PortSwigger, HTTP/1.1 Must Die: The Desync Endgame (2025)"
FUNKY = "Weikop, Funky Chunks (2025); CVE-2025-55315, CVE-2025-22871"
PROBE = "Http11Probe, smuggling tests"
H2C = "Bishop Fox, h2c Smuggling (2020)"


class Expect(StrEnum):
    """What the sidecar must do. In each case the hidden request is never served."""

    SERVED = "served once"
    REFUSED = "4xx and closed"
    """The framing is in doubt: one refusal, and the connection is closed before another request is read."""
    ANSWERED = "4xx"
    """The framing is certain and the request is wrong: one refusal; the connection may be kept."""
    EITHER = "served once or 4xx"
    """Both are safe: the framing is certain, and RFC 9112 leaves the choice."""
    CLOSED = "served once or 4xx, and closed"
    """RFC 9112 allows to serve it, but not to read another request behind it."""
    WAITS = "incomplete"
    """The request has not ended: no answer, and nothing reaches the upstream."""


class Row(NamedTuple):
    """One case."""

    name: str
    data: bytes
    expect: Expect
    source: str


def post(*lines: bytes, body: bytes = b"", start: bytes = b"POST %b HTTP/1.1" % PATH, host: bool = True) -> bytes:
    """Return a request with the header *lines* behind those that all requests have."""
    usual = [HOST] if host else []
    return b"\r\n".join([start, *usual, b"content-type: application/json", *lines]) + b"\r\n\r\n" + body


def chunk(data: bytes, size: bytes | None = None) -> bytes:
    """Return one chunk, under another *size* line if one is given."""
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + b"\r\n"


def chunked(*lines: bytes, body: bytes = chunk(CARRIER) + b"0\r\n\r\n") -> bytes:
    """Return a chunked request with the header *lines* behind `transfer-encoding`."""
    return post(b"transfer-encoding: chunked", *lines, body=body)


def measured(*lines: bytes, body: bytes = CARRIER, **more: bytes) -> bytes:
    """Return a request with a `content-length` of the carrier's body, then the header *lines*."""
    return post(b"content-length: %d" % LENGTH, *lines, body=body, **more)  # type: ignore[arg-type]  # host stays


def get(*lines: bytes, target: bytes = b"/healthz", version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    """Return a request without a body."""
    return b"\r\n".join([b"%b %b %b" % (method, target, version), HOST, *lines]) + b"\r\n\r\n"
