"""Which requests web pages may send: by their host, `Origin` and `Sec-Fetch-Site`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checked_files import lines, loaded

from sidecar.downstream.client_errors import ClientError
from sidecar.server.allowed_hosts import AllowedHosts
from sidecar.server.request_origin import MAX_ORIGIN_BYTES, RequestOrigin

HOST = "127.0.0.1:8787"
PAGE = "https://app.example.org"
EVIL = "http://evil.example"
LISTED = (PAGE, "chrome-extension://abcdefghijklmnop", "vscode-webview://*", "file://", "app://obsidian.md")


def fault_of(
    origins: Sequence[str], *headers: tuple[str, str], method: str = "POST", version: str = "1.1", **more: Any
) -> ClientError | None:
    """Return the fault of one request with *headers* where pages of *origins* may call."""
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"method": method, "http_version": version, "headers": fields}
    permits_host = more.get("permits_host", AllowedHosts((), "box").permits)
    return RequestOrigin(permits_host, origins).fault(scope, dict(fields))


def code_of(
    origins: Sequence[str], origin: str | None, site: str | None, host: str = HOST, method: str = "POST"
) -> str:
    """Return the code of a refusal, empty for a request that is served."""
    headers = [("host", host)]
    headers += [("origin", origin)] if origin is not None else []
    headers += [("sec-fetch-site", site)] if site is not None else []
    fault = fault_of(origins, *headers, method=method)
    return "" if fault is None else fault.code


SAME = f"http://{HOST}"
SITES = (None, "same-origin", "none", "same-site", "cross-site", "something-new", "")
SERVED: dict[str | None, set[str | None]] = {
    None: {None, "same-origin", "none"},
    "": {None, "same-origin", "none"},
    SAME: {None, "same-origin", "none"},
    # The origin of the page, where a proxy in front has changed `Host`.
    EVIL: {"same-origin"},
    "null": {"same-origin"},
    PAGE: set(SITES),
    "chrome-extension://abcdefghijklmnop": set(SITES),
    "vscode-webview://1a2b": set(SITES),
    "file://": set(SITES),
    "app://obsidian.md": set(SITES),
    "chrome-extension://other": {"same-origin"},
    "https://app.example.org.evil.example": {"same-origin"},
    "http://app.example.org": {"same-origin"},
    "https://app.example.org:8443": {"same-origin"},
    "https://appxexample.org": {"same-origin"},
}
"""The values of `Sec-Fetch-Site` with which a request of each origin is served, where `LISTED` may call."""


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
@pytest.mark.parametrize("origin", SERVED, ids=str)
def test_pages_of_other_origins_are_refused(origin: str | None, method: str) -> None:
    """A request is served if its page has a listed origin or the sidecar's own, or if no page sent it."""
    served = {site for site in SITES if code_of(LISTED, origin, site, method=method) == ""}
    refused = {code_of(LISTED, origin, site, method=method) for site in SITES} - {""}

    assert served == SERVED[origin]
    assert refused <= {"cross_site"}


def test_star_permits_every_page() -> None:
    """With `*` every page may call, also without `Origin`."""
    assert {code_of(("*",), origin, site) for origin in SERVED for site in SITES} == {""}


def test_without_origins_no_other_page_may_call() -> None:
    """Without `cors_origins` only requests of the same origin, or of no page, are served."""
    assert {code_of((), PAGE, site) for site in SITES if site != "same-origin"} == {"cross_site"}
    assert code_of((), "", "cross-site") == "cross_site"


def test_preflights_are_left_to_the_routes() -> None:
    """OPTIONS makes no call: a preflight is answered, or is a wrong method, as before."""
    assert code_of((), EVIL, "cross-site", method="OPTIONS") == ""
    assert code_of((), EVIL, "cross-site", host="evil.example", method="OPTIONS") == "host_not_allowed"


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("app.localhost", "https://app.localhost", True),
        ("app.localhost", "http://app.localhost", True),
        ("app.localhost:443", "https://app.localhost", True),
        ("app.localhost:80", "http://app.localhost", True),
        ("App.LocalHost", "https://app.localhost", True),
        ("[::1]:8787", "http://[::1]:8787", True),
        ("localhost:8787", "http://127.0.0.1:8787", False),
        ("localhost:8787", "http://localhost:5173", False),
        ("localhost:443", "http://localhost", False),
        ("localhost", "app://localhost", False),
        ("localhost", "tauri://localhost", False),
        ("localhost", "localhost", False),
        ("localhost", "http://localhost/", False),
        ("localhost", "http://localhost.evil.example", False),
        ("localhost", "http://evil@localhost", False),
    ],
)
def test_own_origin_has_the_host_and_port(host: str, origin: str, *, same: bool) -> None:
    """Host and port decide; the scheme differs behind a proxy that ends TLS, and a missing port is the scheme's."""
    assert (code_of((), origin, None, host) == "") is same


