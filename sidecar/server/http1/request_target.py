"""Read the target of a request line in all of its forms (RFC 9112, 3.2)."""

from __future__ import annotations

import re

ORIGIN_START, FRAGMENT_MARK = b"/", b"#"
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE | re.DOTALL)
_HOST_AND_PORT = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.%A-Za-z0-9]+\])(?::\d{0,5})?")


class InvalidTarget(Exception):
    """The target of a request is not a path of this server; the message says why."""


def unusual_target(url: bytes, method: bytes) -> tuple[bytes, bytes, bytes]:
    """Return path, query and authority of a *url* that is not a plain path.

    The authority is empty where the target has none: then the `Host` header has it. An absolute form without a path
    is the root. A path that begins with two slashes is a path, although URL parsers take its first segment for a host.

    Raises `InvalidTarget` for a target with a fragment, for other schemes, and for the forms of proxies and `OPTIONS *`.
    """
    if method == b"CONNECT":
        msg = "CONNECT is not supported: the sidecar is not a forward proxy."
        raise InvalidTarget(msg)
    if FRAGMENT_MARK in url:
        msg = "The request target has a fragment ('#')."
        raise InvalidTarget(msg)
    if url.startswith(ORIGIN_START):
        path, _, query = url.partition(b"?")
        return path, query, b""
    if (parts := _ABSOLUTE_FORM.fullmatch(url)) is None:
        msg = "The request target must be a path such as '/v1/chat/completions', or an absolute URL with http or https."
        raise InvalidTarget(msg)
    if _HOST_AND_PORT.fullmatch(parts[1]) is None:
        msg = "The request target has an invalid host, or a user name."
        raise InvalidTarget(msg)
    return parts[2] or b"/", parts[3] or b"", parts[1]


def with_host(headers: list[tuple[bytes, bytes]], authority: bytes) -> list[tuple[bytes, bytes]]:
    """Return *headers* with *authority*, that of an absolute target, as `host` (RFC 9112, 3.2.2).

    Repeated `host` fields stay repeated, and a missing one stays missing: both are faults.
    """
    return [(name, authority if name == b"host" else value) for name, value in headers]
