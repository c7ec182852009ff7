"""Bodies that stream through the sidecar: memory, pace, sizes, and connections that end in the middle."""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import select
import socket
import struct
import termios
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from process import program
from recording import SERVERS, recorded
from relaying import Received, echoes, relay_upstream
from serving import settings_of, sidecar
from wire import TIMEOUT_SECONDS, Client, chunk, eventually, until_unchanged

from policies import Call, Policy
from sidecar.downstream.client_errors import draining
from sidecar.downstream.relay.upload import UPLOAD_WINDOW_BYTES
from sidecar.server.gateway import Gateway
from sidecar.upstream.transport.httpx_transport import HttpxTransport

pytestmark = pytest.mark.anyio

FILES = '[server]\npassthrough = [{ path = "/v1/files", max_body = 100_000_000 }]\n'
TRANSCRIBE = '[server]\npassthrough = [{ path = "/v1/audio/transcriptions", tokens_each = 2_000 }]\n'
FORM_TYPE = "content-type: multipart/form-data; boundary=xyz"
HEAD = b'--xyz\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--xyz\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
TAIL = b"\r\n--xyz--\r\n"
PIECE = b"x" * 65_536
MEGABYTE = 1_048_576
SMALL_BUFFER_BYTES = 16_384


async def begin(client: Client, path: str, *headers: str) -> None:
    """Send the head of an upload, and the start of its form."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", FORM_TYPE, *headers]
    client.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    await client.writer.drain()


def unsent(client: Client) -> int:
    """Return the bytes that *client* has written and its kernel has not delivered."""
    queued = fcntl.ioctl(client.writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", queued)[0]) + client.writer.transport.get_write_buffer_size()


async def pour(client: Client, *, chunked: bool = True) -> None:
    """Send pieces of a file until the connection breaks."""
    while True:
        client.writer.write(chunk(PIECE) if chunked else PIECE)
        await client.writer.drain()


async def fill(client: Client) -> None:
    """Send a file until no buffer on the way has room: the sidecar has stopped reading its client."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            client.writer.write(chunk(PIECE))
            await client.writer.drain()
            sent += 1

    client.writer.transport.set_write_buffer_limits(high=0)
    sending = asyncio.create_task(send())
    await until_unchanged(lambda: sent)
    sending.cancel()


@SERVERS
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
async def test_form_arrives_as_it_was_sent(tmp_path: Path, protocol: type[asyncio.Protocol], *, chunked: bool) -> None:
    """A form of 3 MB arrives byte for byte, with the client's framing, boundary and length."""
    body = HEAD + PIECE * 48 + TAIL
    async with relay_upstream() as up, recorded(tmp_path, up.url, FILES, protocol=protocol) as it:
        client = await it.served.client()
        await begin(client, "/v1/files", "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}")
        for at in range(0, len(body), 100_000):
            part = body[at : at + 100_000]
            client.writer.write(chunk(part) if chunked else part)
            await client.writer.drain()
        client.writer.write(b"0\r\n\r\n" if chunked else b"")
        status, _, answer = await client.answer()
        record = await it.one()

    (request,) = up.requests
    assert (status, answer, request.body == body) == (200, b'{"ok": true}', True)
    assert request.header("content-type") == FORM_TYPE.partition(": ")[2]
    assert request.header("content-length") == (None if chunked else str(len(body)))
    assert (record.model_asked, record.request_bytes) == ("m", len(body))


async def test_other_transports_stream_too(tmp_path: Path) -> None:
    """An httpx transport gets the body piece by piece, and a body that breaks off breaks its request."""
    body = HEAD + PIECE * 48 + TAIL

    def over_httpx(settings: object) -> Gateway:
        return Gateway(settings, transport=httpx.AsyncHTTPTransport())  # type: ignore[arg-type]

    async def reads(request: Received) -> None:
        await request.whole()

    async with (
        relay_upstream(echoes, reads) as up,
        sidecar(settings_of(tmp_path, up.url, FILES), make_gateway=over_httpx) as served,
    ):
        assert isinstance(served.gateway.upstream._first.transport, HttpxTransport)
        status, _, _ = await served.post("/v1/files", body, FORM_TYPE)
        client = await served.client()
        await begin(client, "/v1/files", f"content-length: {len(body)}")
        client.writer.write(body[:1_000_000])
        await eventually(lambda: len(up.requests) == 2)
        client.reset()
        await asyncio.wait_for(up.requests[1].gone.wait(), TIMEOUT_SECONDS)
    assert (status, up.requests[0].body == body, up.requests[1].is_complete) == (200, True, False)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
