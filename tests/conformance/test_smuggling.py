"""Ambiguous requests: each is served once or refused, and what hides behind or inside it is never served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from recorded_bytes import RecordingUpstream, recording_upstream
from serving import Sidecar, settings_of, sidecar
from smuggled_requests import REQUESTS
from smuggling import SMUGGLED, Expect, Row
from strict_http import Message, read_responses
from wire import TIMEOUT_SECONDS, eventually

pytestmark = pytest.mark.anyio

SETTINGS = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
OK = 200
REFUSALS = (*range(400, 500), 501, 505)
"""Client errors; 501 is RFC 9112's status for an unknown transfer coding, 505 that for another version."""
MUST_CLOSE = (Expect.REFUSED, Expect.CLOSED)


class Running(NamedTuple):
    """A sidecar, and the upstream that records what it sends."""

    up: RecordingUpstream
    served: Sidecar


class Exchange(NamedTuple):
    """What a client received; *closed*: the sidecar has closed the connection before the client did."""

    responses: list[Message]
    raw: bytes
    closed: bool


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run the tests of this module in one event loop, that of the shared sidecar."""
    return "asyncio"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Yield one sidecar for all rows: to start one takes longer than a row."""
    folder = tmp_path_factory.mktemp("smuggling")
    async with recording_upstream() as up, sidecar(settings_of(folder, up.url, SETTINGS)) as served:
        yield Running(up, served)


async def exchange(served: Sidecar, row: Row) -> Exchange:
    """Send *row* in one write; read until the sidecar closes, or after its answer close the client's side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(row.data)
    raw, closed = b"", False
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if row.expect is not Expect.WAITS:
                while not (closed or _is_answered(raw, row)):
                    data = await reader.read(65_536)
                    raw, closed = raw + data, not data
            if not closed:
                writer.write_eof()
                raw += await reader.read()
    finally:
        writer.close()
    return Exchange(read_responses(raw, methods=[row.data.split(b" ", 1)[0].strip()]), raw, closed)


def _is_answered(raw: bytes, row: Row) -> bool:
    """Whether *raw* has a whole final response that does not announce a close."""
    if b"\r\n\r\n" not in raw:
        return False
    responses = read_responses(raw, methods=[row.data.split(b" ", 1)[0].strip()])
    return bool(responses) and responses[-1].ended and not responses[-1].closes


def test_tables_are_large() -> None:
    """The table of requests has at least 146 rows, each with a unique name and a source."""
    assert len({row.name for row in REQUESTS}) == len(REQUESTS) >= 146
    assert all(row.source for row in REQUESTS)


@pytest.mark.parametrize("row", REQUESTS, ids=[row.name for row in REQUESTS])
async def test_hidden_request_is_never_served(running: Running, row: Row) -> None:
    """The row gets its one answer; upstream receives at most its own request, and no byte of the hidden one."""
    up, served = running
    up.clear()
    seen = await exchange(served, row)
    await eventually(lambda: len(served.gateway.active_calls) == 0)

    assert SMUGGLED not in up.data
    assert SMUGGLED not in seen.raw
    assert up.faults == []
    accepted = [each for each in seen.responses if each.status == OK]
    assert len(up.requests) <= len(accepted)
    if row.expect is Expect.WAITS:
        assert (seen.raw, up.data) == (b"", b"")
        return
    (response,) = seen.responses
    assert response.ended
    if response.status != OK:
        assert row.expect is not Expect.SERVED
        assert response.status in REFUSALS
        assert up.data == b""
    else:
        assert row.expect in (Expect.SERVED, Expect.EITHER, Expect.CLOSED)
        assert len(up.requests) == row.data.lstrip().startswith(b"POST")
    if row.expect in MUST_CLOSE:
        assert seen.closed
        assert response.closes
    assert sum(each.reserved for each in await served.gateway.policy_services.store.accounts()) == 0
