"""Limits of what a client may send: heads, URLs, trailers, chunks, transfer codings and targets."""

from __future__ import annotations

import asyncio

import pytest
from asked_requests import Refusals, asking, refusal
from served_connection import CHUNKED_POST, GET, ServedConnection
from wire import eventually

from sidecar.downstream.buffered_bodies import BufferedBodies
from sidecar.server.http1.http_limits import (
    MAX_HEAD_BYTES,
    MAX_HEAD_FIELDS,
    MAX_SURPLUS_BYTES,
    MAX_URL_BYTES,
    HttpLimits,
)

pytestmark = pytest.mark.anyio

START = b"GET / HTTP/1.1\r\nhost: x\r\n"


def in_reads(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1_000, 65_536, 262_144])
@pytest.mark.parametrize(
    "head",
    [
        START + b"a: " + b"x" * MAX_HEAD_BYTES,
        START + b"x" * MAX_HEAD_BYTES,
        START + b"a: b\r\n" * (MAX_HEAD_BYTES // 6),
        b"\r\n" * (MAX_HEAD_BYTES // 2) + START,
    ],
    ids=["a value", "a name", "many fields", "empty lines"],
)
async def test_endless_head_is_431(head: bytes, size: int) -> None:
    """A head of more than 64 kB is refused once it exceeds that, in any split, before it has ended."""
    records = Refusals()
    served, asked = asking(HttpLimits(record=records.add))
    sent = 0
    for read in in_reads(head + b"x" * 300_000, size):
        if not served.transport.sent:
            sent += len(read)
        served.protocol.data_received(read)

    assert sent <= MAX_HEAD_BYTES + size
    assert refusal(served) == (431, "head_too_large")
    assert records == [(431, "head_too_large", "")]
    assert asked == []


@pytest.mark.parametrize("size", [1_000, 262_144])
async def test_complete_head_over_a_limit_is_refused(size: int) -> None:
    """A complete head with too many bytes or fields is 431, with too long a URL 414; up to the limits it is served."""
    for head, expected in [
        (START + b"a: b\r\n" * MAX_HEAD_FIELDS + b"\r\n", (431, "head_too_large")),
        (START + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", (431, "head_too_large")),
        (b"GET /" + b"x" * MAX_URL_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n", (414, "url_too_long")),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, (414, "url_too_long")),
    ]:
        served, asked = asking()
        for read in in_reads(head, size):
            served.protocol.data_received(read)
        assert refusal(served) == expected
        assert asked == []

    served, asked = asking()
    fields = b"a: b\r\n" * (MAX_HEAD_FIELDS - 2)
    head = b"GET /" + b"x" * (MAX_URL_BYTES - 1) + b" HTTP/1.1\r\nhost: x\r\n" + fields
    rest = MAX_HEAD_BYTES - len(head) - len(b"a: \r\n\r\n")
    for read in in_reads(head + b"a: " + b"x" * rest + b"\r\n\r\n", size):
        served.protocol.data_received(read)
    await served.answered()
    assert len(asked) == 1


@pytest.mark.parametrize("size", [1_000, 262_144])
async def test_body_behind_a_head_in_one_read_is_no_head(size: int) -> None:
    """A long body that arrives together with its head is not counted as head."""
    served, asked = asking()
    body = b"x" * 200_000
    for read in in_reads(START.replace(b"GET", b"POST") + b"content-length: 200000\r\n\r\n" + body, size):
        served.protocol.data_received(read)
        await asyncio.sleep(0)
    await served.answered()

    assert [each for _, each in asked] == [body]


async def test_trailers_are_no_headers() -> None:
    """Trailers do not become headers of the request, although they arrive together with its head."""
    served, asked = asking()
    served.protocol.data_received(CHUNKED_POST + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    await served.answered()

    ((scope, body),) = asked
    assert (body, dict(scope["headers"])) == (b"a", {b"host": b"localhost", b"transfer-encoding": b"chunked"})


@pytest.mark.parametrize("size", [1_000, 262_144])
@pytest.mark.parametrize(
    "rest",
    [
        b"0\r\na: " + b"x" * 400_000,
        b"0\r\n" + b"a: b\r\n" * 70_000,
        b"0\r\n" + b"a: b\r\n" * (MAX_HEAD_FIELDS + 1) + b"\r\n",
        b"1;" + b"x" * 400_000,
        b"1;xxxxxxxxxxxxxxxxxxxx\r\na\r\n" * 20_000,
    ],
    ids=["a value", "trailers", "many trailers", "an extension", "extensions"],
)
async def test_trailers_and_extensions_are_bounded(rest: bytes, size: int) -> None:
    """Trailers and chunk extensions over their limits are refused; the application gets no whole body."""
    served, asked = asking()
    served.protocol.data_received(CHUNKED_POST)
    await asyncio.sleep(0)
    for read in in_reads(rest, size):
        served.protocol.data_received(read)
        await asyncio.sleep(0)
    await eventually(lambda: not served.protocol.tasks)

    assert refusal(served) == (431, "head_too_large")
    assert asked == []


@pytest.mark.parametrize("size", [1_000, 65_536])
@pytest.mark.parametrize("trailers", [b"a: " + b"x" * 1_500_000, b"a:\r\n" * 375_000], ids=["a value", "many fields"])
async def test_data_permits_no_more_trailers(trailers: bytes, size: int) -> None:
    """Trailers are refused at the same limit, before they have ended, behind a body whose data permits long extensions."""
    served, asked = asking()
    served.protocol.data_received(CHUNKED_POST)
    await asyncio.sleep(0)
    data = b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    for read in in_reads(data, size):
        served.protocol.data_received(read)
        await asyncio.sleep(0)
    sent = 0
    for read in in_reads(b"0\r\n" + trailers, size):
        if not served.transport.sent:
            sent += len(read)
        served.protocol.data_received(read)
    await eventually(lambda: not served.protocol.tasks)

    assert sent <= MAX_HEAD_BYTES + 2 * size
    assert refusal(served) == (431, "head_too_large")
    assert asked == []


async def test_chunks_of_one_byte_are_served() -> None:
    """A body in chunks of one byte is served: its overhead is five bytes each."""
    served, asked = asking()
    served.protocol.data_received(CHUNKED_POST)
    await asyncio.sleep(0)
    for _ in range(50):
        served.protocol.data_received(b"1\r\na\r\n" * 1_000)
        await asyncio.sleep(0)
    served.protocol.data_received(b"0\r\n\r\n")
    await served.answered()

    assert [len(body) for _, body in asked] == [50_000]


@pytest.mark.parametrize(
    "field",
    [
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: chunked, chunked",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        b"transfer-encoding: identity, chunked",
        b"transfer-encoding: chunked;q=1",
        b"transfer-encoding: gzip",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: chunked\r\ncontent-length: 3",
    ],
)
async def test_other_transfer_coding_is_400(field: bytes) -> None:
    """A transfer coding other than `chunked` alone is 400, and the connection is closed: the framing is in doubt."""
    served, asked = asking()
    served.protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\n" + field + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET)
    await asyncio.sleep(0)

    assert refusal(served) == (400, "invalid_request")
    assert asked == []


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0"])
async def test_other_version_is_505(version: bytes) -> None:
    """A request that names another version of HTTP is 505, and the connection is closed."""
    served, asked = asking()
    served.protocol.data_received(GET.replace(b"HTTP/1.1", version) + GET)
    await asyncio.sleep(0)

    assert refusal(served) == (505, "invalid_request")
    assert asked == []


async def test_transfer_coding_of_http_1_0_is_400() -> None:
    """HTTP/1.0 has no transfer coding: a proxy in front may have framed the body otherwise."""
    served, asked = asking()
    served.protocol.data_received(CHUNKED_POST.replace(b"1.1", b"1.0") + b"0\r\n\r\n")
    await asyncio.sleep(0)

    assert refusal(served) == (400, "invalid_request")
    assert asked == []


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/a?b=c", "/a", b"b=c", b"localhost"),
        (b"http://y:80/a?b", "/a", b"b", b"y:80"),
        (b"HTTPS://[::1]:8787", "/", b"", b"[::1]:8787"),
        (b"http://y?b", "/", b"b", b"y"),
        (b"//y/a", "//y/a", b"", b"localhost"),
    ],
)
async def test_target_in_any_form_is_read(target: bytes, path: str, query: bytes, host: bytes) -> None:
    """A target in absolute form gives the path, the root if it has none, and replaces `Host`."""
    served, asked = asking()
    served.protocol.data_received(GET.replace(b"/ ", target + b" ", 1))
    await served.answered()

    ((scope, _),) = asked
    assert (scope["path"], scope["query_string"], scope["headers"]) == (path, query, [(b"host", host)])


async def test_absolute_target_keeps_faults_of_host() -> None:
    """A repeated `Host` stays repeated beside an absolute target, and a missing one stays missing: both are faults."""
    for fields, expected in [(b"host: a\r\nhost: b\r\n", [(b"host", b"y")] * 2), (b"a: b\r\n", [(b"a", b"b")])]:
        served, asked = asking()
        served.protocol.data_received(b"GET http://y/a HTTP/1.1\r\n" + fields + b"\r\n")
        await served.answered()
        ((scope, _),) = asked
        assert scope["headers"] == expected


@pytest.mark.parametrize(
    "line",
    [
        b"GET /a#b",
        b"OPTIONS *",
        b"GET ftp://x/a",
        b"GET http://user@x/a",
        b"GET http://",
        b"GET http:///a",
        b"GET a",
        b"CONNECT x:443",
        b"GET http://[::1/a",
        b"GET \xc3\xa9",
    ],
)
async def test_target_that_is_no_path_is_400(line: bytes) -> None:
    """A target that is no path of this server is 400."""
    served, asked = asking()
    served.protocol.data_received(line + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.sleep(0)

    assert refusal(served) == (400, "invalid_request")
    assert asked == []


async def test_incomplete_heads_share_the_buffer() -> None:
    """Incomplete heads hold at most half of `max_buffered`; one more gets 503, and an ended one frees its room."""
    limits = HttpLimits(buffered=BufferedBodies(100_000))
    first, second, third = (ServedConnection(limits=limits) for _ in range(3))
    first.protocol.data_received(START + b"a: " + b"x" * 40_000)
    second.protocol.data_received(START + b"a: " + b"x" * 40_000)
    assert refusal(second) == (503, "overloaded")
    first.protocol.data_received(b"\r\n\r\n")
    await first.answered()
    third.protocol.data_received(START + b"a: " + b"x" * 40_000)
    assert third.transport.sent == b""
    third.protocol.connection_lost(None)

    assert limits.buffered.total == 0


async def test_surplus_is_bounded() -> None:
    """Bytes of a refused request are discarded up to a limit; a client that sends more is disconnected."""
    served = ServedConnection()
    served.protocol.data_received(b"nonsense\r\n\r\n")
    for _ in range(MAX_SURPLUS_BYTES // 1_000_000):
        served.protocol.data_received(bytes(1_000_000))
        assert not served.transport.closing
    served.protocol.data_received(bytes(1_000_000))

    assert served.transport.closing
