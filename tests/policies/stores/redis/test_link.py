"""The link to Redis: many payloads in flight on one connection, in order, each executed once, with or without its script known."""

from __future__ import annotations

import asyncio
import time
from hashlib import sha1
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server
from script_links import APPEND_ONCE, command, script_link
from tcp_proxy import tcp_proxy
from wire import eventually

from policies.api.store import StoreDown
from policies.stores.redis.link import MAX_WAITING_PAYLOADS

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % at for at in range(count)]


async def test_concurrent_payloads_are_executed_in_order(redis: RedisServer) -> None:
    """1,500 payloads at once are executed in the order of their submission, over one connection, and none fails."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        assert await link.submit_all(numbered(1500)) == numbered(1500)
        assert await link.appended(redis.port) == numbered(1500)
        assert proxy.connections == 1


async def test_payloads_are_sent_without_waiting_for_replies(redis: RedisServer) -> None:
    """A payload is written while the replies of others are still on their way."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await link.submit(b"first")
        proxy.swallow()
        first = link.submit(b"second")
        await eventually(lambda: b"second" in proxy.requests)
        second = link.submit(b"third")
        await eventually(lambda: b"third" in proxy.requests)
        assert not first.done()
        proxy.resume()
        assert [await first, await second] == [b"second", b"third"]


async def test_slow_link_delays_and_refuses_nothing(redis: RedisServer) -> None:
    """Over a link of 100 ms in each direction, hundreds of waves of payloads share the delay, and none fails."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await link.submit(b"first")
        proxy.delay = 0.1
        futures = []
        for at in range(300):
            futures.append(link.submit(b"%d" % at))
            await asyncio.sleep(0)
        assert await asyncio.gather(*futures) == numbered(300)


async def test_order_is_kept_by_a_server_that_forgets_its_scripts(redis: RedisServer) -> None:
    """After SCRIPT FLUSH all payloads are executed in order; the source of the script is sent once for all of them."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await link.submit(b"known")
        await command(redis.port, "SCRIPT", "FLUSH")
        sent = proxy.requests.count(b"HSETNX")
        assert await link.submit_all(numbered(200)) == numbered(200)
        assert await link.appended(redis.port) == [b"known", *numbered(200)]
        assert proxy.requests.count(b"HSETNX") == sent + 1


async def test_flushes_between_writes(redis: RedisServer) -> None:
    """Scripts that are forgotten again and again, while payloads are in flight, cost no payload and no order of a wave."""
    async with script_link(redis.url) as link:
        is_over = asyncio.Event()
        flushing = asyncio.create_task(flush_until(is_over, redis.port))
        for wave in range(40):
            payloads = [b"%d-%d" % (wave, at) for at in range(20)]
            assert await link.submit_all(payloads) == payloads
        is_over.set()
        await flushing
        assert sorted(await link.appended(redis.port)) == sorted(
            b"%d-%d" % (w, at) for w in range(40) for at in range(20)
        )


async def flush_until(is_over: asyncio.Event, port: int) -> None:
    while not is_over.is_set():
        await command(port, "SCRIPT", "FLUSH")
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("wait", ["", "?wait=0"])
async def test_user_without_script_config_and_info(redis: RedisServer, wait: str) -> None:
    """A user that may use EVAL and EVALSHA alone, beside the commands of the script, is enough."""
    name = f"user{len(wait)}"
    rights = ("~*", "nocommands", "+evalsha", "+eval", "+hset", "+hsetnx", "+rpush")
    await command(redis.port, "ACL", "SETUSER", name, "reset", "on", ">secret", *rights)
    await command(redis.port, "SCRIPT", "FLUSH")
    async with script_link(f"redis://{name}:secret@127.0.0.1:{redis.port}/0{wait}") as link:
        assert await link.submit_all(numbered(50)) == numbered(50)
    await command(redis.port, "ACL", "DELUSER", name)