async def test_memory_does_not_grow_with_the_body(tmp_path: Path) -> None:
    """An upload of 50 MB takes less than 6 MB more memory at its peak than one of 1 MB."""

    async def counts(request: Received) -> None:
        await request.whole(keep=False)
        await request.answer(200, b"{}")

    def peak(pid: int) -> float:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1_024

    (tmp_path / "s.toml").write_text(FILES + '[store]\nurl = "memory://"\n')
    async with relay_upstream(counts) as up:
        arguments = ("serve", "--config", "s.toml", "--port", "0", "--upstream", up.url)
        with program(*arguments, folder=tmp_path) as sidecar_program:
            peaks = []
            for megabytes in (1, 50):
                client = await Client.to(sidecar_program.port)
                size = len(HEAD) + megabytes * MEGABYTE + len(TAIL)
                await begin(client, "/v1/files", f"content-length: {size}")
                client.writer.write(HEAD)
                for _ in range(megabytes * MEGABYTE // len(PIECE)):
                    client.writer.write(PIECE)
                    await client.writer.drain()
                client.writer.write(TAIL)
                status, _, _ = await client.answer()
                client.close()
                assert (status, up.requests[-1].size) == (200, size)
                peaks.append(peak(sidecar_program.popen.pid))
    print(f"peak memory with 1 MB: {peaks[0]:.1f} MB, with 50 MB: {peaks[1]:.1f} MB")
    assert peaks[1] - peaks[0] < 6


async def test_slow_upstream_slows_its_client(tmp_path: Path) -> None:
    """While the upstream does not read, the client can send no more than the buffers on its way hold."""
    goes_on = asyncio.Event()

    async def waits(request: Received) -> None:
        await goes_on.wait()
        await request.whole(keep=False)
        await request.answer(200, b"{}")

    pieces = 640
    async with relay_upstream(waits) as up, sidecar(settings_of(tmp_path, up.url, FILES)) as served:
        client = await served.client()
        await begin(client, "/v1/files", "transfer-encoding: chunked")
        sent = 0

        async def send() -> None:
            nonlocal sent
            for data in (HEAD, *[PIECE] * pieces, TAIL):
                client.writer.write(chunk(data))
                await client.writer.drain()
                sent += len(data)
            client.writer.write(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        stuck = await until_unchanged(lambda: sent)
        held = served.gateway.buffered.total
        goes_on.set()
        status, _, _ = await client.answer()
        await sending
        await eventually(lambda: served.gateway.buffered.total == 0)

    assert stuck < pieces * len(PIECE) // 2
    assert (status, held) == (200, UPLOAD_WINDOW_BYTES)


@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_client_that_leaves_closes_the_upstream(tmp_path: Path, leave: Callable[[Client], None]) -> None:
    """A client that leaves in the middle of its upload closes the upstream's connection, which gets no end of the body."""

    async def reads(request: Received) -> None:
        await request.whole(keep=False)

    async with relay_upstream(reads) as up, recorded(tmp_path, up.url, FILES) as it:
        client = await it.served.client()
        await begin(client, "/v1/files", "transfer-encoding: chunked")
        client.writer.write(chunk(HEAD) + chunk(PIECE) * 4)
        await eventually(lambda: bool(up.requests) and up.requests[0].size > 3 * len(PIECE))
        leave(client)
        record = await it.one()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert (record.status, record.ending, up.requests[0].is_complete) == (499, "cancelled", False)


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux reports an end behind unread bytes")
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_client_that_leaves_is_noticed_while_it_is_not_read(
    tmp_path: Path, leave: Callable[[Client], None]
) -> None:
    """The end of a connection is noticed behind bytes that are not read, because the upstream does not accept them."""
    makes_room, ends = asyncio.Event(), asyncio.Event()
    clients: list[Client] = []

    async def waits(request: Received) -> None:
        await makes_room.wait()
        while unsent(clients[0]):  # a FIN comes behind what the client has sent, so that must leave its socket
            await request.piece()
            await asyncio.sleep(0.02)
        makes_room.clear()
        await ends.wait()
        await request.whole(keep=False)

    async with relay_upstream(waits) as up, recorded(tmp_path, up.url, FILES) as it:
        client = await it.served.client()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        await begin(client, "/v1/files", "transfer-encoding: chunked")
        client.writer.write(chunk(HEAD))
        await fill(client)
        clients.append(client)
        makes_room.set()
        await eventually(lambda: not makes_room.is_set())
        leave(client)
        record = await it.one()
        ends.set()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert (record.status, record.ending, up.requests[0].is_complete) == (499, "cancelled", False)


async def test_client_that_leaves_is_noticed_before_its_body_is_sent(tmp_path: Path) -> None:
    """The end of a connection whose bytes are ahead is noticed while the call waits to be admitted."""

    class Waits(Policy, frozen=True):
        async def admit(self, call: Call) -> None:  # the form of the hook
            await asyncio.Event().wait()

    async with relay_upstream() as up, recorded(tmp_path, up.url, FILES, policies=(Waits(),)) as it:
        client = await it.served.client()
        lines = "host: localhost\r\ncontent-type: audio/wav\r\ncontent-length: 5000000\r\n\r\n"
        client.writer.write(f"POST /v1/files HTTP/1.1\r\n{lines}".encode() + PIECE * 3)
        await eventually(lambda: bool(it.served.gateway.active_calls))
        client.close()
        record = await it.one()
    assert (record.status, record.ending, up.requests) == (499, "cancelled", [])


async def test_pace_of_the_client_behind_an_early_head(tmp_path: Path) -> None:
    """While the client still sends, an upstream that has begun its answer may be silent for longer than `idle`.

    Behind the whole body it has `idle` seconds; then the call fails, and its body, which was taken, is not sent again.
    """

    async def begins(request: Received) -> None:
        await request.piece()
        await request.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        await request.whole(keep=False)
        await request.send(chunk(b"{}") + b"0\r\n\r\n")

    async def stalls(request: Received) -> None:
        await request.piece()
        await request.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        await request.whole(keep=False)
        await request.until_gone()

    async with relay_upstream(begins, stalls) as up:
        text = FILES + f'[[upstream]]\nbase_url = "{up.url}"\nidle = 0.4\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for expected in (200, 504):
                client = await served.client()
                await begin(client, "/v1/files", f"content-length: {len(HEAD) + 2 * len(PIECE)}")
                client.writer.write(HEAD + PIECE)
                await asyncio.sleep(0.8)
                client.writer.write(PIECE)
                status, _, _ = await client.answer()
                assert status == expected
    assert len(up.requests) == 2  # a body that was sent is not repeated


async def test_body_beyond_its_limit_is_cut_off(tmp_path: Path) -> None:
    """A chunked body that turns out too large gets 413, and the upstream never sees its end."""
    text = '[server]\npassthrough = [{ path = "/v1/files", max_body = 300_000 }]\n'

    async def reads(request: Received) -> None:
        await request.whole(keep=False)

    async with relay_upstream(reads) as up, recorded(tmp_path, up.url, text) as it:
        client = await it.served.client()
        await begin(client, "/v1/files", "transfer-encoding: chunked")
        client.writer.write(chunk(HEAD) + chunk(PIECE) * 8)
        status, _, body = await client.answer()
        record = await it.one()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)

    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    assert (record.code, record.attempts, up.requests[0].is_complete) == ("body_too_large", 1, False)


async def test_announced_size_is_refused_before_the_body(tmp_path: Path) -> None:
    """A body announced as too large is refused before it is sent: its client waits for `100 Continue`."""
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, FILES)) as served:
        client = await served.client()
        await begin(client, "/v1/files", "content-length: 100000001", "expect: 100-continue")
        status, _, _ = await client.answer()
        other = await served.client()
        await begin(other, "/v1/files", "content-length: 70000", "expect: 100-continue")
        line = await other.until(b"\r\n\r\n")
        other.writer.write(b"x" * 70_000)
        accepted, _, _ = await other.answer()
    assert (status, line, accepted, len(up.requests)) == (413, b"HTTP/1.1 100 Continue\r\n\r\n", 200, 1)


