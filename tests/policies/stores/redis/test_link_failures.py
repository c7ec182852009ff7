"""The link to a Redis that fails: lost connections and replies, silence, restarts, and how soon calls learn that it is down."""

from __future__ import annotations

import asyncio
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server
from script_links import command, script_link
from store_callers import ATTEMPT_PAUSE_SECONDS, MAX_ATTEMPTS
from tcp_proxy import tcp_proxy
from wire import eventually

from policies.api.store import StoreDown
from policies.stores.batching.outage import RETRY_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % at for at in range(count)]


async def test_cut_connection_is_replaced_at_once(redis: RedisServer) -> None:
    """When a connection is reset with payloads in flight, they are sent again in order, and each is executed once."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await link.submit(b"first")
        proxy.swallow()
        waiting = [link.submit(each) for each in numbered(50)]
        await eventually(lambda: b"$2\r\n49\r\n" in proxy.requests)
        proxy.cut()
        proxy.resume()
        assert await asyncio.gather(*waiting) == numbered(50)
        assert await link.appended(redis.port) == [b"first", *numbered(50)]
        assert proxy.connections == 2


async def test_lost_replies_are_sent_again(redis: RedisServer) -> None:
    """A payload that was executed and whose reply was lost is sent again, and has its result."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await link.submit(b"first")
        proxy.loses_replies = 1
        assert await link.submit_all(numbered(20)) == numbered(20)
        assert await link.appended(redis.port) == [b"first", *numbered(20)]


async def test_second_loss_is_store_down(redis: RedisServer) -> None:
    """When the replacement is lost too, the payload fails as one that may have been executed, and further ones at once."""
    async with tcp_proxy(redis.port) as proxy, script_link(f"{proxy.url}?wait=0") as link:
        await link.submit(b"first")
        proxy.loses_replies = 1_000
        with pytest.raises(StoreDown, match=f"^127.0.0.1:{proxy.port}/0: it closed the connection; see that") as down:
            await link.submit(b"second")
        assert down.value.taken
        connections = proxy.connections
        with pytest.raises(StoreDown) as down:
            await link.submit(b"third")
        assert not down.value.taken
        assert proxy.connections == connections
        proxy.loses_replies = 0
        assert await link.submit_until_taken(b"fourth") == b"fourth"


@pytest.mark.parametrize("command", [b"\nINFO", b"\nEVALSHA"], ids=["INFO", "EVALSHA"])
@pytest.mark.parametrize(("closes", "cause"), [(True, "it closed the connection"), (False, "no answer in time")])
async def test_cause_of_an_outage_has_the_same_words_in_each_phase(command: bytes, *, closes: bool, cause: str) -> None:
    """A server that ends or leaves without an answer what it is asked, from some command on, has one cause, and its address once."""
    answering: set[asyncio.Task[Any] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        while command not in (data := await reader.read(65_536)) and data:
            writer.write(b"$0\r\n\r\n" if b"\nINFO" in data else b"+OK\r\n" * data.count(b"*"))
        if not closes:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with script_link(f"redis://127.0.0.1:{port}/0", timeout=0.3) as link:
        with pytest.raises(StoreDown, match=f"^127.0.0.1:{port}/0: {cause}; see that it runs and can be reached"):
            await link.submit(b"1")
    server.close()
    await asyncio.gather(*filter(None, answering), return_exceptions=True)


async def test_connection_that_ends_while_idle_costs_nothing(redis: RedisServer) -> None:
    """A connection that is closed without anything in flight is replaced by the next payload."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        for at in range(3):
            await link.submit(b"%d" % at)
            proxy.cut()
            await asyncio.sleep(0.01)
        assert await link.submit(b"last") == b"last"
        assert proxy.connections == 4


async def test_silent_server_is_store_down(redis: RedisServer) -> None:
    """A server that takes everything and answers nothing fails what is in flight, then further payloads at once, then recovers."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url, timeout=0.2) as link:
        await link.submit(b"first")
        proxy.swallow()
        results = await link.submit_all(numbered(100))
        assert all(isinstance(each, StoreDown) and each.taken for each in results)
        assert str(results[0]).startswith(f"127.0.0.1:{proxy.port}/0: no answer in time; see that it runs")
        connections = proxy.connections
        results = await link.submit_all(numbered(100))
        assert all(isinstance(each, StoreDown) and not each.taken for each in results)
        assert proxy.connections == connections
        proxy.resume()
        assert await link.submit_until_taken(b"last") == b"last"
        assert await link.submit_all(numbered(100)) == numbered(100)


async def test_one_probe_at_a_time(redis: RedisServer) -> None:
    """While a server is silent, one payload in half a second waits for it; all others fail without waiting."""
    now = [0.0]
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url, timeout=0.2, monotonic=lambda: now[0]) as link:
        proxy.swallow()
        await link.submit_all([b"1"])
        now[0] += RETRY_SECONDS
        probe = link.submit(b"2")
        results = await link.submit_all(numbered(50))
        assert all(isinstance(each, StoreDown) for each in results)
        assert not probe.done()
        proxy.resume()
        assert await probe == b"2"
        assert await link.submit(b"3") == b"3"


