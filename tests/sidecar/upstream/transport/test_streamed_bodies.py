"""Request bodies that stream through a transport: one suite over our own connections and over a transport of httpx."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from both_transports import AnyTransport, own
from pushed import nothing, whole
from relaying import Received, echoes, relay_upstream
from wire import TIMEOUT_SECONDS, eventually, until_unchanged

from policies.api.rejection import Rejection
from sidecar.upstream.transport.body_sender import UploadBroken
from sidecar.upstream.transport.http_transport import HttpTransport
from sidecar.upstream.transport.response import Target
from sidecar.wire.relay.relayed_request import UploadFault

pytestmark = pytest.mark.anyio


class Pieces:
    """An upload of given pieces; None waits for ever, an exception is raised."""

    def __init__(self, *pieces: bytes | Exception | None, announced: bool = False) -> None:
        self._pieces = list(pieces)
        self.length = sum(len(each) for each in pieces if isinstance(each, bytes)) if announced else None
        self.taken, self.received = False, 0

    async def read(self) -> bytes:
        self.taken = True
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if piece is None:
            await asyncio.Event().wait()
        if isinstance(piece, Exception):
            raise piece
        assert piece is not None
        self.received += len(piece)
        return piece


def put(url: str) -> Target:
    return Target("POST", httpx.URL(url), [("x-own", "1")])


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
async def test_body_arrives_complete(transport: AnyTransport, *, announced: bool) -> None:
    """A body of many pieces arrives in order, with its length if that is known, and the connection is kept."""
    pieces = [bytes([at]) * (1 + 9_000 * at) for at in range(20)]
    async with relay_upstream(echoes) as up:
        for _ in range(2):
            upload = Pieces(*pieces, announced=announced)
            response = await transport.send_streamed(put(up.url), [("x-more", "2")], upload, nothing)
            assert await whole(response) == b'{"ok": true}'
    first = up.requests[0]
    assert first.body == b"".join(pieces)
    assert [first.header(name) for name in ("x-own", "x-more")] == ["1", "2"]
    assert first.header("content-length") == (str(len(first.body)) if announced else None)


async def test_empty_body_is_sent(transport: AnyTransport) -> None:
    """A chunked body without any bytes is one."""
    async with relay_upstream(echoes) as up:
        response = await transport.send_streamed(put(up.url), (), Pieces(), nothing)
        assert (await whole(response), up.requests[0].body) == (b'{"ok": true}', b"")


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
async def test_body_that_fails_breaks_the_request(transport: AnyTransport, *, announced: bool) -> None:
    """A body that fails raises, and the server sees that it is not complete."""
    fault = UploadFault(Rejection(413, "body_too_large", "too large"))

    async def reads(request: Received) -> None:
        await request.whole()

    async with relay_upstream(reads) as up:
        upload = Pieces(b"a" * 10, b"b" * 10, fault, announced=announced)
        upload.length = 1_000 if announced else None
        with pytest.raises(UploadBroken) as caught:
            await transport.send_streamed(put(up.url), (), upload, nothing)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert caught.value.__cause__ is fault
    assert not up.requests[0].is_complete


async def test_cancellation_closes_the_connection(transport: AnyTransport) -> None:
    """A request that is cancelled while its body waits closes its connection, without an end of the body."""

    async def reads(request: Received) -> None:
        await request.whole()

    async with relay_upstream(reads) as up:
        sending = asyncio.create_task(transport.send_streamed(put(up.url), (), Pieces(b"a", None), nothing))
        await asyncio.wait_for(up.arrived.wait(), TIMEOUT_SECONDS)
        await eventually(lambda: up.requests[0].size == 1)
        sending.cancel()
        await asyncio.wait([sending])
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert not up.requests[0].is_complete


async def test_server_that_does_not_read_holds_the_body_back(transport: AnyTransport) -> None:
    """No more of a body is taken than the buffers on the way hold."""
    goes_on = asyncio.Event()

    async def waits(request: Received) -> None:
        await goes_on.wait()
        await request.whole(keep=False)
        await request.answer(200, b"{}")

    pieces = [b"x" * 65_536] * 400
    async with relay_upstream(waits) as up:
        upload = Pieces(*pieces)
        sending = asyncio.create_task(transport.send_streamed(put(up.url), (), upload, nothing))
        stuck = await until_unchanged(lambda: upload.received)
        goes_on.set()
        await whole(await sending)
    assert stuck < len(pieces) * 65_536 // 2
    assert up.requests[0].size == len(pieces) * 65_536


async def test_server_that_closes_fails_the_request(transport: AnyTransport) -> None:
    """A server that closes without an answer fails the request while its body still waits."""

    async def closes(request: Received) -> None:
        await request.piece()
        request.close()

    async with relay_upstream(closes) as up:
        with pytest.raises(httpx.HTTPError) as caught:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await transport.send_streamed(put(up.url), (), Pieces(*[b"a" * 65_536] * 200), nothing)
    assert not isinstance(caught.value, UploadBroken)


async def test_early_answer_is_returned_while_the_body_waits() -> None:
    """An answer that comes before the end of the body is returned; closing it closes the connection."""

    async def answers(request: Received) -> None:
        await request.piece()
        await request.answer(200, b"early")
        await request.until_gone()

    transport = own()
    assert isinstance(transport, HttpTransport)
    async with relay_upstream(answers) as up:
        response = await transport.send_streamed(put(up.url), (), Pieces(b"a", None), nothing)
        assert await whole(response) == b"early"
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert transport.idle_count == 0
    await transport.aclose()


async def test_answer_is_read_before_a_write_fails() -> None:
    """An answer that arrived, from a server that then reset the connection, is returned although the body cannot be sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig"

    class RefusedBetween(Pieces):
        async def read(self) -> bytes:
            # No event-loop iteration is between the answer, the reset and the next write.
            if self.taken and not self.received:
                accepted, _ = listener.accept()
                accepted.sendall(answer)
                accepted.close()  # with unread bytes: a reset
                self.received = 1
            self.taken = True
            return b"x" * 65_536

    transport = own()
    with listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        response = await transport.send_streamed(put(url), (), RefusedBetween(), nothing)
        assert (response.status, await whole(response)) == (413, b"big")
    assert isinstance(transport, HttpTransport)
    assert transport.idle_count == 0
    await transport.aclose()


