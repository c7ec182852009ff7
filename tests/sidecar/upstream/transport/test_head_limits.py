"""Heads, informational heads and trailers of an upstream are bounded, in bytes and in fields."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from served_connection import MemoryTransport

from sidecar.upstream.transport.connection import MAX_HEAD_BYTES, MAX_HEADER_FIELDS, Connection

pytestmark = pytest.mark.anyio

READ_BYTES = 1_000
STATUS = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS + b"transfer-encoding: chunked\r\n\r\n"


class Socket(MemoryTransport):
    """A transport that can be aborted and paused."""

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass


def received(*reads: bytes) -> tuple[Connection, int]:
    """Return a connection after a request and *reads* of its response, up to where it was aborted; and the bytes read."""
    connection = Connection(asyncio.get_running_loop(), lambda _: None, lambda _: None)
    transport = Socket()
    connection.connection_made(transport)
    connection.request(b"GET / HTTP/1.1\r\n\r\n")
    size = 0
    for read in reads:
        if transport.closing:
            break
        connection.data_received(read)
        size += len(read)
    return connection, size


def in_reads(data: bytes) -> list[bytes]:
    return [data[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES)]


@pytest.mark.parametrize(
    "endless",
    [
        STATUS + b"x: " + b"a" * 2_000_000,
        STATUS + b"x" * 2_000_000,
        b"HTTP/1.1 200 " + b"a" * 2_000_000,
        b"HTTP/1.1 102 Processing\r\n\r\n" * 80_000,
        (b"HTTP/1.1 103 Early Hints\r\n" + b"a: b\r\n" * 100 + b"\r\n") * 3_000,
    ],
    ids=["value", "name", "reason", "102", "103"],
)
async def test_head_without_end_is_refused(endless: bytes) -> None:
    """A head that does not end is refused after 128 kB, informational heads in front of it included."""
    connection, size = received(*in_reads(endless))

    assert size <= MAX_HEAD_BYTES + READ_BYTES
    assert isinstance(connection.broken, httpx.RemoteProtocolError)
    assert connection.status == 0


async def test_fields_are_limited() -> None:
    """A head has at most 512 fields; more are refused."""
    for count, status in ((MAX_HEADER_FIELDS, 200), (MAX_HEADER_FIELDS + 1, 0)):
        connection, _ = received(STATUS + b"a: b\r\n" * count + b"\r\n")
        assert connection.status == status


async def test_trailers_are_limited() -> None:
    """Trailers are ignored, up to 512; more break the response."""
    for count, is_complete in ((MAX_HEADER_FIELDS, True), (MAX_HEADER_FIELDS + 1, False)):
        connection, _ = received(CHUNKED + b"1\r\na\r\n0\r\n" + b"a: b\r\n" * count + b"\r\n")
        assert connection.ended is is_complete
        assert (connection.broken is None) is is_complete
        assert connection.take() == b"a"


async def test_an_hour_of_informational_heads_is_read() -> None:
    """A server that sends `102 Processing` each second for an hour stays within the limit."""
    connection, _ = received(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 3_600, STATUS + b"content-length: 1\r\n\r\na")

    assert (connection.status, connection.ended, connection.take()) == (200, True, b"a")
