"""The host names under which the sidecar answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from checked_files import lines, loaded
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.allowed_hosts import MAX_VALUE_BYTES, AllowedHosts

MACHINE = "Box.lan"
LISTED = ("api.example.org", "*.Example.com", "other.example.")
ALLOWED = {
    "127.0.0.1", "127.0.0.1:8787", "127.0.0.1:", "10.1.2.3:80", "0.0.0.0:8787", "127.0.0.1.",
    "[::1]", "[::1]:8787", "[2001:DB8::5]:1", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]:8787", "[fe80::1%eth0]",
    "localhost", "localhost:8787", "LocalHost", "localhost.:8787", "app.localhost:8787",
    "box.lan", "BOX.LAN.:8787",
    "host.docker.internal:8787", "host.containers.internal", "Host.Docker.Internal.",
    "api.example.org", "API.example.org.:1", "a.example.com", "a.b.example.com:1", "other.example",
}  # fmt: skip
REFUSED = {
    "", " ", ":8787", ".", "x", "evil.example", "evil.example:8787", "attacker.example.org", "example.com",
    "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost", "notlocalhost:8787", "box", "box.lan.evil.example",
    "internal", "internal.evil.example", "evilinternal", "api.example.org.evil.example", "evilexample.com",
    # Browsers send none of these: they convert all spellings of an address to the usual one.
    "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "127.0.0.256", "127.0.0.1.1",
    "::1", "::1:8787", "[127.0.0.1]", "[evil.example]", "[::1", "::1]", "[]", "[::1]evil.example", "[::1]:x", "[[::1]]",
    "localhost:8787:1", "localhost:x", "localhost:123456", "user@localhost", "evil.example@localhost", "localhost@evil.example",
    "localhost, evil.example", "evil.example, localhost", "localhost evil.example", "localhost/", "http://localhost",
    "localhost#", "localhost?", "localhost\\", "localhost%00", "l\u043ecalhost", "localhost\xa0", "\x00localhost",
}  # fmt: skip


@pytest.mark.parametrize("host", sorted(ALLOWED))
def test_local_and_listed_hosts_are_allowed(host: str) -> None:
    """Addresses, local names, the machine's own name and listed names are allowed, with any port, case and last dot."""
    assert AllowedHosts(LISTED, MACHINE).permits(host.encode())


@pytest.mark.parametrize("host", sorted(REFUSED), ids=ascii)
def test_other_hosts_are_refused(host: str) -> None:
    """Every other name is refused, also one that contains an allowed one."""
    assert not AllowedHosts(LISTED, MACHINE).permits(host.encode())


def test_any_host_is_allowed_by_a_star() -> None:
    """`*` allows every value."""
    assert all(AllowedHosts(("*",), MACHINE).permits(host.encode()) for host in ALLOWED | REFUSED)


def test_machine_without_a_name_allows_no_empty_host() -> None:
    """A machine without a name, and a value without a name, do not match."""
    assert not AllowedHosts((), "").permits(b"")
    assert not AllowedHosts((), "").permits(b".")


def test_long_values_are_refused() -> None:
    """A value of unbounded length is not searched."""
    assert not AllowedHosts((), MACHINE).permits(b"a" * MAX_VALUE_BYTES + b".localhost")


@given(st.binary(max_size=40))
def test_no_value_is_an_error(value: bytes) -> None:
    """Every value is allowed or refused, and never raises."""
    assert AllowedHosts((), MACHINE).permits(value) in (True, False)


@pytest.mark.parametrize(
    "host", ["http://a.example", "a.example:80", "a.example/", "*a.example", "a.*.example", "*.", "", " ", "a b", "bücher.example", "a..b", "[::1]", "a" * 64, "a." * 127 + "a"]
)  # fmt: skip
def test_entry_that_is_no_host_is_a_fault(tmp_path: Path, host: str) -> None:
    """An entry with a scheme, a port or another wildcard is reported at its place, with the cure."""
    text = f"[server]\nallowed_hosts = ['ok.example', '{host}']\n"
    cure = "write it like 'sidecar.example.org' or '*.example.org', without scheme and port, or '*' for any"

    assert lines(tmp_path, text) == [f"F: server.allowed_hosts[1]: {host[:60]!r} is not a host name; {cure}"]


def test_entries_are_host_names(tmp_path: Path) -> None:
    """Names, wildcards in front of a name, punycode and `*` are entries."""
    hosts = ("*", "*.example.org", "sidecar", "My_Host.lan.", "xn--bcher-kva.example", "10.0.0.1")

    assert loaded(tmp_path, f"[server]\nallowed_hosts = {list(hosts)}\n").server.allowed_hosts == hosts