async def test_suspended_server(tmp_path: Path) -> None:
    """A server process that is suspended is down, although its system accepts connections; when it wakes it is used again."""
    with redis_server(tmp_path) as server:
        async with script_link(server.url, timeout=0.2) as link:
            await link.submit(b"first")
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            with pytest.raises(StoreDown) as down:
                await link.submit(b"second")
            assert down.value.taken
            server.process.send_signal(signal.SIGCONT)
            assert await link.submit_until_taken(b"third") == b"third"
            assert await link.appended(server.port) in ([b"first", b"third"], [b"first", b"second", b"third"])


async def test_large_payloads_to_a_silent_server(redis: RedisServer) -> None:
    """More bytes than all buffers hold are no reason to wait for ever: a server that does not read is down."""
    async with tcp_proxy(redis.port) as proxy, script_link(f"{proxy.url}?wait=0", timeout=0.2) as link:
        await link.submit(b"first")
        proxy.cut()
        proxy.refuse()
        writers: list[asyncio.StreamWriter] = []

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket
            writers.append(writer)

        deaf = await asyncio.start_server(take, "127.0.0.1", proxy.port)
        results = await link.submit_all([b"x" * 1_000_000 for _ in range(40)])
        assert all(isinstance(each, StoreDown) for each in results)
        deaf.close()
        for writer in writers:
            writer.transport.abort()


async def test_unreachable_server_is_refused_at_once() -> None:
    """Where no server listens, the first payload fails at once and was not taken; the error has a remedy and no password."""
    port = free_port()
    async with script_link(f"redis://:secret@127.0.0.1:{port}/0", timeout=600.0) as link:
        with pytest.raises(StoreDown, match=f"^127.0.0.1:{port}/0: .*; see that it runs and can be reached$") as down:
            await link.submit(b"1")
        assert not down.value.taken
        assert "secret" not in str(down.value)


@pytest.mark.parametrize("url", ["redis://{}/0", "redis+sentinel://{}/name/0"], ids=["cluster", "sentinels"])
async def test_outage_of_several_servers_has_one_cause(url: str) -> None:
    """Servers that are all gone are one cause, in whichever order they fail: the log has a line for each cause."""
    ports, clock = [free_port() for _ in range(4)], count()
    async with script_link(
        url.format(",".join(f"127.0.0.1:{port}" for port in ports)), timeout=0.05, monotonic=lambda: float(next(clock))
    ) as link:
        causes = {str(result) for _ in range(8) for result in await link.submit_all([b"1"])}
    assert len(causes) == 1
    assert "(4 were asked" in causes.pop()


async def test_restarted_server(tmp_path: Path) -> None:
    """A server that has lost its scripts and connections serves the next payloads without an error."""
    with redis_server(tmp_path) as server:
        async with script_link(server.url) as link:
            await link.submit(b"1")
            server.stop()
            server.start()
            assert await link.submit_all(numbered(20)) == numbered(20)


