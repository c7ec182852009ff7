"""Listening sockets: every address of a name, and Unix sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from process import EXIT_TIMEOUT_SECONDS, program, ran
from serving import CHAT, events, settings_of
from wire import Client

from sidecar.config.tables import ConfigError
from sidecar.server.listener import Resolve, listen_tcp, listen_unix

V4, V6, ABSENT = "127.0.0.1", "::1", "2001:db8::1"
TCP = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
RESOLVER = """
import runpy, socket
def both(host, port, **kind):
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    return [(socket.AF_INET6, *tcp, ("::1", port, 0, 0)), (socket.AF_INET, *tcp, ("127.0.0.1", port))]
socket.getaddrinfo = both
runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
"""


def resolve_to(*hosts: str) -> Resolve:
    """Return a resolver by which every name has the addresses *hosts*."""

    def resolve(_: str, port: int, **__: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6, *TCP, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, *TCP, (host, port))
            for host in hosts
        ]

    return resolve


def can_connect(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), EXIT_TIMEOUT_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((V6, 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@needs_ipv6
@pytest.mark.parametrize("hosts", [(V4, V6), (V6, V4), (V4, V4, V6), ("0.0.0.0", "::")])
def test_name_is_bound_at_all_its_addresses(hosts: tuple[str, ...]) -> None:
    """The server listens at all addresses of a name; port 0 is the same free port for all."""
    with listen_tcp("name", 0, resolve_to(*hosts)) as listener:
        ports = [each.getsockname()[1] for each in listener.sockets]
        assert len(ports) == 2
        assert len(set(ports)) == 1
        assert listener.address == f"http://name:{ports[0]}"
        assert can_connect(V4, ports[0])
        assert can_connect(V6, ports[0])


@pytest.mark.parametrize("hosts", [(V4, ABSENT), (ABSENT, V4)])
def test_absent_family_is_skipped(hosts: tuple[str, ...]) -> None:
    """An address that the machine lacks is skipped if another one binds."""
    with listen_tcp("name", 0, resolve_to(*hosts)) as listener:
        (only,) = listener.sockets
        assert only.getsockname()[0] == V4


def test_unsupported_family_is_skipped() -> None:
    """An address family that the kernel lacks is skipped if another address binds."""
    unsupported = 99

    def resolve(_: str, port: int, **__: Any) -> list[tuple[Any, ...]]:
        return [(unsupported, *TCP, ("x", port)), *resolve_to(V4)("name", port)]

    with listen_tcp("name", 0, resolve) as listener:
        assert len(listener.sockets) == 1


def test_no_address_that_binds_is_an_error() -> None:
    """If no address binds, the error of one of them is raised."""
    with pytest.raises(OSError) as raised:  # noqa: PT011  # its number is checked below
        listen_tcp("name", 0, resolve_to(ABSENT))
    assert raised.value.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@needs_ipv6
def test_port_in_use_at_one_address_is_an_error() -> None:
    """A port that is in use at one address is an error, and the other address is released."""
    with socket.create_server((V6, 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use") as raised:
            listen_tcp("name", port, resolve_to(V4, V6))
        assert raised.value.errno == errno.EADDRINUSE
        assert not can_connect(V4, port)


@needs_ipv6
@pytest.mark.anyio
async def test_server_announces_its_name(tmp_path: Path) -> None:
    """The server answers on both families of a name, and announces the name."""
    arguments = ("serve", "--upstream", "http://h/v1", "--host", "localhost", "--port", "0")
    with program(*arguments, folder=tmp_path, command=("-c", RESOLVER)) as running:
        assert running.line == f"sidecar listening on http://localhost:{running.port}"
        async with httpx.AsyncClient() as client:
            for host in (V4, f"[{V6}]"):
                assert (await client.get(f"http://{host}:{running.port}/healthz")).status_code == 200
        assert running.stop() == 0


@needs_ipv6
@pytest.mark.anyio
@pytest.mark.parametrize(("host", "reached"), [("::1", (V6,)), ("::", (V4, V6)), ("0.0.0.0", (V4,))])
async def test_wildcard_address_binds_as_the_system_does(tmp_path: Path, host: str, reached: tuple[str, ...]) -> None:
    """One address binds as the operating system does: `::` accepts both address families."""
    with program("serve", "--upstream", "http://h/v1", "--host", host, "--port", "0", folder=tmp_path) as running:
        assert running.line == f"sidecar listening on http://{f'[{host}]' if ':' in host else host}:{running.port}"
        assert tuple(each for each in (V4, V6) if can_connect(each, running.port)) == reached
        assert running.stop() == 0


@needs_ipv6
@pytest.mark.parametrize(
    ("hosts", "is_loopback"),
    [((V4,), True), (("127.0.1.1",), True), ((V6,), True), ((V4, V6), True), (("0.0.0.0",), False), ((V6, "0.0.0.0"), False), (("::",), False)],
)  # fmt: skip
def test_loopback_is_decided_by_all_sockets(hosts: tuple[str, ...], *, is_loopback: bool) -> None:
    """A listener is on loopback if all of its TCP sockets are, whatever name they were found by."""
    with listen_tcp("a.name", 0, resolve_to(*hosts)) as listener:
        assert listener.is_loopback is is_loopback


def test_unix_socket_is_not_on_loopback(tmp_path: Path) -> None:
    """A Unix socket is not on loopback: browsers cannot connect to it, so its requests have any host."""
    with listen_unix(tmp_path / "s") as listener:
        assert not listener.is_loopback


@pytest.mark.anyio
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("host", "status"), [(V4, 403), ("localhost", 403), ("0.0.0.0", 404)])
async def test_foreign_hosts_are_refused_on_loopback(tmp_path: Path, host: str, status: int, workers: str) -> None:
    """The program checks hosts where it listens on loopback addresses, by an address or a name, in each worker."""
    arguments = ("serve", "--upstream", "http://h/v1", "--host", host, "--port", "0", "--workers", workers)
    with program(*arguments, folder=tmp_path) as running:
        async with httpx.AsyncClient(base_url=f"http://{V4}:{running.port}") as client:
            assert (await client.get("/none", headers={"host": "evil.example"})).status_code == status
            for own in (V4, "localhost", socket.gethostname(), "host.docker.internal"):
                assert (await client.get("/none", headers={"host": f"{own}:{running.port}"})).status_code == 404
        assert running.stop() == 0


def test_unix_socket_file_has_permissions_by_umask(tmp_path: Path) -> None:
    """The file of a Unix socket has permissions per umask, and is removed on closing."""
    before = os.umask(0o027)
    try:
        with listen_unix(tmp_path / "s") as listener:
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o750
            assert listener.address == f"unix:{tmp_path / 's'}"
    finally:
        os.umask(before)
    assert not (tmp_path / "s").exists()


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """The file of a socket on which no process listens is replaced."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with listen_unix(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_live_socket_is_an_error(tmp_path: Path) -> None:
    """A socket on which a process listens, even with a full queue, is an error, and keeps its file."""
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "s"))
        live.listen(0)
        for _ in range(3):
            with pytest.raises(OSError, match="another process listens on this socket") as raised:
                listen_unix(tmp_path / "s")
            assert raised.value.errno == errno.EADDRINUSE
        assert (tmp_path / "s").exists()


