"""Selection of the proxy for a URL, and parsing of proxy URLs."""

from __future__ import annotations

import pytest

from sidecar.config.proxies import Proxy, environment_proxy, has_password, parse_proxy

A, B = "http://a:1", "http://b:2"
FAR, SECURE = "http://far.example/v1", "https://far.example/v1"


@pytest.mark.parametrize(
    ("url", "environ", "found"),
    [
        (FAR, {}, None),
        (FAR, {"HTTP_PROXY": A}, ("HTTP_PROXY", A)),
        (FAR, {"http_proxy": A, "HTTP_PROXY": B}, ("http_proxy", A)),
        (FAR, {"http_proxy": "", "HTTP_PROXY": B}, None),
        (FAR, {"HTTPS_PROXY": A}, None),
        (FAR, {"ALL_PROXY": A}, ("ALL_PROXY", A)),
        (FAR, {"HTTP_PROXY": A, "ALL_PROXY": B}, ("HTTP_PROXY", A)),
        (SECURE, {"HTTP_PROXY": A}, None),
        (SECURE, {"HTTPS_PROXY": f" {A} "}, ("HTTPS_PROXY", A)),
        (SECURE, {"https_proxy": A, "all_proxy": B}, ("https_proxy", A)),
        ("http://127.0.0.1:8000/v1", {"ALL_PROXY": A}, None),
        ("http://127.9.9.9/v1", {"ALL_PROXY": A}, None),
        ("http://[::1]:8000/v1", {"ALL_PROXY": A}, None),
        ("http://LocalHost:8000/v1", {"ALL_PROXY": A}, None),
        ("http://api.localhost./v1", {"ALL_PROXY": A}, None),
        ("http://localhost.example/v1", {"ALL_PROXY": A}, ("ALL_PROXY", A)),
        ("http://10.0.0.1/v1", {"ALL_PROXY": A}, ("ALL_PROXY", A)),
        ("http+unix:///run/x.sock/v1", {"ALL_PROXY": A}, None),
    ],
)
def test_variable_of_the_scheme_wins(url: str, environ: dict[str, str], found: tuple[str, str] | None) -> None:
    """The scheme's variable precedes ALL_PROXY, lower case precedes upper case; loopback uses no proxy."""
    assert environment_proxy(url, environ) == found


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("", FAR, True),
        ("*", FAR, False),
        ("other.example, *", FAR, False),
        ("far.example", FAR, False),
        ("FAR.example.", FAR, False),
        (".far.example", FAR, False),
        ("*.far.example", "http://api.far.example/", False),
        ("far.example", "http://api.far.example/", False),
        ("far.example", "http://notfar.example/", True),
        ("example", FAR, False),
        ("ample", FAR, True),
        (".", FAR, True),
        ("a.example b.example,far.example", FAR, False),
        ("far.example:80", FAR, False),
        ("far.example:443", FAR, True),
        ("far.example:443", SECURE, False),
        ("far.example:8080", "http://far.example:8080/", False),
        ("*:8080", "http://far.example:8080/", False),
        ("*:8080", FAR, True),
        ("10.0.0.1", "http://10.0.0.1/", False),
        ("10.0.0.1", "http://10.0.0.11/", True),
        ("10.0.0.1:80", "http://10.0.0.1/", False),
        ("10.0.0.0/8", "http://10.200.3.4/", False),
        ("10.0.0.7/8", "http://10.200.3.4/", False),
        ("10.0.0.0/8", "http://11.0.0.1/", True),
        ("10.0.0.0/8", FAR, True),
        ("10.0.0.0/99", "http://10.0.0.1/", True),
        ("10", "http://10.0.0.1/", True),
        ("0.0.1", "http://10.0.0.1/", True),
        ("fd00::1", "http://[fd00::1]/", False),
        ("fd00:0::1", "http://[fd00::1]/", False),
        ("[fd00::1]", "http://[fd00::1]/", False),
        ("[fd00::1]:80", "http://[fd00::1]/", False),
        ("fd00::/8", "http://[fd00::1]/", False),
        ("fd00::2", "http://[fd00::1]/", True),
    ],
)
def test_no_proxy_accepts_hosts_and_networks(no_proxy: str, url: str, *, proxied: bool) -> None:
    """NO_PROXY accepts hosts with subdomains, addresses, networks and `*`, each with an optional port."""
    for name in ("NO_PROXY", "no_proxy"):
        found = environment_proxy(url, {"ALL_PROXY": A, name: no_proxy})
        assert found == (("ALL_PROXY", A) if proxied else None)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://p.example:3128", Proxy("p.example", 3128)),
        ("p.example:3128", Proxy("p.example", 3128)),
        ("http://p.example/", Proxy("p.example", 80)),
        ("HTTPS://p.example", Proxy("p.example", 443, secure=True)),
        ("http://[::1]:1", Proxy("::1", 1)),
        ("http://u:p%40ss%3A@p:1", Proxy("p", 1, authorization="Basic dTpwQHNzOg==", password="p@ss:")),
        ("http://u@p:1", Proxy("p", 1, authorization="Basic dTo=")),
    ],
)
def test_proxy_url_has_host_port_and_credentials(url: str, proxy: Proxy) -> None:
    """The URL of a proxy gives its host, port and credentials, percent-decoded."""
    assert parse_proxy(url) == proxy
    assert has_password(url) == ("@" in url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("socks5://u:secret@p:1", "SOCKS"),
        ("socks5h://p:1", "SOCKS"),
        ("ftp://p:1", "not the URL"),
        ("http://", "not the URL"),
        ("http://p:99999", "not the URL"),
        ("http://[::1", "not the URL"),
        ("http://p:1/path", "path"),
        ("http://p:1?q", "path"),
    ],
)
def test_invalid_proxy_url_is_refused(url: str, problem: str) -> None:
    """An invalid proxy URL is refused with a cure, and the message shows no password."""
    with pytest.raises(ValueError, match=problem) as raised:
        parse_proxy(url)
    assert "; " in str(raised.value)
    assert "secret" not in str(raised.value)


def test_proxy_hides_its_password() -> None:
    """The representation of a proxy hides its password."""
    shown = repr(parse_proxy("http://user:secret@p:1"))
    assert "secret" not in shown
    assert "Basic" not in shown
