"""Patterns of relayed paths: one spelling each, ids without escapes."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.relay.path_pattern import PathPattern
from sidecar.wire.relay.relayed_request import relayed_url

CONTENT = PathPattern.parse("/v1/files/{id}/content")


@pytest.mark.parametrize("name", ["file-1", "a.b", "A_~=1", "x" * 256])
def test_plain_ids_are_taken(name: str) -> None:
    """An id of letters, digits and some marks is taken as it is."""
    path = f"/v1/files/{name}/content"
    assert CONTENT.filled(path) == path


@given(st.text(max_size=12))
def test_what_is_taken_needs_no_escapes(name: str) -> None:
    """A path that is taken has the segments of the pattern, is ASCII, and is the same when it is decoded again."""
    found = CONTENT.filled(f"/v1/files/{name}/content")
    if found is not None:
        assert found.isascii()
        assert unquote(found) == found
        assert found.count("/") == 4
        assert "." not in set(found.split("/")[3]) or found.split("/")[3].strip(".")


@pytest.mark.parametrize(
    ("endpoint", "path", "url"),
    [
        ("http://h:1/v1", "/v1/rerank", "http://h:1/v1/rerank"),
        ("https://h/openai/v1", "/v1/audio/speech", "https://h/openai/v1/audio/speech"),
        ("http://h:1/v1", "/tokenize", "http://h:1/tokenize"),
        ("http://localhost/v1", "/api/show", "http://localhost/api/show"),
        ("http://h:1", "/v2/rerank", "http://h:1/v2/rerank"),
    ],
)
def test_v1_is_the_path_of_the_upstream(endpoint: str, path: str, url: str) -> None:
    """`/v1` stands for the path of `base_url`; all other paths are at the origin."""
    assert relayed_url(endpoint, path) == url