async def test_script_is_never_loaded_by_the_link(redis: RedisServer) -> None:
    """The source is sent by EVAL, which needs no right to manage scripts."""
    async with tcp_proxy(redis.port) as proxy, script_link(proxy.url) as link:
        await command(redis.port, "SCRIPT", "FLUSH")
        await link.submit(b"1")
        assert b"EVAL\r\n" in proxy.requests
        assert sha1(APPEND_ONCE.encode()).hexdigest().encode() in proxy.requests  # noqa: S324  # the name that Redis gives
        assert b"SCRIPT" not in proxy.requests


async def test_database_and_password(redis: RedisServer) -> None:
    """The credentials and the database of the URL are used."""
    await command(redis.port, "ACL", "SETUSER", "me", "reset", "on", ">p:/@", "~*", "+@all")
    async with script_link(f"redis://me:p%3A%2F%40@127.0.0.1:{redis.port}/3") as link:
        await link.submit(b"1")
        assert await link.appended(redis.port) == []
    await command(redis.port, "ACL", "DELUSER", "me")


async def test_cancelled_callers_do_not_stop_their_payloads(redis: RedisServer) -> None:
    """A payload whose caller is cancelled is executed, and the replies of the others are matched."""
    async with script_link(redis.url) as link:
        await link.submit(b"known")

        async def call(payload: bytes) -> bytes:
            return await link.submit(payload)

        tasks = [asyncio.create_task(call(each)) for each in numbered(100)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == numbered(100)[1::2]
        assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
        with anyio.move_on_after(0):
            await link.submit(b"last")
        assert await link.appended(redis.port) == [b"known", *numbered(100), b"last"]


async def test_process_that_is_slow_is_not_a_store_that_is_down(redis: RedisServer) -> None:
    """An event loop that is blocked for longer than the timeout, again and again, fails no payload."""
    async with script_link(redis.url, timeout=0.1) as link:
        for _ in range(3):
            waiting = [link.submit(each) for each in numbered(20)]
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251  # blocks the loop on purpose
            assert await asyncio.gather(*waiting) == numbered(20)
        await link.submit(b"idle")
        assert len(await link.appended(redis.port)) == 21


async def test_failing_script_fails_its_payload_alone(redis: RedisServer) -> None:
    """An error of the script is raised in its caller, which learns that it may have been executed; others go on."""
    source = "if ARGV[1] == 'bad' then return redis.error_reply('ERR broken') end return ARGV[1]"
    async with script_link(redis.url, source=source) as link:
        results = await link.submit_all([b"1", b"bad", b"2"])
        assert results[::2] == [b"1", b"2"]
        assert isinstance(results[1], StoreDown)
        assert results[1].taken
        assert "broken" in str(results[1])
        assert await link.submit(b"3") == b"3"


async def test_refusing_server_executes_nothing(redis: RedisServer) -> None:
    """A user without rights is a store that is down, with a remedy, and operations were not taken."""
    await command(redis.port, "ACL", "SETUSER", "reader", "reset", "on", ">p", "~*", "+get")
    async with script_link(f"redis://reader:p@127.0.0.1:{redis.port}/0") as link:
        with pytest.raises(StoreDown, match=r"; permit \+eval") as down:
            await link.submit(b"1")
        assert not down.value.taken
    await command(redis.port, "ACL", "DELUSER", "reader")


async def test_wrong_password_has_a_remedy(redis: RedisServer) -> None:
    """The error of a wrong password names the remedy and not the password."""
    async with script_link(f"redis://nobody:secret@127.0.0.1:{redis.port}/0") as link:
        with pytest.raises(StoreDown, match=f"^127.0.0.1:{redis.port}/0: .*; correct them in SIDECAR_STORE") as down:
            await link.submit(b"1")
        assert "secret" not in str(down.value)


async def test_waiting_payloads_are_bounded(redis: RedisServer) -> None:
    """Beyond the bound a payload fails at once and was not taken; the others are executed."""
    async with script_link(redis.url) as link:
        waiting = [link.submit(b"x") for _ in range(MAX_WAITING_PAYLOADS)]
        with pytest.raises(StoreDown, match="operations wait already") as down:
            await link.submit(b"y")
        assert not down.value.taken
        assert set(await asyncio.gather(*waiting)) == {b"x"}
        assert await link.submit(b"y") == b"y"


async def test_closed_link(redis: RedisServer) -> None:
    """Payloads in flight and later ones fail when the link is closed; no task is left."""
    before = len(asyncio.all_tasks())
    async with tcp_proxy(redis.port) as proxy:
        async with script_link(proxy.url) as link:
            await link.submit(b"1")
            proxy.swallow()
            waiting = link.submit(b"2")
            await eventually(lambda: b"$1\r\n2\r\n" in proxy.requests)
        with pytest.raises(StoreDown) as down:
            await waiting
        assert down.value.taken
        with pytest.raises(StoreDown, match="the store is closed"):
            await link.submit(b"3")
        await link.aclose()
    assert len(asyncio.all_tasks()) <= before


async def test_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A server on a Unix socket is used like any other."""
    folder = tmp_path_factory.mktemp("s")
    with redis_server(folder, "--unixsocket", str(folder / "s")):
        async with script_link(f"redis+unix://{folder / 's'}?db=1") as link:
            assert await link.submit_all(numbered(10)) == numbered(10)


async def test_encrypted_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rediss` is TLS; a certificate of an unknown issuer is refused with a remedy."""
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = issuer.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    port = free_port()
    files = [f"--tls-{name}={tmp_path / file}" for name, file in (("cert-file", "cert.pem"), ("key-file", "key.pem"))]
    options = [part for each in files for part in each.split("=")]
    options += ["--tls-port", str(port), "--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no"]
    with redis_server(tmp_path, *options):
        async with script_link(f"rediss://127.0.0.1:{port}/0") as link:
            with pytest.raises(StoreDown, match="SSL_CERT_FILE"):
                await link.submit(b"1")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with script_link(f"rediss://127.0.0.1:{port}/0") as link:
            assert await link.submit_all(numbered(300)) == numbered(300)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(0, 3)), max_size=30))
