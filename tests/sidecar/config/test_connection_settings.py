"""Settings of an upstream's connections: their values, and the fault of each invalid one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from connection_settings import FACTORIES, pem_files, table
from importable_modules import folder_with_modules

from sidecar.config.loader import load
from sidecar.config.proxies import Proxy
from sidecar.config.settings import Flags
from sidecar.config.tables import ConfigError
from sidecar.config.upstream import ResolvedUpstream

TCP, TLS = "base_url = 'http://h.example/v1'\n", "base_url = 'https://h.example/v1'\n"
SOCKET = "base_url = 'http+unix:///run/x.sock/v1'\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a module of factories; imports from it are undone after the test."""
    return folder_with_modules(tmp_path, monkeypatch, {"factories": FACTORIES})


def choices(folder: Path, text: str, environ: dict[str, str] | None = None) -> tuple[ResolvedUpstream, ...]:
    (folder / "s.toml").write_text(text)
    return load(folder / "s.toml", environ=environ or {}, flags=Flags()).upstreams


def lines(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as found:
        choices(folder, text, environ)
    return [fault.line("F").replace(str(folder), "FOLDER") for fault in found.value.faults]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TCP + "client_cert = 'c.pem'", "client_cert: base_url is not https, so no certificate is sent; write https:// in base_url, or remove client_cert"),
        (TLS + "client_cert = ['c.pem']", "client_cert: invalid value ['c.pem']: expected a list of length >= 2; see `sidecar config` for an example"),
        (TLS + "client_cert = 'absent.pem'", "client_cert: cannot load 'absent.pem': No such file or directory; name a PEM file with the certificate and its unencrypted key, or a list of the two files"),
        (TCP + "proxy = 'socks5://p:1'", "proxy: 'socks5://p:1' is a SOCKS proxy; only HTTP proxies are supported: set `transport` to an httpx transport with SOCKS support"),
        (TCP + "proxy = 'http://p:1/x'", "proxy: 'http://p:1/x' has a path or a query; write it like 'http://proxy.example:3128'"),
        (TCP + "proxy = 'http://'", "proxy: 'http://' is not the URL of an HTTP proxy; write it like 'http://proxy.example:3128'"),
        (TCP + "proxy = 'http://u:secret@p:1'", "proxy: contains a user name or password; set the whole URL in the environment variable HTTPS_PROXY or HTTP_PROXY"),
        (SOCKET + "proxy = 'http://p:1'", "proxy: base_url is a Unix socket, which a proxy cannot reach; remove one of the two"),
        ("base_url = 'http+unix:///run/x/v1'", "base_url: 'http+unix:///run/x/v1' is not the URL of a Unix socket; write it like 'http+unix:///run/engine.sock/v1'"),
        ("base_url = 'http+unix:///x.sock/v1?k=1'", "base_url: 'http+unix:///x.sock/v1?k=1' is not the URL of a Unix socket; write it like 'http+unix:///run/engine.sock/v1'"),
        (f"base_url = 'http+unix:///{'x' * 110}.sock'", "base_url: the path of the Unix socket is longer than 107 bytes; use a shorter path"),
        (SOCKET + "ca = 'ca.pem'", "ca: base_url is not https, so there is no certificate to verify; write https:// in base_url, or remove ca"),
        (SOCKET + "transport = 'factories:make'", "transport: cannot use the Unix socket of base_url; open the socket in the factory, or remove transport"),
        (TLS + "transport = 'factories:make'\nca = 'ca.pem'", "ca: has no effect beside `transport`; configure it in the factory, or remove one of the two"),
        (TCP + "transport = 'factories:make'\nproxy = 'http://p:1'", "proxy: has no effect beside `transport`; configure it in the factory, or remove one of the two"),
        (TCP + "transport = 'factories'", "transport: cannot use 'factories': not the name of a module and a factory; write 'module:factory'"),
        (TCP + "transport = 'factories:absent'", "transport: cannot use 'factories:absent': module 'factories' has no 'absent'; name a factory of that module, as 'module:factory'"),
        (TCP + "transport = 'no_such_module:make'", "transport: cannot use 'no_such_module:make': No module named 'no_such_module'; install the module, or put it into FOLDER"),
        (TCP + "transport = 'factories:number'", "transport: cannot use 'factories:number': an object of type int cannot be called; name a function that returns an httpx.AsyncBaseTransport"),
        (TCP + "transport = 'factories:later'", "transport: cannot use 'factories:later': the factory is a coroutine function; write `def`, not `async def`"),
        (TCP + "transport = 'factories:client'", "transport: cannot use 'factories:client': the factory returns an object of type AsyncClient; return an httpx.AsyncBaseTransport"),
        (TCP + "transport = 'factories:breaks'", "transport: cannot use 'factories:breaks': ZeroDivisionError: division by zero; fix the module"),
        (TCP + "transport = 'factories:asks'", "transport: cannot use 'factories:asks': the factory needs more than one argument: (one, two); accept no argument, or the upstream's settings alone"),
    ],
)  # fmt: skip
def test_fault(folder: Path, text: str, line: str) -> None:
    """Each fault is reported at start with key path, problem and cure, and shows no password."""
    found = lines(folder, table(text))
    assert found == [f"F: upstream[0].{line}"]
    assert "secret" not in found[0]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("socks5://u:secret@p:1", "is a SOCKS proxy; only HTTP proxies are supported: set `transport` to an httpx transport with SOCKS support"),
        ("http://p:x", "is not the URL of an HTTP proxy; write it like 'http://proxy.example:3128'"),
    ],
)  # fmt: skip
def test_fault_in_the_environment(folder: Path, value: str, problem: str) -> None:
    """An invalid proxy variable is one fault of that variable, unless NO_PROXY names the host."""
    text, environ = table(TCP) + table(TCP), {"ALL_PROXY": value}
    assert lines(folder, text, environ) == [f"F: ALL_PROXY: {problem}, or name the host of base_url in NO_PROXY"]
    assert [each.via for each in choices(folder, text, environ | {"NO_PROXY": "h.example"})] == [None, None]
    assert [each.via for each in choices(folder, table("base_url = 'http://127.0.0.1/v1'"), environ)] == [None]