async def test_server_that_loads_its_data(tmp_path: Path) -> None:
    """A server that starts and loads its data is waited for."""
    options = ("--appendonly", "yes", "--enable-debug-command", "yes", "--key-load-delay", "200000")
    with redis_server(tmp_path, *options) as server:
        async with script_link(server.url) as link:
            await link.submit(b"1")
            await command(server.port, "CONFIG", "SET", "loading-process-events-interval-bytes", 1024)
            reloading = asyncio.create_task(command(server.port, "DEBUG", "LOADAOF"))
            await asyncio.sleep(0.05)
            assert await link.submit(b"2") == b"2"
            await reloading


async def test_server_in_a_long_script(tmp_path: Path) -> None:
    """A server that runs a script of another client for too long (BUSY) is waited for."""
    with redis_server(tmp_path, "--busy-reply-threshold", "10") as server:
        async with tcp_proxy(server.port) as proxy, script_link(proxy.url, timeout=5.0) as link:
            await link.submit(b"1")
            busy = asyncio.create_task(command(server.port, "EVAL", "while true do end", 0))
            await until_busy(server.port)
            sent = proxy.requests.count(b"EVALSHA")
            waiting = [link.submit(each) for each in numbered(5)]
            await eventually(lambda: proxy.requests.count(b"EVALSHA") > sent + len(waiting))  # some are sent again
            await command(server.port, "SCRIPT", "KILL")
            assert await asyncio.gather(*waiting) == numbered(5)
            await asyncio.gather(busy, return_exceptions=True)


async def until_busy(port: int) -> None:
    """Wait until the server at *port* refuses commands because of a long script; the number of attempts is bounded."""
    for _ in range(MAX_ATTEMPTS):
        try:
            await command(port, "PING")
        except ResponseError as error:
            assert str(error).startswith("BUSY"), error  # noqa: PT017  # the rest of the test needs it
            return
        await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
    raise AssertionError("the script does not run")


async def test_full_server_refuses_and_recovers(tmp_path: Path) -> None:
    """A server without memory is down with a remedy, and operations were not taken; with memory it is used again."""
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server:
        async with script_link(server.url) as link:
            await link.submit(b"1")
            await command(server.port, "CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(StoreDown, match="give it more memory, with maxmemory-policy noeviction") as down:
                await link.submit(b"2")
            assert not down.value.taken
            await command(server.port, "CONFIG", "SET", "maxmemory", 0)
            assert await link.submit_until_taken(b"3") == b"3"
            assert await link.appended(server.port) == [b"1", b"3"]


async def test_replica_is_left_when_its_address_has_a_primary(tmp_path: Path) -> None:
    """Where one address leads to another server later, as by DNS, a replica is left for the primary."""
    (tmp_path / "replica").mkdir()
    with (
        redis_server(tmp_path) as primary,
        redis_server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        async with tcp_proxy(replica.port) as proxy, script_link(proxy.url) as link:
            waiting = link.submit(b"1")
            await eventually(lambda: proxy.connections > 1)
            proxy._server_port = primary.port
            assert await waiting == b"1"


async def test_replica_has_a_remedy(tmp_path: Path) -> None:
    """A replica as the only server is down, with a remedy, and operations were not taken."""
    with redis_server(tmp_path) as primary:
        await command(primary.port, "REPLICAOF", "127.0.0.1", free_port())
        async with script_link(primary.url, timeout=0.2) as link:
            with pytest.raises(StoreDown, match="name the primary, not a replica") as down:
                await link.submit(b"1")
            assert not down.value.taken


async def test_foreign_server() -> None:
    """A server of another protocol is down, with an error that shows where it is."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with script_link(f"redis://127.0.0.1:{port}/0", timeout=0.3) as link:
        with pytest.raises(StoreDown, match=f"127.0.0.1:{port}"):
            await link.submit(b"1")
    server.close()


async def test_no_time_passes_while_pauses_are_short(tmp_path: Path) -> None:
    """The time to give up is counted by the length of pauses: with a sleep that returns at once, no payload waits for a clock."""
    slept: list[float] = []

    async def sleep(seconds: float) -> Any:
        slept.append(seconds)

    with redis_server(tmp_path) as server:
        await command(server.port, "REPLICAOF", "127.0.0.1", free_port())
        async with script_link(server.url, timeout=60.0, sleep=sleep) as link:
            with pytest.raises(StoreDown):
                await link.submit(b"1")
    assert sum(slept) >= 60.0
    assert max(slept) < 1.0
