"""The address of a client, behind trusted proxies and without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import hello
from serving import settings_of, sidecar
from wire import upstream

from sidecar.config.tables import ConfigError
from sidecar.downstream.client_address import TrustedProxies

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
