"""Each failure of a Redis server has one message with its cause and its remedy, found by the error code where there is one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server

from policies.api.store import StoreDown
from policies.stores.redis.servers.classification import failure_of
from policies.stores.redis.servers.failures import REDIS_FAILURES, describe_failure, lost_data
from policies.stores.redis.servers.server_advice import SERVER_WARNINGS, advice
from policies.stores.redis.store import RedisStore

pytestmark = pytest.mark.anyio
needs_server = pytest.mark.skipif(SERVER is None, reason=MISSING)

SECRET = "hunter2-of-nobody"


async def message_of(url: str, timeout: float = 1.0) -> str:
    """Return why the store at *url* cannot be used, without its address."""
    store = RedisStore(url, prefix="p", timeout=timeout)
    try:
        with pytest.raises(StoreDown) as down:
            await store.ping()
    finally:
        await store.aclose()
    assert SECRET not in str(down.value)
    address, _, found = str(down.value).partition(": ")
    assert address == url.partition("//")[2].rpartition("@")[2]
    return found


@asynccontextmanager
async def answering(data: bytes, *, closes: bool = False) -> AsyncIterator[int]:
    """Listen on a free port, answer whatever arrives with *data*, and close the connection or keep it open."""
    ends = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        if not closes:
            await ends.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ends.set()
        server.close()
        await server.wait_closed()


async def command(server: RedisServer, *parts: object) -> Any:
    """Send one command to *server*."""
    client: Any = Redis.from_url(server.url)
    try:
        return await client.execute_command(*parts)
    finally:
        await client.aclose()


RUNS = "see that it runs and can be reached"


async def test_unreachable_server(tmp_path: Path) -> None:
    """A refused connection and a missing socket are told apart."""
    assert await message_of(f"redis://127.0.0.1:{free_port()}/0") == f"connection refused; {RUNS}"
    missing = failure_of(await failed(f"unix://{tmp_path}/none.sock"))
    assert missing == "no_socket"


async def test_words_in_a_path_are_no_failure(tmp_path: Path) -> None:
    """The error of the system decides, not a word of the address that the client library quotes beside it."""
    for name in ("timeout", "connection closed"):
        store = RedisStore(f"unix://{tmp_path}/{name}.sock".replace(" ", "%20"))
        with pytest.raises(
            StoreDown, match=": the Unix socket does not exist; see that it runs, and that the path is right$"
        ):
            await store.ping()
        await store.aclose()


async def failed(url: str) -> BaseException:
    """Return the exception of the client library for *url*."""
    client: Any = Redis.from_url(url)
    try:
        await client.ping()
    except Exception as error:  # noqa: BLE001  # the subject of the test
        return error
    finally:
        await client.aclose()
    raise AssertionError("it answered")


async def test_silent_server() -> None:
    """A server that accepts and never answers is said to have timed out; TLS on one side alone looks like that."""
    async with answering(b"") as port:
        found = await message_of(f"redis://127.0.0.1:{port}/0", 0.2)
    assert found == f"no answer in time; {RUNS}, and that the scheme (redis:// or rediss://) is right"


async def test_connection_that_is_closed() -> None:
    """A server that closes each connection is said to do so, with the other kinds of servers that do."""
    async with answering(b"", closes=True) as port:
        found = await message_of(f"redis://127.0.0.1:{port}/0")
    assert found.startswith(f"it closed the connection; {RUNS}, that it is Redis or Valkey")


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["http", "ssh"]
)
async def test_server_of_another_kind(data: bytes) -> None:
    """A server that answers in another protocol is named by the first line of its answer."""
    async with answering(data) as port:
        found = await message_of(f"redis://127.0.0.1:{port}/0", 0.5)
    assert found.startswith("the server does not answer like Redis (Protocol Error")
    assert data.partition(b"\r\n")[0].decode() in found
    assert found.endswith("; correct host and port, or use rediss:// for TLS")


async def test_server_without_tls() -> None:
    """A handshake with a server that speaks no TLS has the words of the TLS library and the remedy."""
    async with answering(b"-ERR unknown command\r\n", closes=True) as port:
        found = await message_of(f"rediss://127.0.0.1:{port}/0")
    assert found.startswith("the TLS handshake failed (")
    assert found.endswith("; use redis:// for a server without TLS, or repair its certificate")


@needs_server
async def test_passwords(tmp_path: Path) -> None:
    """A missing and a wrong password are told apart, and the password is not shown."""
    with redis_server(tmp_path, "--requirepass", "right") as server:
        missing = await message_of(server.url)
        wrong = await message_of(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")
    assert missing == "it requires a password; give it in SIDECAR_STORE, as redis://:PASSWORD@HOST:PORT/DB"
    assert wrong == "it does not accept the user or the password; correct them in SIDECAR_STORE"


@needs_server
@pytest.mark.parametrize("rule", ["~other*", "~* -eval -evalsha", "~* -@write"], ids=["keys", "scripts", "writes"])
async def test_user_without_permission(tmp_path: Path, rule: str) -> None:
    """A user who may not use the keys, the scripts or the commands gets the message about the ACL."""
    with redis_server(tmp_path) as server:
        await command(server, "ACL", "SETUSER", "ann", "on", f">{SECRET}", "+@all", *rule.split())
        found = await message_of(f"redis://ann:{SECRET}@127.0.0.1:{server.port}/0")
    assert found.startswith("its ACL does not permit this user the operation (")
    assert found.endswith("for the keys of the prefix")


@needs_server
@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--maxmemory", "1"), "it is out of memory; give it more memory, with maxmemory-policy noeviction"),
        (("--replicaof", "127.0.0.1", "1"), "it is a read-only replica; name the primary, not a replica"),
        (
            ("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no"),
            "it has lost its primary; start the primary, or name another server",
        ),
        (
            ("--min-replicas-to-write", "2"),
            "it refuses writes because too few replicas follow it; start its replicas",
        ),
    ],
    ids=["full", "replica", "stale replica", "too few replicas"],
)
async def test_server_that_refuses_writes(tmp_path: Path, options: tuple[str, ...], found: str) -> None:
    """A server that answers and takes no writes says why: memory, its role, its primary or its replicas."""
    with redis_server(tmp_path, *options) as server:
        assert await message_of(server.url) == found


@needs_server
async def test_server_that_cannot_save(tmp_path: Path) -> None:
    """A server that stops writes because a snapshot failed has the message about its disk."""
    folder = tmp_path / "data"
    folder.mkdir()
    with redis_server(folder, "--save", "1 1") as server:
        shutil.rmtree(folder)
        await command(server, "SET", "a", "1")
        await command(server, "BGSAVE")
        for _ in range(500):
            if b"rdb_last_bgsave_status:err" in await info(server):
                break
            await asyncio.sleep(0.01)
        found = await message_of(server.url)
    assert found.startswith("it refuses writes because it cannot save its data; make room on its disk")


async def info(server: RedisServer) -> bytes:
    """Return the part of INFO about persistence, as the server sends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"INFO persistence\r\n")
    length = int((await reader.readline())[1:])
    text = await reader.readexactly(length)
    writer.close()
    return text