def test_proxy_of_each_upstream(folder: Path) -> None:
    """A configured proxy overrides the environment, also for loopback; its password is a secret of the upstream."""
    text = table(TLS) + table("base_url = 'http://127.0.0.1/v1'", "proxy = 'http://own:1'") + table(SOCKET)
    text += table(TCP, "transport = 'factories:make'")
    found = choices(folder, text, {"HTTPS_PROXY": "http://u:secret@p:1", "HTTP_PROXY": "http://q:2"})

    assert [each.via and each.via.host for each in found] == ["p", "own", None, None]
    assert "secret" in found[0].secrets
    assert "secret" not in repr(found[0])


def test_credentials_in_headers_and_parameters_are_secrets(folder: Path) -> None:
    """Values of headers and URL parameters that are named like credentials are secrets of the upstream, and so is what a proxy gets."""
    more = (
        "headers = { x-functions-key = 'hk', x-team = 'search' }\nquery = { key = 'qk', sig = 'qs', api-version = '1' }"
    )
    (found,) = choices(folder, table(TLS, more), {"HTTPS_PROXY": "http://u:secret@p:1"})

    assert found.via is not None
    assert found.secrets == ("secret", found.via.authorization, "hk", "qk", "qs")


@pytest.mark.parametrize("where", [("--upstream", None), (None, "SIDECAR_UPSTREAM")])
def test_upstream_from_flag_or_environment(
    where: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An upstream from a flag or variable may use proxies and sockets; paths are relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    for url, uds, via in (
        ("https://h.example/v1", None, Proxy("p", 1)),
        ("http+unix://run/x.sock/v1", str(tmp_path / "run/x.sock"), None),
    ):
        environ = {"ALL_PROXY": "http://p:1"} | ({where[1]: url} if where[1] else {})
        (choice,) = load(None, environ=environ, flags=Flags(upstream=url if where[0] else None)).upstreams
        assert (choice.uds, choice.via) == (uds, via)


@pytest.mark.parametrize(
    ("url", "socket", "endpoint"),
    [
        ("http+unix:///run/x.sock/v1", "/run/x.sock", "http://localhost/v1"),
        ("http+unix:///run/x.sock", "/run/x.sock", "http://localhost"),
        ("http+unix:///run/a%20b.socket/v1/", "/run/a b.socket", "http://localhost/v1"),
        ("http+unix:///run/x.sock.d/y.sock/v1", "/run/x.sock.d/y.sock", "http://localhost/v1"),
        ("http+unix://x.sock/v1", "FOLDER/x.sock", "http://localhost/v1"),
        ("http+unix://run/x.sock/v1", "FOLDER/run/x.sock", "http://localhost/v1"),
    ],
)
def test_socket(folder: Path, url: str, socket: str, endpoint: str) -> None:
    """The socket path ends at the last component in .sock before the URL path; with two slashes it is relative to the file."""
    (choice,) = choices(folder, table(f"base_url = '{url}'"))
    assert (choice.uds, choice.endpoint) == (socket.replace("FOLDER", str(folder)), endpoint)


@pytest.mark.parametrize("kind", ["no key", "encrypted", "empty"])
def test_bad_client_certificate(folder: Path, kind: str) -> None:
    """A certificate without a key or with an encrypted key is a fault; the terminal is not asked for a password."""
    if kind == "empty":
        (folder / "client.pem").write_text("")
    else:
        pem_files(folder, trustme.CA(), kind)
    (line,) = lines(folder, table(TLS, "client_cert = 'client.pem'"))

    assert line.startswith("F: upstream[0].client_cert: cannot load 'client.pem': ")


def test_check_calls_no_factory(folder: Path) -> None:
    """`sidecar check` does not call the factory, which may need secrets, but checks that it can be called."""
    (folder / "s.toml").write_text(table(TCP, "transport = 'factories:breaks'"))
    load(folder / "s.toml", environ={}, flags=Flags(), need_upstream=False)
    (folder / "s.toml").write_text(table(TCP, "transport = 'factories:later'"))
    with pytest.raises(ConfigError, match="coroutine"):
        load(folder / "s.toml", environ={}, flags=Flags(), need_upstream=False)