async def test_slow_body_is_refused(tmp_path: Path) -> None:
    """A body that stalls gets 408 after `body_timeout`, and its upstream is closed."""
    text = FILES.replace("[server]", "[server]\nbody_timeout = 0.2")

    async def reads(request: Received) -> None:
        await request.whole(keep=False)

    async with relay_upstream(reads) as up, recorded(tmp_path, up.url, text) as it:
        client = await it.served.client()
        await begin(client, "/v1/files", "content-length: 5000000")
        client.writer.write(HEAD + PIECE)
        status, _, _ = await client.answer()
        record = await it.one()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert (status, record.code, up.requests[0].is_complete) == (408, "request_timeout", False)


@pytest.mark.parametrize(("status", "shown"), [(413, 413), (200, 200)])
async def test_upstream_may_answer_before_the_end_of_the_body(tmp_path: Path, status: int, shown: int) -> None:
    """An answer that comes before the whole body was sent is relayed at once, and the rest is not sent."""

    async def answers(request: Received) -> None:
        await request.piece()
        await request.answer(status, b"{}")
        await request.until_gone()

    async with relay_upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, FILES)) as served:
        client = await served.client()
        await begin(client, "/v1/files", "content-length: 50000000")
        client.writer.write(HEAD + PIECE * 4)
        found, _, _ = await client.answer()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert found == shown