async def test_any_payloads_with_any_pauses(redis: RedisServer, sent: list[tuple[bytes, int]]) -> None:
    """Any bytes, submitted with any pauses between them, come back in order."""
    async with script_link(redis.url) as link:
        futures = []
        for payload, pauses in sent:
            futures.append(link.submit(payload))
            for _ in range(pauses):
                await asyncio.sleep(0)
        assert await asyncio.gather(*futures) == [payload for payload, _ in sent]


async def test_server_error_has_no_traceback_of_others(redis: RedisServer) -> None:
    """Each caller gets an exception of its own."""
    async with script_link(redis.url, source="return redis.error_reply('ERR x')") as link:
        first, second = await link.submit_all([b"1", b"2"])
        assert first is not second
        assert not isinstance(first, ResponseError)


class LateNodes:
    """Find their only node while they are being closed."""

    can_move = False

    def __init__(self) -> None:
        self.pipeline, self.lacks_script, self.sent = self, False, list[bytes]()
        self.is_lost = False
        self._closing = asyncio.Event()

    async def owner(self) -> LateNodes:
        await self._closing.wait()
        return self

    def send_script(self, command: bytes, receiver: object) -> None:
        self.sent.append(command)

    async def aclose(self) -> None:
        self._closing.set()
        for _ in range(10):
            await asyncio.sleep(0)


async def test_nothing_is_sent_by_a_link_that_is_being_closed() -> None:
    """A connection that is being made when the link is closed is given up, and its operations fail."""
    nodes: Any = LateNodes()
    async with script_link("redis://127.0.0.1:1/0") as link:
        link._nodes = nodes
        waiting = link.submit(b"1")
        await asyncio.sleep(0)
    assert nodes.sent == []
    with pytest.raises(StoreDown):
        await waiting