def test_other_file_is_kept(tmp_path: Path) -> None:
    """A file that is not a socket is an error, and stays."""
    (tmp_path / "s").write_text("mine")
    with pytest.raises(FileExistsError, match="the file exists and is not a socket"):
        listen_unix(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_file_of_a_successor_is_kept(tmp_path: Path) -> None:
    """A socket file of another process in the same place is not removed on closing."""
    listener = listen_unix(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "old")
    with listen_unix(tmp_path / "s"):
        listener.close()
        assert (tmp_path / "s").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_server_listens_on_a_unix_socket(tmp_path: Path, workers: str) -> None:
    """The server listens at `server.uds`, relative to the configuration's folder, and removes the file at its end."""
    folder = tmp_path / "configuration"
    folder.mkdir()
    (folder / "s.toml").write_text('[server]\nuds = "s.sock"\ntrusted_proxies = ["10.0.0.0/8"]\n')
    with program("mock", "--port", "0", "--tokens", "3", folder=tmp_path) as mock:
        serve = ("serve", "--config", "configuration/s.toml", "--upstream", mock.url, "--workers", workers)
        with program(*serve, folder=tmp_path) as running:
            assert running.line == f"sidecar listening on unix:{folder / 's.sock'}"
            transport = httpx.AsyncHTTPTransport(uds=str(folder / "s.sock"))
            async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as client:
                chat = await client.post("/api/chat", json=CHAT)
                forwarded = {"x-forwarded-for": "203.0.113.7, 10.0.0.1"}
                openai = await client.post("/v1/chat/completions", json=CHAT | {"model": "m"}, headers=forwarded)
                others = [await client.get(path) for path in ("/healthz", "/readyz", "/v1/models", "/none")]
            code, _, err = ran(*serve, folder=tmp_path)
            assert running.stop() == 0

    assert [name for name, _ in events(chat.content)] == ["start", "token", "token", "token", "done"]
    assert openai.json()["choices"][0]["message"]["content"] == " tok0 tok1 tok2"
    assert [each.status_code for each in others] == [200, 200, 200, 404]
    assert code == 1
    assert err.endswith("another process listens on this socket; choose another server.uds\n")
    assert not (folder / "s.sock").exists()


@pytest.mark.anyio
async def test_socket_file_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    """A server starts although a killed one left the file of its socket."""
    (tmp_path / "s.toml").write_text('[server]\nuds = "s.sock"\n')
    serve = ("serve", "--config", "s.toml", "--upstream", "http://h/v1")
    with program(*serve, folder=tmp_path) as running:
        running.popen.kill()
        running.popen.wait()
    assert (tmp_path / "s.sock").exists()
    with program(*serve, folder=tmp_path) as running:
        assert running.line == f"sidecar listening on unix:{tmp_path / 's.sock'}"
        assert running.stop() == 0


@pytest.mark.anyio
async def test_port_flag_overrides_the_socket(tmp_path: Path) -> None:
    """A port from the command line overrides the file's socket."""
    (tmp_path / "s.toml").write_text('[server]\nuds = "s.sock"\n')
    serve = ("serve", "--config", "s.toml", "--upstream", "http://h/v1", "--port", "0")
    with program(*serve, folder=tmp_path) as running:
        client = await Client.to(running.port)
        client.close()
        assert running.stop() == 0


@pytest.mark.parametrize("path", ["x" * 108, "a\\u0000b"])
def test_invalid_socket_path_is_a_configuration_error(tmp_path: Path, path: str) -> None:
    """A path that no Unix socket can have is refused with the configuration."""
    with pytest.raises(ConfigError, match=r"server\.uds: .* a Unix socket has a path of at most 107 bytes"):
        settings_of(tmp_path, "http://h/v1", f'[server]\nuds = "{path}"\n')
