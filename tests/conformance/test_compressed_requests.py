"""Compressed request bodies: served like plain ones, within the same limit, and never forwarded compressed."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from pathlib import Path

import pytest
from refused_requests import CHAT, HI, V1, error_of, small_limits
from wire import Client

pytestmark = pytest.mark.anyio

BODY = json.dumps({"model": "m", "messages": HI, "stream": True}).encode()
GZIP = "content-encoding: gzip"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("path", [CHAT, V1])
@pytest.mark.parametrize(
    ("packed", "coding"),
    [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY), "x-gzip"),
        (gzip.compress(BODY), "GZIP"),
        (gzip.compress(BODY), "gzip, identity"),
        (zlib.compress(BODY), "deflate"),
        (raw_deflate(BODY), "Deflate"),
        (BODY, "identity"),
        (BODY, ""),
    ],
    ids=["gzip", "x-gzip", "upper case", "with identity", "zlib", "raw deflate", "identity", "empty"],
)
async def test_compressed_body_is_served(tmp_path: Path, path: str, packed: bytes, coding: str) -> None:
    """A body in gzip or deflate is served like a plain one, and upstream gets it uncompressed, without its encoding."""
    async with small_limits(tmp_path) as (up, served):
        status, _, _ = await served.post(path, packed, f"content-encoding: {coding}")

    assert status == 200
    assert up.requests[0].body["messages"] == HI
    assert up.requests[0].header("content-encoding") is None


@pytest.mark.parametrize("pieces", [1, 7])
async def test_compressed_body_arrives_in_pieces(tmp_path: Path, pieces: int) -> None:
    """A compressed body in chunks, split anywhere, is served."""
    packed = gzip.compress(BODY)
    async with small_limits(tmp_path) as (up, served):
        client = await served.client()
        client.writer.write(
            f"POST {V1} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{GZIP}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        for at in range(0, len(packed), pieces):
            piece = packed[at : at + pieces]
            client.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.writer.drain()
            await asyncio.sleep(0)
        client.writer.write(b"0\r\n\r\n")
        status, _, _ = await client.answer()

    assert (status, up.requests[0].body["messages"]) == (200, HI)


@pytest.mark.parametrize("path", [CHAT, V1])
async def test_limit_holds_before_and_after_inflating(tmp_path: Path, path: str) -> None:
    """A body over the limit is 413, by its compressed size, and by the size that it inflates to."""
    noise = random.Random(1).randbytes(3_000).hex()
    large = json.dumps({"messages": [{"role": "user", "content": noise}]}).encode()
    small = json.dumps({"messages": [{"role": "user", "content": "x" * 3_000}]}).encode()
    bomb = gzip.compress(b" " * 100_000_000)
    for packed in (gzip.compress(large), gzip.compress(small), bomb[:1_990], bomb):
        async with small_limits(tmp_path) as (up, served):
            client = await Client.to(served.port)
            await client.post(path, packed, GZIP)
            status, _, answer = await client.answer()
            client.close()
            assert (status, error_of(path, answer)["code"]) == (413, "body_too_large"), len(packed)
            assert not up.requests


@pytest.mark.parametrize("path", [CHAT, V1])
@pytest.mark.parametrize(
    ("packed", "fault"),
    [
        (BODY, "not valid gzip"),
        (gzip.compress(BODY)[:-3], "ends too early"),
        (gzip.compress(BODY) + b"x", "bytes behind its end"),
        (gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), "several members"),
        (gzip.compress(b""), "no body"),
        (gzip.compress(BODY[:-1]), "truncated"),
        (b"", "ends too early"),
    ],
    ids=["plain", "cut", "trailing", "members", "empty text", "cut JSON", "empty"],
)
async def test_damaged_body_is_400(tmp_path: Path, path: str, packed: bytes, fault: str) -> None:
    """A body that is not what its encoding announces is 400 and says so."""
    async with small_limits(tmp_path) as (up, served):
        status, headers, answer = await served.post(path, packed, GZIP)
        error = error_of(path, answer)
        assert (status, error["code"], headers["x-should-retry"]) == (400, "invalid_request", "false")
        assert fault in error["message"]
        assert not up.requests


async def test_unknown_encoding_names_the_known_ones(tmp_path: Path) -> None:
    """The error for an unknown encoding names those that are read."""
    async with small_limits(tmp_path) as (_, served):
        _, _, answer = await served.post(V1, BODY, "content-encoding: zstd")
        assert "'content-encoding: gzip' or 'deflate'" in error_of(V1, answer)["message"]