def test_messages_name_the_setting() -> None:
    """Each refusal names the setting that permits it, and what is special about `null`."""
    messages = [fault.message for fault in (
        fault_of((), ("host", HOST), ("origin", EVIL)),
        fault_of((), ("host", HOST), ("origin", "null")),
        fault_of((), ("host", HOST), ("sec-fetch-site", "cross-site")),
        fault_of((), ("host", "evil.example")),
    ) if fault is not None]  # fmt: skip

    assert len(messages) == 4
    assert all("'cors_origins' in [server]" in each for each in messages[:3])
    assert "'http://evil.example'" in messages[0]
    assert "Only '*' there allows 'null'." in messages[1]
    assert "'allowed_hosts' in [server]" in messages[3]
    assert "'evil.example'" in messages[3]


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.1", (), 400),
        ("1.1", (HOST, HOST), 400),
        ("1.1", (HOST, "evil.example"), 400),
        ("1.1", ("",), 403),
        ("1.0", (), None),
        ("1.0", ("evil.example",), 403),
        ("1.0", (HOST, "evil.example"), 400),
        ("2", (), None),
    ],
)
def test_request_has_one_host(version: str, hosts: tuple[str, ...], status: int | None) -> None:
    """HTTP/1.1 needs one `Host` (RFC 9112, 3.2); HTTP/1.0 may have none."""
    fault = fault_of((), *(("host", host) for host in hosts), version=version)
    assert (None if fault is None else fault.status) == status
    unchecked = fault_of((), *(("host", host) for host in hosts), version=version, permits_host=None)
    assert (None if unchecked is None else unchecked.status) == (None if status == 403 else status)


def test_last_host_is_remembered_only_if_it_is_allowed() -> None:
    """One object serves many requests: what one of them had does not permit another one."""
    checked = RequestOrigin(AllowedHosts((), "box").permits, (PAGE,))

    def code(*headers: tuple[bytes, bytes]) -> str:
        scope = {"method": "GET", "http_version": "1.1", "headers": list(headers)}
        fault = checked.fault(scope, dict(headers))
        return "" if fault is None else fault.code

    local, evil = (b"host", b"localhost"), (b"host", b"evil.example")
    assert [code(local), code(evil), code(evil), code(local), code(local)] == [
        "",
        "host_not_allowed",
        "host_not_allowed",
        "",
        "",
    ]
    assert [code(evil, local), code(local, evil), code(local, local)] == ["invalid_request"] * 3
    assert [code(local, (b"cookie", b"a"), (b"cookie", b"b")), code()] == ["", "invalid_request"]
    assert [code(local, (b"origin", b"http://evil.example")), code(local)] == ["cross_site", ""]
    assert code(evil, (b"origin", PAGE.encode())) == "host_not_allowed"


def test_other_headers_change_nothing() -> None:
    """`X-Forwarded-Host`, `Forwarded` and `Referer` permit nothing: a page can add some of them, and proxies pass them on."""
    others = [(name, "localhost") for name in ("x-forwarded-host", "x-host", "x-original-host", "forwarded", "referer")]

    fault = fault_of((), ("host", "evil.example"), *others)
    assert fault is not None
    assert fault.code == "host_not_allowed"
    assert fault_of((), ("host", HOST), *((name, "evil.example") for name, _ in others)) is None


def test_long_origins_are_not_compared_with_patterns() -> None:
    """The work for one `Origin` is bounded."""
    patterns = ("https://*.a.*.b.*.example",)
    assert code_of(patterns, "https://" + "x.a.x.b." * 100_000 + "example", None) == "cross_site"
    assert code_of(patterns, "https://x.a.x.b.x.example", None) == ""
    assert code_of(("https://*",), "https://" + "a" * MAX_ORIGIN_BYTES, None) == "cross_site"


@pytest.mark.parametrize(
    "origin",
    ["null", "NULL", "file:///", "chrome-extension://", "https://a.example/", "https://a.example/x", "//a", "a"],
)
def test_entry_that_is_no_origin_is_a_fault(tmp_path: Path, origin: str) -> None:
    """`null` is refused with its reason, since every page can have it; so is what no client sends as an origin."""
    (line,) = lines(tmp_path, f"[server]\ncors_origins = ['{origin}']\n")

    assert line.startswith(f"F: server.cors_origins[0]: {origin!r} is not an origin; ")
    assert ("every sandboxed page has it" in line) is (origin == "null")


def test_origins_of_applications_are_entries(tmp_path: Path) -> None:
    """Origins of browser extensions and of applications with web views can be listed."""
    text = f"[server]\ncors_origins = {list(LISTED)}\n"

    assert loaded(tmp_path, text).server.cors_origins == LISTED
