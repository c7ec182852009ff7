"""A request that is refused before the chain creates exactly one record, whatever its path or body."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path

import pytest
from recording import HI, SERVERS, V1, recorded, says_ab
from serving import CHAT
from wire import TIMEOUT_SECONDS, eventually, upstream

from sidecar.downstream.authentication import KeyTable

pytestmark = pytest.mark.anyio

KEY = "sk-sidecar-secret"
KEYS = f'[[key]]\ntenant = "acme"\nsha256 = "{sha256(KEY.encode()).hexdigest()}"\nmodels = ["m"]\n'


@SERVERS
@pytest.mark.parametrize(
    ("path", "body", "headers", "method", "expected"),
    [
        (V1, {}, (f"authorization: Bearer {KEY}",), "POST", (400, "invalid_request", "rejected", V1)),
        (V1, HI, (), "POST", (401, "unauthorized", "rejected", V1)),
        (V1, HI | {"model": "other"}, (f"authorization: Bearer {KEY}",), "POST", (403, "forbidden", "rejected", V1)),
        ("/v1/none", HI, (), "POST", (404, "not_found", "rejected", "unknown")),
        (V1, HI, (), "PUT", (405, "method_not_allowed", "rejected", V1)),
        ("/api/chat", "x" * 2_000_000, (f"authorization: Bearer {KEY}",), "POST", (413, "body_too_large", "rejected", "/api/chat")),
        ("/healthz", None, (), "GET", (200, "", "done", "/healthz")),
    ],
)  # fmt: skip
async def test_request_refused_before_the_chain_is_recorded(
    tmp_path: Path, path: str, body: object, headers: tuple[str, ...], method: str, expected: tuple[object, ...], protocol: type[asyncio.Protocol]
) -> None:  # fmt: skip
    """A request that is refused before any policy sees it is recorded, with its status and code."""
    async with upstream(says_ab) as up, recorded(tmp_path, up, KEYS, protocol=protocol) as it:
        client = await it.served.client()
        raw = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            f"content-length: {len(raw)}",
        ]
        client.writer.write("\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + raw)
        _, answer_headers, _ = await client.answer()
        record = await it.one()

    assert (record.status, record.code, record.ending, record.route) == expected
    assert (record.method, record.attempts) == (method, 0)
    assert record.request_id == answer_headers["x-request-id"]


async def test_request_with_another_media_type_is_recorded(tmp_path: Path) -> None:
    """A body that is not declared as JSON is recorded with 415."""
    async with upstream(says_ab) as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        client.writer.write(
            f"POST {V1} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi".encode()
        )
        await client.answer()
        record = await it.one()

    assert (record.status, record.code) == (415, "unsupported_media_type")


async def test_malformed_http_is_recorded(tmp_path: Path) -> None:
    """Bytes that are not HTTP are recorded once with 400."""
    async with upstream(says_ab) as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        client.writer.write(b"nonsense\r\n\r\n")
        _, headers, _ = await client.answer()
        record = await it.one()

    assert (record.status, record.code, record.request_id) == (400, "invalid_request", headers["x-request-id"])


async def test_preflight_is_recorded(tmp_path: Path) -> None:
    """A CORS preflight is recorded."""
    async with upstream() as up, recorded(tmp_path, up, '[server]\ncors_origins = ["*"]') as it:
        await it.served.get(V1, "origin: http://a.example", "access-control-request-method: POST", method="OPTIONS")
        record = await it.one()

    assert (record.method, record.status, record.ending) == ("OPTIONS", 204, "done")


async def test_request_while_draining_is_recorded(tmp_path: Path) -> None:
    """A request to a server that drains is recorded with `draining`."""
    async with upstream(says_ab) as up, recorded(tmp_path, up) as it:
        it.served.gateway.active_calls.draining = True
        await it.served.post(V1, HI)
        record = await it.one()

    assert (record.status, record.code, record.ending) == (503, "draining", "rejected")


@SERVERS
@pytest.mark.parametrize(
    ("path", "body", "route"),
    [
        (f"{V1}/", HI, V1),
        ("/api/chat/", CHAT, "/api/chat"),
        ("/v1//chat/completions", HI, V1),
    ],
)
async def test_normalised_path_leaves_the_record_of_its_route(
    tmp_path: Path, path: str, body: object, route: str, protocol: type[asyncio.Protocol]
) -> None:
    """A data path that the router normalises is recorded once, by its route and not as an unknown path."""
    async with upstream(says_ab) as up, recorded(tmp_path, up, protocol=protocol) as it:
        status, _, _ = await it.served.post(path, body)
        await it.served.get("/healthz")
        await eventually(lambda: it.records[-1:] != [] and it.records[-1].route == "/healthz")

    assert [(each.route, each.status, each.ending, each.output_tokens) for each in it.records[:-1]] == [
        (route, status, "done", 3)
    ]
    assert status == 200


@pytest.mark.parametrize("together", [True, False], ids=["in one packet", "behind the head"])
@pytest.mark.parametrize(("path", "route"), [(V1, V1), ("/api/chat", "/api/chat"), ("/nope", "unknown")])
async def test_body_that_is_not_valid_http_is_recorded_once(
    tmp_path: Path, path: str, route: str, *, together: bool
) -> None:
    """A chunk size that is not a number gives one answer and one record, both with status 400.

    An unknown path may have been answered before: then its 404 is the only answer.
    """
    async with upstream(says_ab) as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        client.writer.write(head.encode() + (b"" if together else b"1\r\n{\r\n"))
        if not together:
            await client.writer.drain()
            await it.served.get("/healthz")  # the head has been read
        client.writer.write(b"ZZ\r\nxx")
        answer = await asyncio.wait_for(client.reader.read(), TIMEOUT_SECONDS)
        await eventually(lambda: any(each.route != "/healthz" for each in it.records))
        await it.served.get("/healthz")

    (record,) = [each for each in it.records if each.route != "/healthz"]
    expected = (404, "not_found") if path == "/nope" and not together else (400, "invalid_request")
    assert (answer.count(b"HTTP/1.1 "), answer[:12]) == (1, b"HTTP/1.1 %d" % expected[0])
    assert (record.status, record.code, record.route) == (*expected, route)
    assert (record.ending, len(up.requests)) == ("rejected", 0)


async def test_malformed_request_behind_an_early_answer_is_answered(tmp_path: Path) -> None:
    """A malformed request is answered with 400 also if the one before was answered before its body arrived."""
    async with upstream(says_ab) as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        client.writer.write(b"POST /nope HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n")
        first, _, _ = await client.answer()
        client.writer.write(b"{}nonsense\r\n\r\n")
        second, _, _ = await client.answer()
        await eventually(lambda: len(it.records) == 2)

    assert (first, second) == (404, 400)
    assert [(each.status, each.route) for each in it.records] == [(404, "unknown"), (400, "unknown")]


@SERVERS
async def test_internal_error_before_the_chain_is_recorded_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: type[asyncio.Protocol]
) -> None:
    """An internal error before any policy is a failure, not a refusal."""

    def access(*_: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(KeyTable, "access", access)
    async with upstream(says_ab) as up, recorded(tmp_path, up, protocol=protocol) as it:
        status, _, _ = await it.served.post(V1, HI)
        record = await it.one()

    assert (status, record.status, record.code, record.ending) == (500, 500, "internal_error", "failed")
