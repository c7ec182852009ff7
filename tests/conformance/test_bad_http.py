"""Every request with an invalid path, method, media type, header or length gets a JSON error, and reaches no upstream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refused_requests import CHAT, HI, V1, error_of, small_limits
from wire import Client

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", [CHAT, V1])
@pytest.mark.parametrize(
    "header",
    [
        "content-type: text/plain",
        "content-type: application/x-www-form-urlencoded",
        "content-type: ",
        "content-type: application/json; charset=latin-1",
        "content-encoding: br",
        "content-encoding: zstd",
        "content-encoding: gzip, gzip",
        "content-encoding: deflate, gzip",
        "content-encoding: gzip, br",
    ],
)
async def test_other_media_type_is_415(tmp_path: Path, path: str, header: str) -> None:
    """A body that is not declared as JSON in UTF-8, or that has an unknown encoding or several, is 415."""
    async with small_limits(tmp_path) as (up, served):
        status, _, answer = await served.post(path, {"messages": HI}, header)
        assert (status, error_of(path, answer)["code"]) == (415, "unsupported_media_type")
        assert not up.requests


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_large_body_is_413(tmp_path: Path, path: str) -> None:
    """A body over the limit is 413: by its content-length, and by its chunks if it has none."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 3000}]}).encode()
    async with small_limits(tmp_path) as (up, served):
        for chunked in (False, True):
            client = await Client.to(served.port)
            raw = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
            await client.post(path, raw, *(["transfer-encoding: chunked"] if chunked else []))
            status, _, answer = await client.answer()
            client.close()
            assert (status, error_of(path, answer)["code"]) == (413, "body_too_large")
        assert not up.requests


@pytest.mark.parametrize(
    "headers",
    [
        ["content-length: 5"],
        ["content-length: 5", "transfer-encoding: chunked"],
        ["content-length: -1"],
        ["content-length: 5", "content-length: 6"],
        ["content-length: 99999999999999999999999"],
        ["x-request-id: a\nevil: b\rc"],
        ["transfer-encoding: gzip, chunked, nonsense"],
    ],
)
async def test_malformed_http_is_refused(tmp_path: Path, headers: list[str]) -> None:
    """A wrong length, or a header with a line break, gets a JSON error; the bytes behind it are no request."""
    async with small_limits(tmp_path) as (up, served):
        client = await served.client()
        await client.post(CHAT, b'{"messages": []}   and more', *headers)
        status, _, answer = await client.answer()
        client.close()
        assert status in (400, 413)
        assert error_of(V1 if b'{"error":{' in answer else CHAT, answer)["code"] in (
            "invalid_request",
            "body_too_large",
        )
        assert not up.requests


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", [CHAT, V1])
async def test_other_method_is_405(tmp_path: Path, path: str, method: str) -> None:
    """Another method is 405, with the allowed one in `allow`."""
    async with small_limits(tmp_path) as (up, served):
        status, headers, answer = await served.get(path, method=method)
        assert (status, headers["allow"], error_of(path, answer)["code"]) == (405, "POST", "method_not_allowed")
        assert not up.requests


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/x", "/api/chat/../x", "/%00"])
async def test_unknown_path_is_404(tmp_path: Path, path: str) -> None:
    """An unknown path is 404 in OpenAI's format."""
    async with small_limits(tmp_path) as (up, served):
        for status, headers, answer in (await served.get(path), await served.post(path, {"messages": HI})):
            assert (status, error_of(V1, answer)["code"]) == (404, "not_found")
            assert len(headers["x-request-id"]) == 32
        assert not up.requests


async def test_trailing_slash_is_the_same_route(tmp_path: Path) -> None:
    """A path with a trailing slash is the same route, with the same checks."""
    async with small_limits(tmp_path) as (up, served):
        status, _, answer = await served.post("/api/chat/", {"messages": []})
        assert (status, json.loads(answer)["error"]) == (400, "Invalid messages payload")
        assert not up.requests