async def test_upstream_that_closes_gets_the_client_an_error(tmp_path: Path) -> None:
    """An upstream that closes while it is sent a body is a failure, whose status the client gets; nothing is repeated."""

    async def closes(request: Received) -> None:
        await request.piece()
        request.close()

    async with relay_upstream(closes) as up, sidecar(settings_of(tmp_path, up.url, FILES)) as served:
        client = await served.client()
        await begin(client, "/v1/files", "content-length: 50000000")
        client.writer.write(HEAD + PIECE * 4)
        status, _, body = await client.answer()
    assert (status, json.loads(body)["error"]["code"], len(up.requests)) == (502, "upstream_unavailable", 1)


async def test_upstream_that_does_not_read_times_out(tmp_path: Path) -> None:
    """An upstream that accepts nothing for `idle` seconds fails the call; the client's own pace does not count."""
    stays = asyncio.Event()

    async def ignores(request: Received) -> None:
        await stays.wait()
        raise ConnectionAbortedError

    async with relay_upstream(ignores) as up:
        text = FILES + f'[[upstream]]\nbase_url = "{up.url}"\nidle = 0.3\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            client = await served.client()
            await begin(client, "/v1/files", "transfer-encoding: chunked")
            client.writer.write(chunk(HEAD))
            sending = asyncio.create_task(pour(client))
            status, _, body = await client.answer()
            sending.cancel()
            stays.set()
    assert (status, json.loads(body)["error"]["code"]) == (504, "upstream_timeout")


async def test_unread_uploads_are_bounded(tmp_path: Path) -> None:
    """Uploads that stream through count in `max_buffered`; one without room gets 503, and nothing reaches the upstream."""
    text = FILES.replace("[server]", f"[server]\nmax_buffered = {UPLOAD_WINDOW_BYTES + 1}")

    async def reads(request: Received) -> None:
        await request.whole(keep=False)
        await request.answer(200, b"{}")

    async with relay_upstream(reads) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        first, second = await served.client(), await served.client()
        await begin(first, "/v1/files", "content-length: 500000")
        first.writer.write(HEAD + PIECE)
        await eventually(lambda: len(up.requests) == 1)
        await begin(second, "/v1/files", "content-length: 500000")
        second.writer.write(HEAD + PIECE)
        status, _, body = await second.answer()
        first.writer.write(b"x" * (500_000 - len(HEAD) - len(PIECE)))
        finished, _, _ = await first.answer()
        await eventually(lambda: served.gateway.buffered.total == 0)
    assert (status, json.loads(body)["error"]["code"], finished, len(up.requests)) == (503, "overloaded", 200, 1)


async def test_drain_ends_an_upload(tmp_path: Path) -> None:
    """An upload that is still running at the end of a drain gets 503, and its upstream is closed."""

    async def reads(request: Received) -> None:
        await request.whole(keep=False)

    async with relay_upstream(reads) as up, sidecar(settings_of(tmp_path, up.url, FILES)) as served:
        client = await served.client()
        await begin(client, "/v1/files", "content-length: 50000000")
        client.writer.write(HEAD + PIECE)
        await eventually(lambda: len(up.requests) == 1)
        await served.gateway.active_calls.drain(0.0, draining())
        status, _, body = await client.answer()
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert (status, json.loads(body)["error"]["code"]) == (503, "draining")


async def test_upload_that_broke_off_costs_its_tokens_once(tmp_path: Path) -> None:
    """A call that was cut in its body may have made the upstream work, so it costs `tokens_each`; nothing stays reserved."""

    async def reads(request: Received) -> None:
        await request.whole(keep=False)

    async with relay_upstream(reads) as up, sidecar(settings_of(tmp_path, up.url, TRANSCRIBE)) as served:
        client = await served.client()
        await begin(client, "/v1/audio/transcriptions", "content-length: 5000000")
        client.writer.write(HEAD + PIECE * 4)
        await eventually(lambda: bool(up.requests) and up.requests[0].size > len(PIECE))
        client.close()
        account = await served.account()
    assert (account.spent, account.reserved) == (2_000, 0)