@needs_server
async def test_server_with_too_many_clients(tmp_path: Path) -> None:
    """A server at its limit of clients says so, unless its reset of the connection comes before its words."""
    with redis_server(tmp_path, "--maxclients", "1") as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        found = await message_of(server.url)
        writer.close()
    assert found.startswith(
        ("it has too many clients; raise its maxclients", "it closed the connection; see that it runs")
    )


@needs_server
async def test_databases_and_clusters(tmp_path: Path) -> None:
    """A database that does not exist, a numbered one of a cluster, and a cluster without slots are told apart."""
    cluster = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    with redis_server(tmp_path) as server, redis_server(tmp_path, *cluster) as node:
        no_database = await message_of(server.url.removesuffix("0") + "99")
        numbered = await message_of(node.url.removesuffix("0") + "1")
        no_slots = await message_of(node.url)
    assert no_database == "it has no database of that number; name a database that it has, as redis://HOST:PORT/DB"
    assert numbered == "a cluster has no numbered databases; remove the number: redis://HOST:PORT/0"
    assert no_slots.startswith("the cluster does not serve all keys (")


@needs_server
async def test_servers_of_a_wrong_kind(redis: RedisServer, tmp_path: Path) -> None:
    """Servers that are no cluster, no sentinels, or have no password get a message of their own."""
    with redis_server(tmp_path) as other:
        several = await message_of(f"redis://127.0.0.1:{redis.port},127.0.0.1:{other.port}/0", 0.2)
    no_sentinel = await message_of(f"redis+sentinel://127.0.0.1:{redis.port}/name/0", 0.2)
    no_password = await message_of(f"redis://:{SECRET}@127.0.0.1:{redis.port}/0", 0.2)
    assert several.startswith("the servers of the URL are not a cluster; name one of them")
    assert no_sentinel.startswith("no sentinel names the primary (1 were asked for 'name': ")
    assert no_password == "it has no password; remove the password from SIDECAR_STORE"


