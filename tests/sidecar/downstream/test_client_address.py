"""The address of a client, behind trusted proxies and without them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripts import hello
from serving import settings_of, sidecar
from wire import upstream

from sidecar.config.tables import ConfigError
from sidecar.downstream.client_address import MAX_FORWARDED_CHARACTERS, TrustedProxies

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "stream": True}
X_FORWARDED_FOR = "x-forwarded-for"


@pytest.mark.parametrize(
    ("networks", "kind", "peer", "headers", "client"),
    [
        ([], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "1.1.1.1")], "10.0.0.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "9.9.9.9", [(X_FORWARDED_FOR, "1.1.1.1")], "9.9.9.9"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [], "10.0.0.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "1.1.1.1")], "1.1.1.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "6.6.6.6, 1.1.1.1")], "1.1.1.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "6.6.6.6, 1.1.1.1, 10.0.0.2")], "1.1.1.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "6.6.6.6"), (X_FORWARDED_FOR, "1.1.1.1")], "1.1.1.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "1.1.1.1, nonsense")], "10.0.0.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [("forwarded", "for=6.6.6.6")], "10.0.0.1"),
        (["10.0.0.0/8"], X_FORWARDED_FOR, "10.0.0.1", [(X_FORWARDED_FOR, "1.1.1.1:4711")], "1.1.1.1"),
        (["::1"], X_FORWARDED_FOR, "::1", [(X_FORWARDED_FOR, "2001:db8::5")], "2001:db8::5"),
        (["::1"], X_FORWARDED_FOR, "::1", [(X_FORWARDED_FOR, "[2001:db8::5]:443")], "2001:db8::5"),
        (["127.0.0.1"], X_FORWARDED_FOR, "::ffff:127.0.0.1", [(X_FORWARDED_FOR, "1.1.1.1")], "1.1.1.1"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [("forwarded", 'for=1.1.1.1;proto=http, for="[2001:db8::5]:1";by=x')], "2001:db8::5"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [("forwarded", "proto=http;For=1.1.1.1")], "1.1.1.1"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [("forwarded", "for=unknown")], "10.0.0.1"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [(X_FORWARDED_FOR, "6.6.6.6")], "10.0.0.1"),
    ],
)  # fmt: skip
def test_client_is_the_last_untrusted_address(
    networks: list[str], kind: str, peer: str, headers: list[tuple[str, str]], client: str
) -> None:
    """The client is the last address that is not a trusted proxy, read from the configured header only."""
    scope = {"client": (peer, 1), "headers": [(name.encode(), value.encode()) for name, value in headers]}

    assert TrustedProxies(networks, kind).client(scope) == client


TRUSTED = "10.0.0.0/8"
FORWARDED_CASES = {
    "a quoted address with port": ('for="[2001:db8::1]:4711"', "2001:db8::1"),
    "a quoted address of version 4": ('for="1.1.1.1:80"', "1.1.1.1"),
    "an obfuscated port": ('for="1.1.1.1:_a.b"', "1.1.1.1"),
    "a port without quotes, which proxies send": ("for=1.1.1.1:80", "1.1.1.1"),
    "an escape": (r'for="1\.1.1.1"', "1.1.1.1"),
    "one spelling of an address": ('for="[2001:DB8:0::1]"', "2001:db8::1"),
    "an address of version 4 in version 6": ('for="[::ffff:1.1.1.1]"', "1.1.1.1"),
    "a comma in quotes": ('for=1.1.1.1;host="a, for=6.6.6.6"', "1.1.1.1"),
    "a semicolon in quotes": ('for=1.1.1.1;host="a;for=6.6.6.6"', "1.1.1.1"),
    "an escaped quote": (r'for=1.1.1.1;host="a\", for=6.6.6.6"', "1.1.1.1"),
    "an escaped backslash at the end of quotes": (r'host="a\\";for=1.1.1.1', "1.1.1.1"),
    "the case of names": ("FoR=1.1.1.1;PROTO=http", "1.1.1.1"),
    "white space": ("  for = 1.1.1.1 ; proto=http  ", "1.1.1.1"),
    "empty elements and pairs": (", ,for=1.1.1.1;;, ,", "1.1.1.1"),
    "further trusted hops": ('for=1.1.1.1, for=10.0.0.3, for="10.0.0.2:80"', "1.1.1.1"),
    "a quote that the client never closed": ('for="6.6.6.6, for=1.1.1.1', "1.1.1.1"),
    "a quote of the client that swallows one of the proxy": ('for="x, for="[2001:db8::1]"', "2001:db8::1"),
    "an unknown client": ("for=6.6.6.6, for=unknown", "10.0.0.1"),
    "an unknown client behind a trusted hop": ("for=6.6.6.6, for=unknown, for=10.0.0.2", "10.0.0.2"),
    "an obfuscated client": ('for=6.6.6.6, for="_hidden:80"', "10.0.0.1"),
    "a hop without an address": ("for=6.6.6.6, proto=http;by=1.1.1.1", "10.0.0.1"),
    "a parameter twice": ("for=6.6.6.6, for=1.1.1.1;FOR=6.6.6.6", "10.0.0.1"),
    "another parameter twice": ("for=1.1.1.1;proto=http;proto=https", "10.0.0.1"),
    "no value": ("for=6.6.6.6, for=", "10.0.0.1"),
    "no name": ("for=6.6.6.6, 1.1.1.1", "10.0.0.1"),
    "text behind quotes": ('for="1.1.1.1"x', "10.0.0.1"),
    "an escaped closing quote": (r'for="1.1.1.1\"', "10.0.0.1"),
    "an address without brackets, whose port is not clear": ("for=2001:db8::1:80", "10.0.0.1"),
    "brackets around version 4": ('for="[1.1.1.1]"', "10.0.0.1"),
    "a zone": ('for="[fe80::1%eth0]"', "10.0.0.1"),
    "a port of six digits": ('for="1.1.1.1:123456"', "10.0.0.1"),
    "other spellings of an address": ("for=0x01010101", "10.0.0.1"),
    "an empty header": ("", "10.0.0.1"),
}
"""What a `Forwarded` header says by the grammar of RFC 7239, behind the trusted proxy 10.0.0.1."""


def client_of(header: str, *values: str) -> str:
    """Return the client of a request with these *values* of *header*, from the trusted proxy 10.0.0.1."""
    headers = [(header.encode(), value.encode("latin-1")) for value in values]
    return TrustedProxies([TRUSTED], header).client({"client": ("10.0.0.1", 1), "headers": headers})


@pytest.mark.parametrize(("value", "client"), FORWARDED_CASES.values(), ids=FORWARDED_CASES)
def test_forwarded_is_read_by_its_grammar(value: str, client: str) -> None:
    """`Forwarded` is read by RFC 7239; for a hop without a valid address the nearest trusted one counts."""
    assert client_of("forwarded", value) == client


@given(
    invented=st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")), max_size=3),
    own_field=st.booleans(),
    hop=st.sampled_from(["for=1.1.1.1", 'for="1.1.1.1:80"', r'proto=http;for=1.1.1.1;host="a\"b\\"']),
)
@example(invented=['for="6.6.6.6'], own_field=False, hop="for=1.1.1.1")
@example(invented=["for=6.6.6.6;"], own_field=True, hop="for=1.1.1.1")
def test_what_a_client_invents_has_no_effect(invented: list[str], own_field: bool, hop: str) -> None:  # noqa: FBT001
    """Whatever a client sends as `Forwarded`, the hop that the proxy appends counts: as a field of its own or behind a comma."""
    values = [*invented, hop] if own_field or not invented else [*invented[:-1], f"{invented[-1]}, {hop}"]

    assert client_of("forwarded", *values) == "1.1.1.1"


@given(st.lists(st.text(st.sampled_from('for="\\,; =1.[]:_ab')), max_size=4))
def test_no_value_breaks_the_search(values: list[str]) -> None:
    """Every value of either header gives an address."""
    for header in ("forwarded", X_FORWARDED_FOR):
        assert ip_address(client_of(header, *values)).version in (4, 6)


@pytest.mark.parametrize("junk", ['"', '\\"', '"\\', ",", ";", " ;", '="', 'a="', "a", "a=b;", "for=10.0.0.2,"])
def test_only_the_end_of_a_long_header_is_read(junk: str) -> None:
    """Bounded work: of a long `Forwarded` only the end is read, and what is cut off there is no hop."""
    long = junk * 500_000

    assert client_of("forwarded", long) in ("10.0.0.1", "10.0.0.2")
    assert client_of("forwarded", long, "for=1.1.1.1") == "1.1.1.1"
    assert client_of("forwarded", f"x=6;for=6.6.6.6;y={'y' * (MAX_FORWARDED_CHARACTERS - 14)}") == "10.0.0.1"


def test_zone_of_an_address_is_dropped() -> None:
    """A zone gives a client no second identity: it has no meaning on another machine."""
    assert client_of(X_FORWARDED_FOR, f"fe80::1%{'x' * 1000}") == "fe80::1"


def test_address_has_one_spelling() -> None:
    """An address counts as one client in all of its spellings."""
    spellings = ("2001:DB8::5", "2001:db8:0:0::5", "[2001:db8::5]:80")

    assert {client_of(X_FORWARDED_FOR, each) for each in spellings} == {"2001:db8::5"}
    assert client_of(X_FORWARDED_FOR, "::ffff:1.1.1.1") == "1.1.1.1"


async def test_invented_address_gets_no_limit_of_its_own(tmp_path: Path) -> None:
    """A client that invents addresses gets no further limits, without and with a trusted proxy."""
    rate = '[[policy]]\nuse = "rate"\nrequests = 2\nby = "ip"\n'
    for trusted, passed in (("", 2), ('[server]\ntrusted_proxies = ["127.0.0.1"]\n', 2)):
        async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, trusted + rate)) as served:
            statuses = [
                (await served.post(V1, HI, f"x-forwarded-for: 6.6.6.{at}, 1.1.1.1", f"forwarded: for=7.7.7.{at}"))[0]
                for at in range(6)
            ]
            assert (statuses.count(200), len(up.requests)) == (passed, passed)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\ntrusted_proxies = ['10.0.0.0/99']", "server.trusted_proxies[0]: '10.0.0.0/99' is not an IP network; write an address like '10.0.0.7' or a network like '10.0.0.0/8'"),
        ("[server]\nproxy_header = 'x-real-ip'", "server.proxy_header: invalid value 'x-real-ip': expected one of x-forwarded-for, forwarded; omit proxy_header for the default 'x-forwarded-for'"),
    ],
)  # fmt: skip
def test_fault_of_a_proxy_setting_names_its_place(tmp_path: Path, text: str, line: str) -> None:
    """An invalid network or header is reported at its place, with the cure."""
    with pytest.raises(ConfigError) as found:
        settings_of(tmp_path, "http://h/v1", text)
    assert [fault.line("F").removeprefix("F: ") for fault in found.value.faults] == [line]