async def test_body_that_fails_behind_an_early_head_breaks_the_answer() -> None:
    """A body that fails while its answer arrives breaks the answer, which would be that to a part of the request."""
    fails = asyncio.Event()

    class Late(Pieces):
        async def read(self) -> bytes:
            if self.taken:
                await fails.wait()
            return await super().read()

    async def begins(request: Received) -> None:
        await request.piece()
        await request.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await request.until_gone()

    transport = own()
    async with relay_upstream(begins) as up:
        fault = UploadFault(Rejection(413, "body_too_large", "too large"))
        response = await transport.send_streamed(put(up.url), (), Late(b"a", fault), nothing)
        assert await response.read() == b"a"
        fails.set()
        with pytest.raises(UploadBroken):
            await response.read()
        await response.aclose()
    await transport.aclose()


async def test_streamed_request_has_a_new_connection() -> None:
    """A streamed body never goes out on a kept connection, which the server may have closed: it cannot be sent again."""
    transport = own()
    assert isinstance(transport, HttpTransport)
    async with relay_upstream(echoes) as up:
        await whole(await transport.send(put(up.url), (), b"{}", nothing))
        assert transport.idle_count == 1
        response = await transport.send_streamed(put(up.url), (), Pieces(b"a"), nothing)
        assert transport.idle_count == 1
        await whole(response)
        assert transport.idle_count == 2
    await transport.aclose()
