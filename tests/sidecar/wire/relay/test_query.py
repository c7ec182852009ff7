"""Queries of relayed requests: bounded, without credentials, and read as all servers read them."""

from __future__ import annotations

import pytest

from sidecar.wire.relay.query import relayed_query
from sidecar.wire.request.json_body import BadRequest


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"a=1&b=%20c&d", "a=1&b=%20c&d"),
        (b"limit=5&after=file-1&order=desc&expires_after[anchor]=x", "limit=5&after=file-1&order=desc&expires_after[anchor]=x"),
        (b"key=s&a=1", "a=1"),
        (b"a=1&api_key=s", "a=1"),
        (b"k%65y=s&API-KEY=s&access_token=t&sig=x&code=y", ""),
        (b"api-version=2&Api-Version=3&a=1", "a=1"),
        (b"&&a=1&", "a=1"),
    ],
)  # fmt: skip
def test_credentials_and_own_parameters_are_left_out(raw: bytes, text: str) -> None:
    """Parameters that hold credentials, however written, and those that the upstream's settings add are not forwarded."""
    assert relayed_query(raw, {"api-version"}).text == text


@pytest.mark.parametrize(
    "raw", [b"a;b=1", b"a=%", b"a=%4", b"a=\xe9", b'a="b"', b"a=<b>", b"a=\x00", b"a" * 4_097, b"a&" * 65]
)
def test_ambiguous_queries_are_refused(raw: bytes) -> None:
    """Characters that must be escaped, and a query beyond its limits, are refused."""
    with pytest.raises(BadRequest):
        relayed_query(raw)


def test_models_and_routing_are_found() -> None:
    """Names of models, in any case, and parameters that choose a server are reported."""
    found = relayed_query(b"model=a&MODEL=b&x=1&provider=p&deployment=d")
    assert (found.models, found.routing) == (("a", "b"), "provider")
