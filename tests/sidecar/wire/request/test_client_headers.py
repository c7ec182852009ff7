"""The client's headers, as policies see them."""

from __future__ import annotations

import pytest

from sidecar.wire.request.client_headers import ClientHeaders

RAW = {b"x-team": b"blue", b"authorization": b"Bearer sk-1", b"cookie": b"a=b", b"x-name": "J\xf6rg".encode("latin-1")}
RAW |= dict.fromkeys((b"api-key", b"x-api-key", b"x-goog-api-key", b"proxy-authorization"), b"sk-1")


def test_client_headers_have_no_credentials() -> None:
    """Names are found in any case; keys and cookies are not there; nothing can be set; the repr has no values."""
    headers = ClientHeaders(RAW)

    assert dict(headers) == {"x-team": "blue", "x-name": "J\xf6rg"}
    assert (headers["X-Team"], headers.get("Authorization"), "cookie" in headers, len(headers)) == (
        "blue",
        None,
        False,
        2,
    )
    assert headers.get("\u2603") is None
    assert repr(headers) == "<ClientHeaders: 2 names>"
    with pytest.raises(TypeError):
        headers["x"] = "y"  # type: ignore[index]  # the mistake that is tested