@needs_server
async def test_data_of_another_program(redis: RedisServer) -> None:
    """A key of the prefix with another type, at any operation, is data of another program."""
    client: Any = Redis.from_url(redis.url)
    await client.set("{foreign}:c", "1")
    with pytest.raises(ResponseError) as raised:
        await client.eval("return redis.call('hget', KEYS[1], 'a')", 1, "{foreign}:c")
    await client.delete("{foreign}:c")
    await client.aclose()
    found = describe_failure(raised.value, "h:1/0")
    assert found.startswith("h:1/0: keys of the prefix hold data of another program (WRONGTYPE ")
    assert "script:" not in found


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", "script_runs"),
        ("-DENIED Redis is running in protected mode", "protected"),
        ("CLUSTERDOWN The cluster is down", "cluster_down"),
        ("ERR unknown command `evalsha`, with args beginning with: `tenant-name`", "too_old"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "no_memory"),
        ("ERR Error running script: user_script:1: attempt to index a nil value", "script_failed"),
        ("ERR something that no version has said yet", "unknown"),
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "no_memory"),
        (ClusterDownError("Hash slot not served"), "cluster_down"),
        (AuthenticationError("words of a version to come"), "wrong_password"),
        (AuthenticationError("AUTH <password> called without any password configured"), "needless_password"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(104, "reset"), "closed"),
        (OSError(113, "No route to host"), "no_route"),
        (OSError(24, "Too many open files"), "no_descriptors"),
        (ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate"), "certificate"),
    ],
    ids=str,
)
def test_errors_without_a_server(error: BaseException | str, name: str) -> None:
    """Replies and exceptions that a test cannot cause have their message, with or without the code before the text."""
    assert failure_of(error) == name
    assert "tenant-name" not in describe_failure(error, "h:1/0"), "arguments are identities of clients"


def test_wrapped_errors() -> None:
    """The error of the system decides where the client library wraps it; what came before, such as a redirect, does not."""
    refused = RedisConnectionError("Error 111 connecting to timeout.example:6379. Connect call failed")
    refused.__cause__ = ConnectionRefusedError(111, "Connect call failed")
    refused.__cause__.__context__ = MovedError("1 127.0.0.1:1")
    full = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    full.__context__ = NoScriptError("No matching script. Please use EVAL.")
    unknown = RedisConnectionError("Error -2 connecting to closed-by-server:6379. Name or service not known.")
    unknown.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert [failure_of(each) for each in (refused, full, unknown)] == ["refused", "no_memory", "unknown_host"]


def test_text_of_a_server_is_bounded() -> None:
    """What a server says is one line of printable characters, of at most 300."""
    found = describe_failure("ERR a\r\nb\x1b[31m" + "c" * 10_000, "h:1/0")
    assert found.isprintable()
    assert len(found) < 400


def test_each_failure_has_a_remedy() -> None:
    """Every failure has a cause and a remedy, without a full stop, that formatting accepts."""
    for cause, remedy in REDIS_FAILURES.values():
        assert cause.format(text="T")
        assert not remedy.format(text="T").endswith(".")
    assert "limits start anew" in lost_data("h:1/0")


@pytest.mark.parametrize(
    ("facts", "save", "names"),
    [
        ({"maxmemory_policy": "noeviction", "aof_enabled": "1"}, "", []),
        ({"maxmemory_policy": "allkeys-lru", "aof_enabled": "1"}, "", ["evicting"]),
        ({"maxmemory_policy": "allkeys-lru", "evicted_keys": "7"}, "", ["evicting", "evicted"]),
        ({"maxmemory_policy": "noeviction", "evicted_keys": "7"}, "", []),
        ({"maxmemory_policy": "volatile-ttl", "aof_enabled": "0"}, "", ["evicting", "in_memory"]),
        ({"maxmemory_policy": "noeviction", "aof_enabled": "0"}, "3600 1", ["snapshots"]),
        ({"maxmemory_policy": "noeviction", "aof_enabled": "0"}, None, ["no_log"]),
        ({"aof_last_write_status": "err"}, None, ["failing"]),
        ({"rdb_last_bgsave_status": "err"}, None, ["failing"]),
        ({"role": "slave"}, None, ["replica"]),
        ({}, None, []),
    ],
)
def test_advice(facts: dict[str, str], save: str | None, names: list[str]) -> None:
    """A server that may evict keys or lose them is warned about; one whose settings cannot be read is not accused."""
    assert advice(facts, save) == names


ADVISED: list[tuple[tuple[str, ...], list[str]]] = [
    (("--appendonly", "yes"), []),
    ((), ["in_memory"]),
    (("--save", "3600 1"), ["snapshots"]),
    (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"), ["evicting"]),
    (("--rename-command", "CONFIG", ""), ["no_log"]),
    (("--rename-command", "INFO", ""), ["hidden"]),
]


@needs_server
@pytest.mark.parametrize(("options", "names"), ADVISED, ids=lambda value: " ".join(value) or "none")
async def test_warnings_of_a_server(tmp_path: Path, options: tuple[str, ...], names: list[str]) -> None:
    """A server's own settings decide about the warnings, also where it does not permit INFO or CONFIG."""
    with redis_server(tmp_path, *options) as server:
        store = RedisStore(server.url)
        found = await store.warnings()
        await store.aclose()
    address = f"127.0.0.1:{server.port}"
    assert found == [f"{address}: {SERVER_WARNINGS[name].format(policy='allkeys-lru')}" for name in names]


async def test_warnings_of_a_server_that_is_down() -> None:
    """Without an answer there are no warnings but the failure."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreDown, match="connection refused"):
        await store.warnings()
    await store.aclose()
