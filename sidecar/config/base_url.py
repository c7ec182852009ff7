"""Check the `base_url` of an upstream, and take the path of a Unix socket from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, unquote, urlsplit

SOCKET_SCHEME = "http+unix://"
"""Prefix of a `base_url` that names a Unix socket."""
ENDPOINT_PATH = re.compile(
    r"(?P<native>/api/(?:chat|generate|tags|embed|embeddings))/*$"
    r"|(?P<added>/(?:(?:chat/)?completions|responses|embeddings|messages|moderations|rerank|realtime|(?:images|audio)/\w+))/*$"
    r"|/v\d\w*(?P<listed>/models)/*$",
    re.IGNORECASE,
)
"""Paths of endpoints at the end of a `base_url`.  `/models` alone is the base of Azure's `…services.ai.azure.com/models`."""
_SOCKET_URL = re.compile(r"http\+unix://(.+?\.sock(?:et)?)(/[^?#]*)?")


def base_url_faults(url: str) -> Iterator[str]:
    """Yield each fault of the `base_url` *url*, as `base_url: problem; cure`, without a user name or a password."""
    problems: list[str] = []
    cures: list[str] = []
    if url.startswith(SOCKET_SCHEME):
        if _SOCKET_URL.fullmatch(url) is None or not (url.isascii() and url.isprintable()) or " " in url:
            yield f"base_url: {url!r} is not the URL of a Unix socket; write it like 'http+unix:///run/engine.sock/v1'"
            return
        path = urlsplit(endpoint_of(url)).path
    else:
        parts = parts_of(url)
        if parts is None or parts.scheme not in ("http", "https"):
            cure = "write it like 'http://127.0.0.1:11434/v1'"
            shown = re.sub("//[^/]*@", "//", url.partition("?")[0])
            yield f"base_url: {shown!r} is not an http:// or https:// URL; {cure}"
            return
        if parts.username is not None:
            yield "base_url: contains a user name or password; name the environment variable of the key in api_key_env"
            return
        path = parts.path
        if parts.query or parts.fragment:
            problems.append("contains a query or a fragment")
            cures.append('put parameters into `query = { name = "value" }`')
    if (found := ENDPOINT_PATH.search(path)) is not None:
        ending = found["native"] or found["added"] or found["listed"]
        problems.append(f"ends in {ending!r}, the path of one endpoint")
        cures.append(f"write '/v1' instead of {ending!r}" if found["native"] else f"remove {ending!r}")
    if problems:
        yield f"base_url: {' and '.join(problems)}; {', and '.join(cures)}"


def socket_of(url: str) -> str | None:
    """Return the path of the Unix socket in the `base_url` *url*, as written; None for http:// and https://."""
    found = _SOCKET_URL.fullmatch(url)
    return None if found is None else unquote(found[1])


def endpoint_of(url: str) -> str:
    """Return the URL prefix of requests: *url*, or `http://localhost` and the path behind a Unix socket."""
    found = _SOCKET_URL.fullmatch(url)
    return url if found is None else f"http://localhost{found[2] or ''}"


def parts_of(url: str) -> SplitResult | None:
    """Return the parts of *url*; None if it has no host, an invalid port, or characters that a URL must escape."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None
